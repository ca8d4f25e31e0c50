"""A small release to serve from, and a client that speaks ASGI to a service in this process."""

import asyncio
import atexit
import inspect
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest

# prometheus_client looks at it once, when it is imported
_metrics = tempfile.mkdtemp(prefix="segue-metrics-")
atexit.register(shutil.rmtree, _metrics, ignore_errors=True)
os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", _metrics)

from segue.catalog import Catalog, Id, ids_of  # noqa: E402
from segue.picking.arm import LISTS, Arm  # noqa: E402
from segue.runs.recommendations import Recommendations  # noqa: E402
from segue.runs.session_vectors import SessionVectors  # noqa: E402
from segue.serving.release import Release, ReleaseContents  # noqa: E402
from tests.conftest import make_catalog  # noqa: E402

START_MS = 1_700_000_000_000


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine, on the loop that its module asks for."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    given = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    with asyncio.Runner(loop_factory=getattr(pyfuncitem.module, "LOOP", None)) as runner:
        runner.run(pyfuncitem.obj(**given))
    return True


def arm(policy: str = "lists", pick: str = "uniform", artist_gap: int = 0, **session: Any) -> Arm:
    name = "r.jsonl" if policy in LISTS or ":" in policy else policy
    return Arm(recommender=name, policy=policy, pick=pick, artist_gap=artist_gap, **session)


def lists_of(rows: Iterable[Iterable[int]], scores: Any = None) -> Recommendations:
    """Lists in rows; shorter ones are filled up."""
    given = [list(row) for row in rows]
    width = max(1, *map(len, given))
    filled = np.array([row + [-1] * (width - len(row)) for row in given], np.int64).reshape(len(given), width)
    blank = np.full(filled.shape, np.nan, np.float32)
    return Recommendations(rows=filled, scores=blank if scores is None else np.array(scores, np.float32))


def lists_of_users(rows: Mapping[int, Iterable[int]]) -> Recommendations:
    """Lists in rows, by the id of the user."""
    users = sorted(rows)
    return replace(lists_of(rows[user] for user in users), users=np.array(users, np.int64))


def make_release(
    folder: Path,
    *,
    catalog: Catalog,
    arms: Mapping[str, Arm],
    lists: Mapping[str, Recommendations] | None = None,
    vectors: Mapping[str, SessionVectors] | None = None,
    top_tracks: Iterable[int] = (),
    experiment: str = "TEST",
) -> Release:
    folder.mkdir(parents=True, exist_ok=True)
    contents = ReleaseContents(
        experiment=experiment,
        arms=arms,
        catalog=catalog,
        top_tracks=np.array(list(top_tracks), np.int64),
        lists=lists or {},
        vectors=dict(vectors or {}),
    )
    contents.write(folder, provenance={})
    return Release(folder)


def writer(title: str = "one", num_tracks: int = 4, artists: Iterable[int] = ()) -> Callable[[Path], Release]:
    """Writes a release whose contents `title` decides."""
    catalog = make_catalog([*artists] or [0] * num_tracks)

    def write(folder: Path) -> Release:
        return make_release(folder, catalog=catalog, arms={"C": arm("random")}, experiment=title)

    return write


@pytest.fixture
def ring(tmp_path: Path) -> Release:
    """Tracks 100 to 105 of artists 0, 0, 0, 1, 1, 2; the two after each on a ring, but 104 and 105 have no list."""
    return make_release(
        tmp_path / "ring",
        catalog=make_catalog([0, 0, 0, 1, 1, 2]),
        arms={"C": arm(), "T1": arm(pick="ranked")},
        lists={name: lists_of([[1, 2], [2, 3], [3, 4], [4, 5], [], []]) for name in ("C", "T1")},
        top_tracks=[3, 0],
    )


TEXTS = ["1", "a", "A", "\u00e9", "e\u0301", "=1+1", "<script>alert(1)</script>", "a/b?c#%2F", "\u00e9" * 128]
"""Ids that are texts: a whole number, some that differ in case or in Unicode's forms, and what may break a page."""


def text_catalog(ids: Iterable[Id] = TEXTS) -> Catalog:
    """Tracks of one artist each."""
    names = list(ids)
    return replace(make_catalog(range(len(names))), track_ids=ids_of(names))


@pytest.fixture
def text_ring(tmp_path: Path) -> Release:
    """The tracks of `TEXTS`; the two after each on a ring."""
    num = len(TEXTS)
    lists = lists_of([(row + 1) % num, (row + 2) % num] for row in range(num))
    return make_release(
        tmp_path / "texts", catalog=text_catalog(), arms={"C": arm(pick="ranked")}, lists={"C": lists}, top_tracks=[3]
    )


@dataclass(frozen=True)
class Answer:
    """The answer to a request."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


async def ask(
    app: Any,
    method: str,
    path: str,
    body: bytes | Iterable[bytes] = b"",
    *,
    headers: Mapping[str, str] | None = None,
    client: tuple[str, int] | None = ("127.0.0.1", 4711),
    stalls: bool = False,
) -> Answer:
    """Send one request to an ASGI application.

    Args:
        app: the application.
        method: of the request.
        path: as it was sent.
        body: the whole or its pieces.
        headers: of the request.
        client: address it comes from.
        stalls: whether the last piece never comes.
    """
    pieces = [body] if isinstance(body, bytes) else list(body)
    waiting = iter(
        {"type": "http.request", "body": piece, "more_body": stalls or number < len(pieces) - 1}
        for number, piece in enumerate(pieces)
    )
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        message = next(waiting, None)
        if message is None:
            await asyncio.Event().wait()
        assert message is not None
        return message

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode("utf-8", "replace"),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()],
        "client": client,
        "server": ("127.0.0.1", 5001),
    }
    await app(scope, receive, send)
    assert [message["type"] for message in sent[:1]] == ["http.response.start"], "one answer, which starts once"
    assert all(message["type"] == "http.response.body" for message in sent[1:])
    found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Answer(sent[0]["status"], found, b"".join(message.get("body", b"") for message in sent[1:]))
