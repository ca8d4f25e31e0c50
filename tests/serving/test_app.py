"""The ASGI application: answers and lines as the predecessor's, and every refusal."""

import asyncio
import contextlib
import errno
import json
import logging
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.assignment import salt_of, treatment
from segue.catalog import key_of
from segue.picking.session_query import SessionQuery
from segue.runs.session_vectors import OrderPart
from segue.serving import log_writer
from segue.serving.app import Message, ServiceApp
from segue.serving.ids import id_in_path
from segue.serving.log_writer import EventLogWriter, now_ms
from segue.serving.prometheus_metrics import Metrics
from segue.serving.recommender import Recommender
from segue.serving.release import Release
from segue.serving.release_store import FolderStore
from segue.serving.session_memory import MappedSessions, Noted
from segue.serving.settings import LimitSettings, LogSettings, ProfileSettings, SessionSettings
from segue.serving.state import State, follow_store
from segue.serving.worker_table import WorkerTable
from tests.conftest import make_catalog, make_order, make_vectors
from tests.e2e.running import PATIENCE_S, until
from tests.serving.conftest import TEXTS, Answer, arm, ask, lists_of, make_release, text_catalog, writer

KEYS = ("with_fallback", "with_propensity")
LIMITS = ("max_body_bytes", "body_timeout_s", "requests_per_second", "burst")
BODY = b'{"track": 100, "time": 0.5}'


@dataclass
class Running:
    """A service that has started."""

    service: ServiceApp
    folder: Path

    async def ask(self, method: str, path: str, body: Any = b"", **more: Any) -> Answer:
        return await ask(self.service, method, path, body, **more)

    def lines(self) -> list[bytes]:
        return (self.folder / "log" / "data.json").read_bytes().splitlines(keepends=True)

    def user_of(self, name: str) -> int:
        """A user of an arm."""
        return next(user for user in range(1000) if self.service.state.recommender.arm_of(user) == name)


@asynccontextmanager
async def running(release: Release, folder: Path, **changes: Any) -> AsyncIterator[Running]:
    """A service between its start and its stop."""
    logged = LogSettings(fsync="never", backups=1, **{key: changes.pop(key) for key in KEYS if key in changes})
    log = EventLogWriter(folder / "log", logged)
    limits = {key: changes.pop(key) for key in LIMITS if key in changes}
    profiles = changes.pop("profiles", None)
    of_state: dict[str, Any] = changes.pop("of_state", {})
    if not of_state:
        sessions = MappedSessions(folder / "sessions.bin", SessionSettings(capacity=64, max_tracks=8, idle_s=60))
        of_state = {"sessions": sessions, "last_plays": sessions}
    of_state.setdefault("remember", ProfileSettings() if profiles is None else profiles.settings)
    state = State(
        recommender=Recommender(release, np.random.default_rng(0), changes.pop("policies", ())),
        log=log,
        workers=WorkerTable(2, reset_after_s=30),
        profiles=profiles,
        **of_state,
    )
    given: dict[str, Any] = {
        "limits": LimitSettings(**{"body_timeout_s": PATIENCE_S} | limits),
        "logged": logged,
        "token": None,
    }
    upkeep = asyncio.ensure_future(log.run())
    try:
        yield Running(ServiceApp(state, Metrics(), **(given | changes)), folder)
    finally:
        upkeep.cancel()
        with contextlib.suppress(OSError):  # a test has closed it
            await log.close()


def drive(release: Release, folder: Path, work: Callable[[Running], Awaitable[None]], **changes: Any) -> Running:
    """Start, let `work` ask, stop."""

    async def run() -> Running:
        async with running(release, folder, **changes) as service:
            await work(service)
        return service

    return asyncio.run(run())


@pytest.mark.parametrize("with_propensity", [False, True])
async def test_answers_are_byte_for_byte_the_predecessors_and_lines_have_two_more_keys_at_the_end(
    ring: Release, tmp_path: Path, with_propensity: bool
) -> None:
    users: list[int] = []

    async with running(ring, tmp_path, with_propensity=with_propensity) as service:
        users.append(user := service.user_of("T1"))
        for call, body, rest in (("next", BODY, b', "track": 101}'), ("last", b'{"time": 1, "track": 101}', b"}")):
            answer = await service.ask("POST", f"/{call}/{user}", body)
            assert (answer.status, answer.body) == (200, b'{"user": %d' % user + rest)
            assert answer.headers == {"content-type": "application/json", "content-length": str(len(answer.body))}
            assert len(service.lines()) == 1 + (call == "last"), "the line is there before the answer"
    first, last = service.lines()
    head = rf'"timestamp": 1\d{{12}}, "user": {users[0]}'
    tail = r'"latency": 0\.\d{9}'
    following = rf'{{"message": "next", {head}, "track": 100, "time": 0\.5, {tail}, "recommendation": 101, '
    ended = rf'{{"message": "last", {head}, "track": 101, "time": 1\.0, {tail}, "recommendation": null, '
    keys = rf', "propensity": 1\.0, "release": "{ring.version}"' if with_propensity else ""
    assert re.fullmatch(following + rf'"experiments": {{"TEST": "T1"}}{keys}}}\n', first.decode())
    assert re.fullmatch(ended + r'"experiments": {"TEST": "T1"}}\n', last.decode())


async def test_a_line_is_read_like_one_of_the_real_log(ring: Release, tmp_path: Path, real_data: Path) -> None:
    async with running(ring, tmp_path, with_propensity=False) as service:
        await service.ask("POST", "/next/1", BODY)
    ours = json.loads(service.lines()[0])
    with (real_data / "botify-2023" / "logs" / "replica-1" / "data.json").open() as file:
        theirs = json.loads(file.readline())
    assert list(ours) == list(theirs)
    assert [type(value) for value in ours.values()] == [type(value) for value in theirs.values()]


