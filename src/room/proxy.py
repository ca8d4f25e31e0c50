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
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from segue.serving.settings import TOKEN, ServiceSettings, is_host

if TYPE_CHECKING:
    from segue.serving.app import Message, Send

PAGE = "/room"
"""Where the page is."""

QUESTIONS = f"{PAGE}/api/"
"""Where the questions to the room server are."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; media-src 'self' blob:"
)
"""Content security policy: only files of this service, no inline script or style, no code from strings. A preview is
fetched with the token and played as a blob; hosts of previews follow at its end."""

_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
)
_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".json": "application/json",
}
_STATIC = Path(__file__).parent / "static"
_ROOT = Path(__file__).parents[2]

_START_S = 60.0
"""Seconds within which the room server must listen after its start."""

_ANSWER_S = 60.0
"""Seconds within which the room server must answer."""


class File:
    """A file of the page, kept in memory.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.body = path.read_bytes()
        self.etag = f'"{hashlib.blake2b(self.body, digest_size=8).hexdigest()}"'
        self.kind = _KINDS.get(path.suffix, "text/plain; charset=utf-8")


class RoomServerError(Exception):
    """The room server does not answer."""


class RoomProxy:
    """The room, in a worker.

    Args:
        socket: where the room server listens.
        run_dir: run folder of the service, which names everything else to the room server.
        has_token: whether the service requires a token.
        hosts: from which previews may be played.
    """

    def __init__(self, socket: Path, run_dir: Path, *, has_token: bool, hosts: Sequence[str] = ()) -> None:
        self._headers = [(b"content-security-policy", " ".join([POLICY, *hosts]).encode()), *_HEADERS]
        self._socket, self._run_dir, self._has_token = socket, run_dir, has_token
        self._files = {
            f"{PAGE}/{path.relative_to(_STATIC)}": File(path) for path in _STATIC.rglob("*") if path.is_file()
        }
        self._files[PAGE] = self._files[f"{PAGE}/"] = self._files.pop(f"{PAGE}/index.html")
        self._server: subprocess.Popen[bytes] | None = None
        self._starting = asyncio.Lock()

    def is_open(self, path: str) -> bool:
        """Whether a path needs no token: the files of the page, which hold nothing of this service.

        A browser cannot send a header when it opens a page. The page asks for the token and sends it with each
        question.
        """
        return path in self._files

    def answers(self, path: str) -> bool:
        """Whether a path belongs to the room."""
        return path == PAGE or path.startswith(f"{PAGE}/")

    async def __call__(self, scope: "Message", body: bytes, send: "Send") -> None:
        """Answer one request whose body has arrived."""
        path, method = scope["path"], scope["method"]
        if (file := self._files.get(path)) is not None:
            if method != "GET":
                await self._send(send, 405, b'{"reason": "this page accepts GET only"}', [(b"allow", b"GET, HEAD")])
                return
            if path in (PAGE, f"{PAGE}/"):  # the room server starts while the browser fetches the rest of the page
                self._spawn()
            given = next((value for name, value in scope["headers"] if name == b"if-none-match"), b"")
            fresh = given.decode("latin-1") == file.etag
            kind = [(b"content-type", file.kind.encode()), (b"etag", file.etag.encode())]
            await self._send(
                send, 304 if fresh else 200, b"" if fresh else file.body, [*kind, (b"cache-control", b"no-cache")]
            )
        elif path.startswith(QUESTIONS):
            await self._hand_on(path.removeprefix(QUESTIONS), scope, body, send)
        else:
            await self._send(send, 404, b'{"reason": "the room has no such page; it begins at /room"}')

    async def close(self) -> None:
        """Stop the room server, if this worker started it."""
        if self._server is not None and self._server.poll() is None:
            self._server.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.get_running_loop().run_in_executor(None, self._server.wait, 1)

    async def _send(self, send: "Send", status: int, body: bytes, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        kind = [] if any(name == b"content-type" for name, _ in headers) else [_JSON]
        length = [(b"content-length", b"%d" % len(body))] if status != 304 else []
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [*kind, *length, *self._headers, *headers],
            }
        )
        await send({"type": "http.response.body", "body": body})

    async def _hand_on(self, name: str, scope: "Message", body: bytes, send: "Send") -> None:
        query = dict(parse_qsl(scope["query_string"].decode("latin-1")))
        try:
            given = json.loads(body) if body else None
            question = {"path": name, "method": scope["method"], "query": query, "body": given}
            line = json.dumps(question | {"has_token": self._has_token}).encode() + b"\n"
        except (ValueError, RecursionError):
            await self._send(send, 400, b'{"reason": "the body must be JSON"}')
            return
        try:
            status, kind, answer = await self._ask(line)
        except RoomServerError as error:
            status, kind, answer = 503, "application/json", json.dumps({"reason": str(error)}).encode()
        await self._send(send, status, answer, [(b"content-type", kind.encode()), (b"cache-control", b"no-store")])

    async def _ask(self, line: bytes) -> tuple[int, str, bytes]:
        reader, writer = await self._connect()
        try:
            async with asyncio.timeout(_ANSWER_S):
                writer.write(line)
                await writer.drain()
                head = json.loads(await reader.readline() or b"null")
                if head is None:
                    raise RoomServerError("the room's process ended while it worked on this; try again")
                return head["status"], head["type"], await reader.read()
        except (OSError, TimeoutError) as error:
            raise RoomServerError(f"the room's process does not answer ({type(error).__name__}); try again") from None
        finally:
            writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to the room server, which is started if there is none."""
        if (found := await self._connected()) is not None:
            return found
        async with self._starting:
            self._spawn()
            deadline_s = time.monotonic() + _START_S
            while time.monotonic() < deadline_s:
                if (found := await self._connected()) is not None:
                    return found
                if self._server is not None and self._server.poll() not in (
                    None,
                    0,
                ):  # 0: another worker has started one
                    raise RoomServerError("the room's process could not start; the log of the service says why")
                await asyncio.sleep(0.05)
        raise RoomServerError("the room's process did not start in time; try again")

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """A connection to the room server; None if nobody listens."""
        try:
            if not is_private(self._socket.parent):
                raise RoomServerError(not_private(self._socket.parent))
            return await asyncio.open_unix_connection(str(self._socket))
        except OSError:
            return None

    def _spawn(self) -> None:
        if self._server is not None and self._server.poll() is None:
            return
        words = [
            sys.executable,
            "-Pm",
            "segue.room.room_server",
            str(self._run_dir),
            str(self._socket),
            str(os.getpid()),
        ]
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        environment = {name: value for name, value in os.environ.items() if name != TOKEN} | threads
        environment["PYTHONPATH"] = str(_ROOT)
        # a group of its own, which Ctrl-C does not reach; in a session of its own, its low priority would not count
        self._server = subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL, process_group=0)


def open_room(settings: ServiceSettings) -> RoomProxy | None:
    """The proxy of a worker; None where the room is switched off.

    Args:
        settings: of the service.
    """
    if not settings.room["enabled"]:
        return None
    run_dir, hosts = Path(settings.run_dir), [one for one in settings.room["audio_from"] if is_host(one)]
    return RoomProxy(socket_of(run_dir), run_dir, has_token=bool(os.environ.get(TOKEN)), hosts=hosts)


def socket_of(run_dir: Path) -> Path:
    """Where the room server of a service listens. The path is short, because that of a socket may have 107 bytes."""
    name = hashlib.blake2b(str(run_dir).encode(), digest_size=8).hexdigest()
    return Path(tempfile.gettempdir(), f"segue-room-{os.getuid()}-{name}", "socket")


def is_private(folder: Path) -> bool:
    """Whether a folder is of this user, and nobody else may look or write into it; a link to one is not.

    Everybody can guess the name of the folder of a socket, and make it before we do.

    Raises:
        OSError: there is no such folder.
    """
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077


def not_private(folder: Path) -> str:
    """The line for a folder that is not private."""
    return (
        f"{folder} is not a folder of this user alone (mode 700), therefore the room stays closed; remove it, or start "
        "the service with TMPDIR=<another folder>"
    )


_JSON = (b"content-type", b"application/json")
