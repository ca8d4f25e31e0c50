"""What each worker does for the room: it sends the files of the page, and hands questions on to the room server.

The *room server* (`room_server.py`) is a process of its own, which every worker of a service shares. Nothing of the
room is computed in a worker, therefore `/next` does not wait for it. The proxy starts the room server when somebody
opens the page; a service whose room nobody visits has no such process.

A question is one connection to the socket of the room server: a line of JSON `{"path", "query", "body"}` goes there, a
line `{"status", "type"}` and then the body come back.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import parse_qsl

from segue.errors import InputError
from segue.runs.provenance import ROOT, as_called
from segue.serving.room.previews import is_host
from segue.serving.settings import TOKEN, ServiceSettings
from segue.settings import Setting, settings

if TYPE_CHECKING:
    from segue.serving.app import Message, Send

_PAGE = "/room"
_QUESTIONS = f"{_PAGE}/api/"  # where the questions to the room server are
# Content security policy: only files of this service, no inline script or style, no code from strings. A preview is
# fetched with the token and played as a blob; hosts of previews follow at its end.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; media-src 'self' blob:"
)
_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
}
_JSON = "application/json"
_TEXT = "text/plain; charset=utf-8"
_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".json": _JSON,
}
_STATIC = Path(__file__).parent / "static"

_START_S = 60.0  # seconds within which the room server must listen after its start

_ANSWER_S = 60.0  # seconds within which the room server must answer


class RoomServerError(Exception):
    """The room server does not answer."""


@settings("room")
@dataclass(frozen=True, kw_only=True)
class RoomSettings:
    """What the room shows beside the arms.

    Raises:
        InputError: an address cannot be linked to, or a preview cannot be played.
    """

    enabled: Annotated[bool, Setting("whether there is such a page")] = True
    recommenders: Annotated[Sequence[str], Setting('shown beside the arms, such as ["run:<id>"]')] = ()
    mlflow: Annotated[str | None, Setting("address of the MLflow UI that the page links to")] = None
    audio: Annotated[str | None, Setting("a tracks.json with the column audio: previews, as files or as addresses")] = (
        None
    )
    audio_from: Annotated[
        Sequence[str], Setting("where previews may come from: folders, and hosts such as https://previews.example.com")
    ] = ()

    def __post_init__(self) -> None:
        if self.mlflow is not None and not self.mlflow.startswith(("http://", "https://")):
            raise InputError(
                f"room.mlflow must be the address of an MLflow UI, such as http://127.0.0.1:5000, got {self.mlflow!r}"
            )
        if wrong := [one for one in self.audio_from if not is_host(one) and not Path(one).is_dir()]:
            raise InputError(
                f"room.audio_from: {wrong[0]!r} is neither a folder nor a host such as https://previews.example.com"
            )
        if self.audio is not None and not Path(self.audio).is_file():
            raise InputError(
                f"room.audio must be a tracks.json with the column `audio`, and there is no file {self.audio}"
            )
        if self.audio is not None and not self.audio_from:
            raise InputError("room.audio plays nothing without room.audio_from, such as room.audio_from=[previews]")

    def open(self, service: ServiceSettings) -> "RoomProxy":
        """The room in a worker."""
        run_dir, hosts = Path(service.run_dir), [one for one in self.audio_from if is_host(one)]
        return RoomProxy(socket_of(run_dir), run_dir, hosts)


class RoomProxy:
    """The room, in a worker.

    Args:
        socket: where the room server listens.
        run_dir: run folder of the service, which names everything else to the room server.
        hosts: from which previews may be played.
    """

    def __init__(self, socket: Path, run_dir: Path, hosts: Sequence[str] = ()) -> None:
        self._headers = {"content-security-policy": " ".join([_POLICY, *hosts]), **_HEADERS}
        self._socket, self._run_dir = socket, run_dir
        files = {f"{_PAGE}/{path.relative_to(_STATIC)}": path for path in _STATIC.rglob("*") if path.is_file()}
        files[_PAGE] = files[f"{_PAGE}/"] = files.pop(f"{_PAGE}/index.html")
        # a browser cannot send a token when it opens a page; the page asks for it and sends it with each question
        self.open_paths = files.keys()
        self._files = {name: (_KINDS.get(path.suffix, _TEXT), _content(path)) for name, path in files.items()}
        self._server: subprocess.Popen[bytes] | None = None

    async def __call__(self, scope: "Message", body: bytes, send: "Send") -> None:
        """Answer one request whose body has arrived."""
        path: str = scope["path"]
        if path.startswith(_QUESTIONS):
            await self._hand_on(path.removeprefix(_QUESTIONS), scope, body, send)
        elif path not in self._files:
            await self._refuse(send, 404, "the room has no such page; it begins at /room")
        elif scope["method"] != "GET":
            await self._refuse(send, 405, "this page accepts GET only", {"allow": "GET, HEAD"})
        else:
            if path in (_PAGE, f"{_PAGE}/"):  # the room server starts while the browser fetches the rest of the page
                self._spawn()
            kind, content = self._files[path]
            etag = f'"{hashlib.blake2b(content, digest_size=8).hexdigest()}"'
            is_fresh = (b"if-none-match", etag.encode()) in [tuple(header) for header in scope["headers"]]
            headers = {"content-type": kind, "etag": etag, "cache-control": "no-cache"}
            await self._send(send, 304 if is_fresh else 200, b"" if is_fresh else content, headers)

    async def close(self) -> None:
        """Stop the room server, if this worker started it."""
        if self._server is not None and self._server.poll() is None:
            self._server.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(self._server.wait, 1)

    async def _send(self, send: "Send", status: int, body: bytes, headers: dict[str, str]) -> None:
        length = {} if status == 304 else {"content-length": str(len(body))}
        pairs = [(name.encode(), value.encode()) for name, value in {**length, **self._headers, **headers}.items()]
        await send({"type": "http.response.start", "status": status, "headers": pairs})
        await send({"type": "http.response.body", "body": body})

    async def _refuse(self, send: "Send", status: int, reason: str, headers: dict[str, str] | None = None) -> None:
        await self._send(
            send, status, json.dumps({"reason": reason}).encode(), {"content-type": _JSON, **(headers or {})}
        )

    async def _hand_on(self, name: str, scope: "Message", body: bytes, send: "Send") -> None:
        query = dict(parse_qsl(scope["query_string"].decode("latin-1")))
        try:
            question = {"path": name, "query": query, "body": json.loads(body) if body else None}
            line = json.dumps(question).encode() + b"\n"
        except (ValueError, RecursionError):
            await self._refuse(send, 400, "the body must be JSON")
            return
        try:
            status, kind, answer = await self._ask(line)
        except RoomServerError as error:
            await self._refuse(send, 503, str(error), {"cache-control": "no-store"})
        else:
            await self._send(send, status, answer, {"content-type": kind, "cache-control": "no-store"})

    async def _ask(self, line: bytes) -> tuple[int, str, bytes]:
        reader, writer = await self._connect()
        try:
            async with asyncio.timeout(_ANSWER_S):
                writer.write(line)
                await writer.drain()
                if (head := json.loads(await reader.readline() or b"null")) is None:
                    raise RoomServerError("the room's process ended while it worked on this; try again")
                return head["status"], head["type"], await reader.read()
        except (OSError, TimeoutError) as error:
            raise RoomServerError(f"the room's process does not answer ({type(error).__name__}); try again") from None
        finally:
            writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to the room server, which is started if nobody listens."""
        deadline_s, is_started = time.monotonic() + _START_S, False
        while time.monotonic() < deadline_s:
            with contextlib.suppress(OSError):
                check_private(self._socket.parent)
                return await asyncio.open_unix_connection(str(self._socket))
            if not is_started:
                self._spawn()
                is_started = True
            elif self._server is not None and self._server.poll():  # it ends with 0 where another worker has one
                raise RoomServerError("the room's process could not start; the log of the service says why")
            await asyncio.sleep(0.05)
        raise RoomServerError("the room's process did not start in time; try again")

    def _spawn(self) -> None:
        if self._server is not None and self._server.poll() is None:
            return
        given = [str(self._run_dir), str(self._socket), str(os.getpid())]
        command = [sys.executable, "-Pm", "segue.serving.room.room_server", *given]
        environment = {name: value for name, value in os.environ.items() if name != TOKEN}
        environment |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        environment["PYTHONPATH"] = str(ROOT)
        # a group of its own, which Ctrl-C does not reach; in a session of its own, its low priority would not count
        self._server = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, process_group=0)


def _content(path: Path) -> bytes:
    """A file of the page; the commands that it names are those of here."""
    return as_called(path.read_text(encoding="utf-8")).encode() if path.suffix == ".js" else path.read_bytes()


def socket_of(run_dir: Path) -> Path:
    """Where the room server of a service listens. The path is short, because that of a socket may have 107 bytes."""
    name = hashlib.blake2b(str(run_dir).encode(), digest_size=8).hexdigest()
    return Path(tempfile.gettempdir(), f"segue-room-{os.getuid()}-{name}", "socket")


def check_private(folder: Path) -> None:
    """Refuse a folder that is not of this user, or into which others may look or write; also a link to one.

    Everybody can guess the name of the folder of a socket, and make it before we do.

    Raises:
        OSError: there is no such folder.
        RoomServerError: it is not private.
    """
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise RoomServerError(
            f"{folder} is not a folder of this user alone (mode 700), therefore the room stays closed; remove it, or "
            "start the service with TMPDIR=<another folder>"
        )