@pytest.mark.parametrize("name", ["КОНВЕКС", 'say "hi"\n', "a\\b"])
async def test_any_name_of_an_experiment_makes_a_valid_line(tmp_path: Path, name: str) -> None:
    release = make_release(
        tmp_path / "release", catalog=make_catalog([0, 0]), arms={"C": arm("random")}, experiment=name
    )

    async with running(release, tmp_path) as service:
        await service.ask("POST", "/next/1", BODY)
        assert (await service.ask("GET", "/experiments")).json()["experiment"] == name
    (line,) = service.lines()
    assert json.loads(line)["experiments"] == {name: "C"}


@pytest.mark.parametrize("with_fallback", [False, True])
async def test_a_fallback_is_counted_and_logged_with_with_fallback(
    ring: Release, tmp_path: Path, with_fallback: bool
) -> None:
    sample = re.compile(r'^segue_fallbacks_total{arm="T1",source="artist"} (\d+)', re.M)

    async def count(service: Running) -> int:
        found = sample.search((await service.ask("GET", "/metrics")).body.decode())
        return int(found.group(1)) if found else 0

    async with running(ring, tmp_path, with_fallback=with_fallback) as service:
        before, user = await count(service), service.user_of("T1")
        assert (await service.ask("POST", f"/next/{user}", BODY)).status == 200
        answer = await service.ask("POST", f"/next/{user}", b'{"track": 104, "time": 0.5}')
        assert answer.json() == {"user": user, "track": 103}
        assert await count(service) == before + 1
        assert (await service.ask("POST", f"/last/{user}", BODY)).status == 200
    lines = [json.loads(line) for line in service.lines()]
    keys = ["message", "timestamp", "user", "track", "time", "latency", "recommendation", "experiments"]
    added = {"next": ["propensity", "release"], "last": []}
    for line in lines:
        assert list(line) == [*keys, *added[line["message"]], *["fallback"] * with_fallback]
    if with_fallback:
        assert [line["fallback"] for line in lines] == [None, "artist", None]


async def test_a_track_is_not_repeated_in_a_session(ring: Release, tmp_path: Path) -> None:
    async with running(ring, tmp_path) as service:
        user = service.user_of("T1")

        async def following(track: int) -> int:
            answer = await service.ask("POST", f"/next/{user}", json.dumps({"track": track, "time": 1.0}).encode())
            return int(answer.json()["track"])

        assert [await following(track) for track in (100, 101, 102, 100)] == [101, 102, 103, 103]
        assert (await service.ask("POST", f"/last/{user}", BODY)).status == 200
        assert await following(100) == 101


INVALID: list[tuple[str, str, bytes, int, str]] = [
    ("POST", "/next/1", b"", 400, "the body: Invalid JSON"),
    ("POST", "/next/1", b"\xff\xfe", 400, "Invalid JSON"),
    ("POST", "/next/1", b'"\\ud800"', 400, "the body: "),
    ("POST", "/next/1", b"[" * 4000, 400, "Invalid JSON"),
    ("POST", "/next/1", b'{"track": 100}', 400, 'time: Field required; expected {"track": id, "time": share'),
    ("POST", "/next/1", b'{"track": "", "time": 0.5}', 400, "track must have 1 to 256 bytes, and has 0; "),
    ("POST", "/next/1", b'{"track": "0100", "time": 0.5}', 404, 'track "0100" is not in'),
    ("POST", "/next/1", '{"track": "١٠٠", "time": 0.5}'.encode(), 404, 'track "١٠٠" is not in'),
    ("POST", "/next/1", b'{"track": "' + b"9" * 19 + b'", "time": 0.5}', 404, f'track "{"9" * 19}" is not in'),
    ("POST", "/next/1", b'{"track": "' + b"9" * 257 + b'", "time": 0.5}', 400, "1 to 256 bytes, and has 257"),
    ("POST", "/next/1", b'{"track": "a\\u0000b", "time": 0.5}', 400, "track has a NUL; expected"),
    ("POST", "/next/1", b'{"track": "\\ud800", "time": 0.5}', 400, "the body: Invalid JSON"),
    ("POST", "/next/1", b'{"track": "<script>", "time": 0.5}', 404, 'track "<script>" is not in the catalogue'),
    ("POST", "/next/1", b'{"track": 1e30, "time": 0.5}', 400, "track must be a whole number from 0 to 2⁶³-1"),
    ("POST", "/next/1", b'{"track": null, "time": 0.5}', 400, "track must be a whole number or a text; expected"),
    ("POST", "/next/1", b'{"track": true, "time": 0.5}', 400, "track must be a whole number or a text; expected"),
    ("POST", "/next/1", b'{"track": 9223372036854775808, "time": 0.5}', 400, "track must be a whole number from 0"),
    ("POST", "/next/1", b'{"track": 100, "time": NaN}', 400, "time: "),
    ("POST", "/next/1", b'{"track": 100, "time": 1.01}', 400, "time: Input should be less than or equal to 1"),
    ("POST", "/next/1", b'{"track": 100, "time": -0.01}', 400, "time: Input should be greater than or equal to 0"),
    ("POST", "/next/1", b'{"track": 99, "time": 0.5}', 404, "track 99 is not in the catalogue of 6 tracks"),
    ("POST", "/next/1", b'{"track": -9223372036854775807, "time": 0.5}', 400, "track must be a whole number from"),
    ("POST", "/next/", BODY, 404, "/next/<user>: user must have 1 to 256 bytes, and has 0"),
    ("POST", "/next/1/2", BODY, 404, "/next/<user>: user has a /, which must be written as %2F"),
    ("POST", "/next/%00", BODY, 404, "/next/<user>: user has a NUL"),
    ("POST", "/next/%FF", BODY, 404, "/next/<user>: user must be UTF-8 when it is percent-decoded"),
    ("POST", "/next/%ED%A0%80", BODY, 404, "/next/<user>: user must be UTF-8 when it is percent-decoded"),
    ("POST", "/last/" + "%C3%A9" * 129, BODY, 404, "/last/<user>: user must have 1 to 256 bytes, and has 258"),
    ("POST", "/n%65xt/1", BODY, 404, "Not Found"),
    ("GET", "/next/1", b"", 405, "/next accepts POST only"),
    ("HEAD", "/next/1", b"", 405, "/next accepts POST only"),
    ("POST", "/next/1", b" " * 4097, 413, "a body must not be larger than 4096 bytes"),
    ("GET", "/next", b"", 404, "Not Found"),
    ("GET", "/../../etc/passwd", b"", 404, "Not Found"),
    ("POST", "/health", b"", 405, "Method Not Allowed"),
    ("GET", "/track/99", b"", 404, "track 99 is not in the catalogue of 6 tracks"),
    ("GET", "/track/a%2F%22b", b"", 404, r'track "a/\"b" is not in the catalogue of 6 tracks'),
    ("GET", "/track/0100", b"", 404, 'track "0100" is not in the catalogue of 6 tracks'),
    ("GET", "/track/" + "9" * 5000, b"", 404, "path.track must have 1 to 256 bytes, and has 5000"),
    ("GET", "/track/%00", b"", 404, "path.track has a NUL"),
    ("GET", "/explain/%FF", b"", 404, "path.user must be UTF-8 when it is percent-decoded"),
]
"""Requests, the status of their answers, and words of the reason."""


async def test_an_invalid_request_gets_a_reason_and_no_line(ring: Release, tmp_path: Path) -> None:
    async with running(ring, tmp_path) as service:
        for method, path, body, status, reason in INVALID:
            answer = await service.ask(method, path, body)
            is_event = path.startswith(("/next/", "/last/"))
            assert (answer.status, answer.headers["content-type"]) == (status, "application/json"), (path, body)
            assert int(answer.headers["content-length"]) == len(answer.body)
            assert list(answer.json()) == ["reason"]
            assert reason in answer.json()["reason"]
            assert status != 405 or answer.headers["allow"] == ("POST" if is_event else "GET, HEAD")
    assert service.lines() == []


VALID = [
    b'{"track": 100, "time": 0}',
    b'{"track": 100, "time": 1}',
    b' {"time": 1e-7, "track": 100, "more": [null]} ',
    b'{"track": 100, "time": 0.1234567890123}',
    b'{"track": 99, "track": 100, "time": -0.0}',
    b'{"track": "100", "time": 0.5}',
    b'{"track": 100.0, "time": 0.5}',
    b'{"track": 1e2, "time": 0.5}',
]


@pytest.mark.parametrize(
    ("part", "user"),
    [
        ("0", 0),
        ("%37", 7),
        (str(2**63 - 1), 2**63 - 1),
        (str(2**63), str(2**63)),
        ("007", "007"),
        ("-1", "-1"),
        ("²", "²"),
        ("%C3%A9%2Fe%CC%81", "é/e\u0301"),
        ("..%2F..", "../.."),
        ("a+b%20%22%0A%7F%E2%80%A8<script>", 'a+b "\n\x7f\u2028<script>'),
        ("x" * 256, "x" * 256),
    ],
)
def test_a_valid_request_makes_a_valid_line(ring: Release, tmp_path: Path, part: str, user: int | str) -> None:
    async def work(service: Running) -> None:
        for body in VALID:
            answer = await service.ask("POST", f"/next/{part}", body)
            assert (answer.status, answer.json()["user"]) == (200, user)

    for line, body in zip(map(json.loads, drive(ring, tmp_path, work).lines()), VALID, strict=True):
        assert (line["user"], line["track"], line["time"]) == (user, 100, json.loads(body)["time"])
        assert isinstance(line["time"], float)


async def test_ids_that_are_texts_are_in_every_answer_and_line(text_ring: Release, tmp_path: Path) -> None:
    """A track that is named by a number is the one whose text it is; ids that look alike are different tracks."""

    async with running(text_ring, tmp_path) as service:
        for row, track in enumerate(TEXTS):
            following = [TEXTS[(row + step) % len(TEXTS)] for step in (1, 2)]
            for named in {track, 1 if track == "1" else track}:
                body = json.dumps({"track": named, "time": 1}).encode()
                answer = await service.ask("POST", f"/next/{row}", body)
                assert (answer.status, answer.json()) == (200, {"user": row, "track": following[0]})
                assert (await service.ask("POST", f"/last/{row}", body)).body == b'{"user": %d}' % row
            record = {"artist": f"Artist {row}", "title": f"Title {row}", "track": track}
            found = await service.ask("GET", f"/track/{quote(track, safe='')}")
            assert found.json() == {**record, "recommendations": following}
            found = await service.ask("GET", f"/recommendations/{quote(track, safe='')}")
            assert [one["track"] for one in found.json()["recommendations"]["C"]] == following
        for track in ("B", "b", "=1", "1+1", "01", "E\u0301"):
            for method, path in (("GET", f"/track/{quote(track)}"), ("POST", "/next/1")):
                answer = await service.ask(method, path, json.dumps({"track": track, "time": 1}).encode())
                named = json.dumps(track, ensure_ascii=False)
                assert answer.status == 404
                assert answer.json() == {"reason": f"track {named} is not in the catalogue of {len(TEXTS)} tracks"}
    lines = [json.loads(line) for line in service.lines()]
    assert list(dict.fromkeys(line["track"] for line in lines)) == TEXTS
    assert {line["recommendation"] for line in lines} == {*TEXTS, None}


def test_each_user_has_a_session_and_the_arm_of_the_text(tmp_path: Path) -> None:
    """Users whose ids differ in case, in their form in Unicode or after a slash are different."""
    lists = lists_of([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])
    release = make_release(
        tmp_path / "release",
        catalog=text_catalog(TEXTS[:4]),
        arms={name: arm(pick="ranked") for name in ("C", "T1")},
        lists={"C": lists, "T1": lists},
    )
    users = [*TEXTS[1:], "a/b", "7", "007", "..", "\u2028", "=cmd|' /C calc'!A0"]

    async def work(service: Running) -> None:
        for step in (1, 2):
            for user in users:
                body = json.dumps({"track": "1" if step == 1 else "a", "time": 1}).encode()
                answer = await service.ask("POST", f"/next/{quote(user, safe='')}", body)
                assert answer.json() == {"user": 7 if user == "7" else user, "track": TEXTS[step]}

    for line in map(json.loads, drive(release, tmp_path, work).lines()):
        number = treatment(line["user"], salt=salt_of("TEST"), num_arms=2)
        assert line["experiments"] == {"TEST": ("C", "T1")[number]}


async def test_an_explanation_has_the_ids_of_the_session(tmp_path: Path) -> None:
    """A track of another release, whose id the present one does not know, has none."""
    release = make_release(
        tmp_path / "release",
        catalog=text_catalog(TEXTS[:5]),
        arms={"C": arm(pick="ranked", context="session", num_lists=2)},
        lists={"C": lists_of([[1, 2, 3], [2, 3, 4], [3, 4, 0], [4, 0, 1], [0, 1, 2]])},
        vectors={"C": make_vectors(5)},
    )

    async with running(release, tmp_path) as service:
        await service.service.state.sessions.play(key_of("a/b"), key_of("gone"), 1.0, now_ms())
        for track in TEXTS[:2]:
            answered = await service.ask("POST", "/next/a%2Fb", json.dumps({"track": track, "time": 1}).encode())
        found = (await service.ask("GET", "/explain/a%2Fb")).json()
        assert (found["user"], found["recommended"]["track"]) == ("a/b", answered.json()["track"])
        assert [one["track"] for one in found["session"]] == ["a", "1", None]
        answer = await service.ask("GET", "/explain/<script>")
        assert answer.json() == {"reason": 'user "<script>" has no session with an answer to explain'}


async def test_a_body_may_come_in_pieces(ring: Release, tmp_path: Path) -> None:
    async with running(ring, tmp_path) as service:
        assert (await service.ask("POST", "/next/1", [BODY[:5], b"", BODY[5:], b""])).status == 200
        assert (await service.ask("POST", "/next/1", [b" " * 3000, b" " * 3000])).status == 413


@pytest.mark.timing
async def test_a_large_body_is_refused_before_it_is_read(ring: Release, tmp_path: Path) -> None:
    async with running(ring, tmp_path) as service:
        async with asyncio.timeout(PATIENCE_S):
            answer = await service.ask("POST", "/next/1", [], headers={"content-length": "4097"})
        assert answer.status == 413
        assert (await service.ask("POST", "/next/1", BODY, headers={"content-length": str(len(BODY))})).status == 200


@pytest.mark.parametrize("length", ["many", "", "-1", "1e3", "9" * 5000])
async def test_an_invalid_content_length_is_not_an_internal_error(ring: Release, tmp_path: Path, length: str) -> None:
    """Servers refuse it earlier, but the application does not depend on that."""

    async with running(ring, tmp_path) as service:
        answer = await service.ask("POST", "/next/1", BODY, headers={"content-length": length})
        assert answer.status in (200, 400, 413)


@pytest.mark.timing
@pytest.mark.parametrize("pieces", [[], [b'{"track"'], [b"{", b'"track"', b": "]])
async def test_a_body_that_does_not_arrive_gets_408(ring: Release, tmp_path: Path, pieces: list[bytes]) -> None:
    async with running(ring, tmp_path, body_timeout_s=0.05) as service:
        answer = await service.ask("POST", "/next/1", pieces, stalls=True)
        assert (answer.status, answer.json()) == (408, {"reason": "the body took longer than 0.05 s"})
        assert answer.headers["connection"] == "close"
    assert service.lines() == []


async def sent_to(service: Running, receive: Callable[[], Awaitable[Message]]) -> list[Message]:
    """What a client gets whose request arrives as `receive` says."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "raw_path": b"/next/1", "headers": [], "client": ("127.0.0.1", 1)}
    await asyncio.wait_for(service.service(scope, receive, send), PATIENCE_S)
    return sent


@pytest.mark.timing
async def test_a_body_that_arrives_slowly_gets_408(ring: Release, tmp_path: Path) -> None:
    async def drip() -> Message:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b" ", "more_body": True}

    async with running(ring, tmp_path, body_timeout_s=0.1) as service:
        assert (await sent_to(service, drip))[0]["status"] == 408


async def test_a_client_that_disconnects_leaves_no_line(ring: Release, tmp_path: Path) -> None:
    given: list[Message] = [{"type": "http.request", "body": BODY, "more_body": True}, {"type": "http.disconnect"}]
    messages = iter(given)

    async def receive() -> Message:
        return next(messages)

    async with running(ring, tmp_path) as service:
        assert {message.get("status", 400) for message in await sent_to(service, receive)} <= {400}
    assert service.lines() == []


@pytest.mark.parametrize(
    "headers", [{}, {"authorization": "Bearer wrong"}, {"authorization": "secret"}, {"authorization": "Basic secret"}]
)
async def test_all_pages_except_health_require_the_token(
    ring: Release, tmp_path: Path, headers: dict[str, str]
) -> None:
    async with running(ring, tmp_path, token="secret") as service:
        pages = "/", "/track/100", "/explain/1", "/metrics", "/docs", "/openapi.json", "/health/../metrics", "/nowhere"
        for method, path in [("POST", "/next/1"), *(("GET", page) for page in pages)]:
            answer = await service.ask(method, path, BODY, headers=headers)
            assert answer.status == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            assert "Authorization: Bearer <token>" in answer.json()["reason"]
            assert "secret" not in answer.body.decode()
        for path in ("/health", "/health/live"):
            assert (await service.ask("GET", path, headers=headers)).status == 200
        given = {"authorization": "Bearer secret"}
        assert (await service.ask("POST", "/next/1", BODY, headers=given)).status == 200
        assert (await service.ask("GET", "/metrics", headers=given)).status == 200
    assert len(service.lines()) == 1


async def test_a_client_above_the_rate_limit_gets_429_with_retry_after(ring: Release, tmp_path: Path) -> None:
    async with running(ring, tmp_path, requests_per_second=0.01, burst=2) as service:
        answers = [await service.ask("POST", "/next/1", BODY) for _ in range(4)]
        assert [answer.status for answer in answers] == [200, 200, 429, 429]
        assert int(answers[-1].headers["retry-after"]) >= 1
        assert re.fullmatch(r"more than 0.01 requests a second; wait \d+\.\d\d s", answers[-1].json()["reason"])
        assert (await service.ask("GET", "/metrics")).status == 429
        assert (await service.ask("GET", "/health")).status == 200
        assert (await service.ask("POST", "/next/1", BODY, client=("10.0.0.2", 1))).status == 200
        assert (await service.ask("POST", "/next/1", BODY, client=None)).status == 200
    assert len(service.lines()) == 4


@pytest.mark.timing
async def test_requests_get_503_while_the_log_cannot_be_written(
    ring: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_writer, "_PROBE_S", 0.01)

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with running(ring, tmp_path) as service:
        assert (await service.ask("GET", "/health")).json()["status"] == "ok"
        with monkeypatch.context() as disk:
            disk.setattr(os, "write", full)
            for _ in range(2):
                answer = await service.ask("POST", "/next/1", BODY)
                assert answer.status == 503
                assert re.search(r"data.json cannot be written: No space left on device", answer.json()["reason"])
            health = await service.ask("GET", "/health")
            assert health.status == 503
            assert health.json()["status"] == "unready"
            assert (health.json()["live"], health.json()["ready"]) == (True, False)
            assert "No space left on device" in health.json()["problems"][0]
            assert (await service.ask("GET", "/health/live")).status == 200
            assert (await service.ask("GET", "/track/100")).status == 200
        async with asyncio.timeout(PATIENCE_S):
            while (await service.ask("GET", "/health")).status == 503:
                await asyncio.sleep(0.01)
        assert (await service.ask("POST", "/next/1", BODY)).status == 200
    assert len(service.lines()) == 1


async def test_the_body_of_every_page(ring: Release, tmp_path: Path) -> None:
    async with running(ring, tmp_path) as service:

        async def page(path: str) -> Any:
            answer = await service.ask("GET", path)
            assert answer.status == 200
            return answer.json()

        track = {"artist": "Artist 0", "title": "Title 0", "track": 100}
        ids = [101, 102]
        others = [{"artist": "Artist 0", "title": f"Title {row}", "track": 100 + row} for row in (1, 2)]
        assert (await page("/"))["status"] == "alive"
        assert await page("/track/100") == {**track, "recommendations": ids}
        assert (await page("/track/104"))["recommendations"] == []
        assert await page("/recommendations/100") == {
            **track,
            "version": ring.version,
            "recommendations": {"C": others, "T1": others},
        }
        assert await page("/experiments") == {
            "experiment": "TEST",
            "arms": {
                "C": {"recommender": "r.jsonl", "policy": "lists", "pick": "uniform", "artist_gap": 0},
                "T1": {"recommender": "r.jsonl", "policy": "lists", "pick": "ranked", "artist_gap": 0},
            },
            "version": ring.version,
            "tracks": 6,
        }
        assert await page("/health") == {
            "status": "ok",
            "live": True,
            "ready": True,
            "problems": [],
            "version": ring.version,
        }
        assert await page("/health/live") == {"live": True}
        docs = await service.ask("GET", "/docs")
        assert (docs.status, b"/openapi.json" in docs.body) == (200, True)


def session_release(
    folder: Path, plays: np.ndarray | None = None, orders: tuple[OrderPart, ...] = (), **how: Any
) -> Release:
    lists = lists_of([[1, 2, 3], [2, 3, 4], [3, 4, 0], [4, 0, 1], [0, 1, 2]])
    return make_release(
        folder / "release",
        catalog=make_catalog([0, 0, 1, 1, 2]),
        arms={"C": arm(pick="weighted", context="session", num_lists=2, **how), "T1": arm(pick="ranked")},
        lists={name: replace(lists, plays=plays) for name in ("C", "T1")},
        vectors={"C": make_vectors(5, orders=orders)},
    )


@pytest.mark.parametrize("has_order", [False, True])
async def test_the_last_answer_is_explained(has_order: bool, tmp_path: Path) -> None:
    release = session_release(tmp_path, orders=(make_order(5),) if has_order else ())

    async with running(release, tmp_path) as service:
        user = service.user_of("C")
        first = (await service.ask("POST", f"/next/{user}", BODY)).json()["track"]
        body = json.dumps({"track": first, "time": 0.25}).encode()
        answered = (await service.ask("POST", f"/next/{user}", body)).json()["track"]
        logged = json.loads(service.lines()[-1])
        for _ in range(2):
            found = (await service.ask("GET", f"/explain/{user}")).json()
        row, previous = answered - 100, first - 100
        vectors = release.vectors["C"]
        query = SessionQuery(vectors).of(np.array([[previous, 0]]), np.array([[0.25, 0.5]], np.float32))[0]
        scores = {other: float(query @ vectors.items[other]) for other in range(5) if other not in (0, previous)}
        assert (found["user"], found["arm"], found["pick"]) == (user, "C", "weighted")
        assert (found["context"], found["num_lists"], found["artist_gap"]) == ("session", 2, 0)
        assert found["recommended"] == {"artist": f"Artist {row // 2}", "title": f"Title {row}", "track": answered}
        assert found["propensity"] == logged["propensity"]
        assert (found["release"], found["is_fallback"], found["is_heard"]) == (logged["release"], False, False)
        assert found["score"] == pytest.approx(scores[row], abs=1e-5)
        assert found["score"] == pytest.approx(sum(found["parts"].values()), abs=1e-5)
        assert ("order" in found["parts"]) == has_order
        added = [line["parts"].get("order", 0) for line in found["session"]]
        assert added == [found["parts"].get("order", 0)] * 2, "of two tracks both are needed for an order"
        assert found["rank"] == 1 + sum(score > scores[row] for score in scores.values())
        assert found["candidates"] == len(scores)
        assert [(line["track"], line["time"]) for line in found["session"]] == [(first, 0.25), (100, 0.5)]
        assert sum(line["parts"]["artist"] for line in found["session"]) == pytest.approx(
            found["parts"]["artist"], abs=1e-4
        )
        assert len(service.lines()) == 2, "an explanation is no event"


async def test_what_cannot_be_explained_says_why(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with running(session_release(tmp_path), tmp_path) as service:

        async def refused(user: object, **more: Any) -> str:
            answer = await service.ask("GET", f"/explain/{user}", **more)
            assert answer.status == 404
            return str(answer.json()["reason"])

        user, other = service.user_of("C"), service.user_of("T1")
        assert await refused(user) == f"user {user} has no session with an answer to explain"
        assert "is in arm T1, which does not answer from the session (context=session or listener)" in await refused(
            other
        )
        assert await refused("%00") == "path.user has a NUL"
        assert (await service.ask("POST", f"/next/{user}", BODY)).status == 200
        assert (await service.ask("GET", f"/explain/{user}")).status == 200
        await service.service.state.sessions.note(user, Noted(101, 1.0, False, "older"))
        assert "was answered by release older, which is not served any more" in await refused(user)
        assert (await service.ask("POST", f"/last/{user}", BODY)).status == 200
        assert await refused(user) == f"user {user} has no session with an answer to explain"
    assert not caplog.messages


async def test_metrics_count_requests_by_endpoint_and_status(ring: Release, tmp_path: Path) -> None:
    async with running(ring, tmp_path) as service:

        async def samples() -> dict[str, float]:
            answer = await service.ask("GET", "/metrics")
            assert answer.headers["content-type"].startswith("text/plain; version=")
            pairs = (line.rsplit(" ", 1) for line in answer.body.decode().splitlines() if not line.startswith("#"))
            return {name: float(value) for name, value in pairs}

        before = await samples()
        sent = ("/next/1", BODY), ("/next/1", BODY), ("/next/1", b"{"), ("/last/1", BODY), ("/next/%00", b"")
        for path, body in sent:
            await service.ask("POST", path, body)
        await service.ask("GET", "/nowhere/" + "x" * 50)
        service.service._metrics.observe(0, 0, 0)
        after = await samples()
        grown = {name: value - before.get(name, 0) for name, value in after.items() if value != before.get(name, 0)}
        counts = {name: value for name, value in grown.items() if name.startswith("segue_requests_total")}
        assert counts == {
            'segue_requests_total{endpoint="next",status="200"}': 2,
            'segue_requests_total{endpoint="next",status="400"}': 1,
            'segue_requests_total{endpoint="next",status="404"}': 1,
            'segue_requests_total{endpoint="last",status="200"}': 1,
            'segue_requests_total{endpoint="page",status="200"}': 1,
            'segue_requests_total{endpoint="page",status="404"}': 1,
        }
        plays = {name: value for name, value in grown.items() if name.startswith(("segue_plays", "segue_listened"))}
        arm = f'arm="{service.service.state.recommender.arm_of(1)}",experiment="TEST"'
        assert plays == {
            f'segue_plays_total{{{arm},message="next"}}': 2,
            f'segue_plays_total{{{arm},message="last"}}': 1,
            f'segue_listened_tracks_total{{{arm},message="next"}}': 1.0,
            f'segue_listened_tracks_total{{{arm},message="last"}}': 0.5,
        }
        assert grown['segue_request_seconds_count{endpoint="next"}'] == 4
        assert 0 < grown['segue_request_seconds_sum{endpoint="next"}'] < 4
        assert "nowhere" not in str(after), "no label is made from a request"


@pytest.mark.parametrize("path", ["/next/1", "/track/100"])
def test_an_internal_error_is_logged_and_its_answer_has_no_details(
    ring: Release, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    def fail(*_: Any) -> Any:
        raise ZeroDivisionError("a secret")

    async def work(service: Running) -> None:
        monkeypatch.setattr(Release, "row_of", fail)
        answer = await service.ask("POST" if "next" in path else "GET", path, BODY)
        assert answer.status == 500
        assert "a secret" not in answer.body.decode()
        assert answer.json() == {"reason": "internal error; the service's own log has the details"}

    with caplog.at_level(logging.ERROR, "segue.serving"):
        assert drive(ring, tmp_path, work).lines() == []
    assert "ZeroDivisionError: a secret" in caplog.text


@pytest.mark.parametrize("path", ["/health/", "/track/100/", "//evil.example/", "/docs/"])
async def test_no_answer_redirects_to_a_host_of_the_request(ring: Release, tmp_path: Path, path: str) -> None:
    async with running(ring, tmp_path) as service:
        answer = await service.ask("GET", path, headers={"host": "evil.example"})
        assert "evil.example" not in str(answer.headers)
        assert answer.status == 404


SEGMENT = st.one_of(
    st.sampled_from(["next", "last", "track", "recommendations", "health", "1", "100", "-1", "..", "%00", "docs", ""]),
    st.integers().map(str),
    st.text(max_size=6),
)
BODIES = st.one_of(
    st.binary(max_size=200),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["track", "time", "x"]), inner, max_size=3)
        ),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode()),
    st.builds(
        lambda track, time: json.dumps({"track": track, "time": time}).encode(),
        st.integers(98, 107) | st.integers() | st.floats(),
        st.floats(0, 1) | st.floats(),
    ),
)
LISTENING = st.builds(lambda call, user: f"/{call}/{user}", st.sampled_from(["next", "last"]), st.integers(0, 10**18))
ANYTHING = st.tuples(
    st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "X"]),
    LISTENING | st.lists(SEGMENT, max_size=4).map(lambda segments: "/" + "/".join(segments)),
    BODIES,
)
NEARLY_RIGHT = st.tuples(
    st.just("POST"),
    LISTENING,
    st.builds(lambda track, time: b'{"track": %d, "time": %a}' % (track, time), st.integers(98, 107), st.floats(0, 1)),
)


def test_no_request_causes_an_internal_error(ring: Release, tmp_path: Path) -> None:
    """And as many lines are written as requests of `/next` and `/last` were answered."""
    answered: list[str] = []
    with asyncio.Runner() as runner:
        context = running(ring, tmp_path)
        service = runner.run(context.__aenter__())

        @settings(max_examples=300)
        @given(request=ANYTHING | NEARLY_RIGHT)
        def check(request: tuple[str, str, bytes]) -> None:
            method, path, body = request
            answer = runner.run(service.ask(method, path, body))
            assert answer.status in (200, 400, 404, 405, 413)
            if answer.status == 200 and path.startswith(("/next/", "/last/")):
                answered.append(path)
                assert answer.json()["user"] == id_in_path(path[6:].encode().decode("latin-1"))[0]
            elif answer.status != 200:
                assert list(answer.json()) == ["reason"]

        try:
            check()
        finally:
            runner.run(context.__aexit__(None, None, None))
    lines = [json.loads(line) for line in service.lines()]
    assert [f"/{line['message']}/{line['user']}" for line in lines] == [unquote(path) for path in answered]
    assert len(answered) > 20


@pytest.mark.timing
def test_a_worker_changes_to_a_new_version_while_it_answers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A damaged version is not served and is reported until it is replaced."""
    looks, is_full = 0, False

    class Counting(FolderStore):
        def fetch(self) -> str:
            nonlocal looks
            looks += 1
            if is_full:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().fetch()

    store = Counting(tmp_path / "store", keep=3)
    first = store.load(writer("one"))

    async def run() -> None:
        nonlocal is_full
        async with running(Release(store.path(first)), tmp_path) as service:
            state = service.service.state
            following = asyncio.ensure_future(follow_store(state, store, poll_s=0.01, rng=np.random.default_rng(0)))
            is_full = True
            await until(lambda: "No space left on device" in (state.store_problem or ""))
            is_full = False
            await until(lambda: state.store_problem is None)
            second = store.load(writer("two"))
            await until(lambda: state.recommender.release.version == second)
            assert (await service.ask("GET", "/experiments")).json()["version"] == second
            await service.ask("POST", "/next/1", BODY)
            assert json.loads(service.lines()[-1])["experiments"] == {"two": "C"}
            assert store.rollback() == first
            await until(lambda: state.recommender.release.version == first)

            index = (store.folder / "index.json").read_bytes()
            (store.folder / "index.json").write_text("{")
            await until(lambda: state.store_problem is not None)
            health = await service.ask("GET", "/health")
            assert (health.status, health.json()["status"]) == (200, "degraded")
            assert "index.json is damaged" in health.json()["problems"][0]
            num_before = looks
            await until(lambda: looks > num_before + 2)
            assert (await service.ask("POST", "/next/1", BODY)).status == 200
            (store.folder / "index.json").write_bytes(index)
            await until(lambda: state.store_problem is None)

            (store.path(second) / "track_ids.npy").write_bytes(b"")
            store.switch(second)
            await until(lambda: "track_ids.npy is damaged" in (state.store_problem or ""))
            assert state.recommender.release.version == first
            assert store.load(writer("two")) == second
            await until(lambda: state.recommender.release.version == second and state.store_problem is None)
            assert not following.done()
            following.cancel()
            await asyncio.wait([following])

    with caplog.at_level(logging.WARNING, "segue.serving"):
        asyncio.run(run())
    assert caplog.text.count(f"serving version {first}") == 1
    assert caplog.text.count("index.json is damaged") == 1, "a problem is logged once, not at every check"


async def test_a_track_of_a_release_that_another_worker_has_already_is_no_error(tmp_path: Path) -> None:
    """This worker would look for a new version after an hour."""
    store = FolderStore(tmp_path / "store", keep=3)
    first = store.load(writer("one"))

    async with running(Release(store.path(first)), tmp_path) as service:
        following = asyncio.ensure_future(
            follow_store(service.service.state, store, poll_s=3600, rng=np.random.default_rng(0))
        )
        await asyncio.sleep(0)
        new = b'{"track": 104, "time": 0.5}'
        assert (await service.ask("POST", "/next/1", new)).status == 404
        second = store.load(writer("two", num_tracks=5))
        answers = await asyncio.gather(*(service.ask("POST", f"/next/{user}", new) for user in range(20)))
        assert {answer.status for answer in answers} == {200}
        assert {json.loads(line)["release"] for line in service.lines()} == {second}
        following.cancel()
        await asyncio.wait([following])


def test_the_files_that_say_what_users_played_can_be_read_by_the_group_alone(ring: Release, tmp_path: Path) -> None:
    async def work(service: Running) -> None:
        assert (await service.ask("POST", "/next/1", BODY)).status == 200
        log = EventLogWriter(tmp_path / "log", LogSettings(fsync="never", max_bytes=4096, backups=1))
        await log.append(b" " * 4000 + b"\n")  # after a rotation
        await log.close()

    before = os.umask(0)
    try:
        drive(ring, tmp_path, work)
    finally:
        os.umask(before)
    files = ("log/data.json", "log/data.json.1", "sessions.bin")
    assert {name: (tmp_path / name).stat().st_mode & 0o777 for name in files} == dict.fromkeys(files, 0o640)


@pytest.mark.parametrize("token", [None, "secret"])
@pytest.mark.parametrize(
    ("headers", "is_foreign"),
    [
        ({}, False),
        ({"origin": "http://127.0.0.1:5001"}, False),
        ({"origin": "https://music.example", "host": "music.example"}, False),
        ({"origin": "http://127.0.0.1:5001", "host": "music.example", "sec-fetch-site": "same-origin"}, False),
        ({"origin": "https://other.example"}, True),
        ({"origin": "http://127.0.0.1:8080"}, True),
        ({"origin": "null"}, True),
        ({"origin": ""}, True),
        ({"origin": "http://127.0.0.1:5001", "sec-fetch-site": "cross-site"}, True),
        ({"origin": "https://a.music.example", "host": "music.example", "sec-fetch-site": "same-site"}, True),
    ],
)
async def test_what_changes_something_is_not_taken_from_a_page_of_another_site(
    ring: Release, tmp_path: Path, headers: dict[str, str], is_foreign: bool, token: str | None
) -> None:
    given = {"host": "127.0.0.1:5001"} | headers | ({} if token is None else {"authorization": "Bearer secret"})

    async with running(ring, tmp_path, token=token) as service:
        for path in ("/next/1", "/last/1"):
            answer = await service.ask("POST", path, BODY, headers=given)
            assert answer.status == (403 if is_foreign else 200)
            if is_foreign:
                line = "only a page of this service may send this, and it came from a page of "
                assert answer.json() == {"reason": line + repr(headers["origin"])}
        assert (await service.ask("GET", "/track/100", headers=given)).status == 200
    assert len(service.lines()) == (0 if is_foreign else 2)


async def walk(service: Running, **more: Any) -> dict[str, set[int]]:
    """Ask every endpoint of the OpenAPI document, with values that fit and that do not; each answer must be described.

    Returns:
        The statuses of each endpoint.
    """
    described = (await service.ask("GET", "/openapi.json", **more)).json()
    assert "$ref" not in json.dumps(described)
    found: dict[str, set[int]] = {}
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            for value in ["100", "0", "abc", "%00", "", "9" * 300] if "{" in path else [""]:
                for body in [BODY, b"", b'{"track": 99, "time": 0.5}', b" " * 5000] if method == "post" else [b""]:
                    answer = await service.ask(method.upper(), re.sub(r"{\w+}", value, path), body, **more)
                    found.setdefault(path, set()).add(answer.status)
                    about = operation["responses"].get(str(answer.status))
                    assert about is not None, (method, path, answer)
                    if answer.status >= 400 and path != "/health":
                        assert about["content"]["application/json"]["schema"]["required"] == list(answer.json())
    return found


PAGES = {"/", "/experiments", "/metrics"}
OF_TRACKS = {"/track/{track}", "/recommendations/{track}"}
EVENTS = {"/next/{user}", "/last/{user}"}
HEALTH = {"/health", "/health/live"}


async def test_every_answer_is_one_that_openapi_describes(ring: Release, tmp_path: Path) -> None:
    async with running(ring, tmp_path) as service:
        found = await walk(service)
        assert all(found[path] == {200} for path in PAGES | HEALTH)
        assert all(found[path] == {200, 404} for path in OF_TRACKS)
        assert all(found[path] == {200, 400, 404, 413} for path in EVENTS)
        assert found["/explain/{user}"] == found["/profile/{user}"] == {404}
        following = (await service.ask("GET", "/openapi.json")).json()["paths"]["/next/{user}"]["post"]
        body = following["requestBody"]["content"]["application/json"]["schema"]
        assert (body["required"], body["properties"]["time"]["maximum"]) == (["track", "time"], 1)
        assert (await walk(service, headers={"origin": "https://other.example"}))["/next/{user}"] == {403}
        service.service.state.log.problem = "the disk is full"
        found = await walk(service)
        assert (found["/next/{user}"], found["/health"]) == ({400, 404, 413, 503}, {503})


@pytest.mark.timing
async def test_the_answer_to_a_body_that_does_not_arrive_is_one_that_openapi_describes(
    ring: Release, tmp_path: Path
) -> None:
    async with running(ring, tmp_path, body_timeout_s=0.01) as service:
        assert 408 in (await walk(service, stalls=True))["/next/{user}"]


async def test_every_refusal_of_a_client_is_one_that_openapi_describes(
    ring: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(ring, tmp_path, requests_per_second=0.01, burst=1) as service:
        found = await walk(service)
        assert all(found[path] == {429} for path in found.keys() - HEALTH)
        monkeypatch.setattr(service.service, "_rate_limit", None)
        admitted, document = service.ask, await service.ask("GET", "/openapi.json")

        async def ask_without_token(method: str, path: str, body: Any = b"", **more: Any) -> Answer:
            return document if path == "/openapi.json" else await admitted(method, path, body, **more)

        monkeypatch.setattr(service.service, "_token", b"secret")
        monkeypatch.setattr(service, "ask", ask_without_token)
        found = await walk(service)
        assert all(found[path] == {401} for path in found.keys() - HEALTH)


@pytest.mark.timing
async def test_a_log_is_closed_and_synced_while_a_body_is_unfinished(
    ring: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []

    def sync(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)

    async with running(ring, tmp_path) as service:
        rest: asyncio.Queue[Message] = asyncio.Queue()
        assert (await service.ask("POST", "/next/1", BODY)).status == 200
        unfinished = asyncio.create_task(sent_to(service, rest.get))
        await rest.put({"type": "http.request", "body": BODY[:5], "more_body": True})
        monkeypatch.setattr(os, "fsync", sync)
        await service.service.state.log.close()
        assert synced == ["data.json"]
        await rest.put({"type": "http.request", "body": BODY[5:], "more_body": False})
        sent = await unfinished
        assert sent[0]["status"] == 503
        assert sent[1]["body"] == b'{"reason": "the service is stopping, and its event log is closed"}'
    assert len(service.lines()) == 1
