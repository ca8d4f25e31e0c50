"""A service, Redis and nginx as real processes, and listeners who keep a service busy and remember its answers."""

import asyncio
import contextlib
import http.client
import importlib.util
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest

from tests.conftest import ROOT
from tests.e2e.forks import run_forked

CLOCK = 2**20
"""What is not played in a request is its number over this, so each line of a log tells which request it belongs to."""


def number_of(line: dict[str, Any]) -> int:
    """The request that a line of a log belongs to."""
    rest: float = 1 - line["time"]
    return round(rest * CLOCK)


PATIENCE_S = 300.0
"""Seconds after which a test no longer waits for what should have happened; nothing that works needs so long."""
PATIENT = f"arm.service.timeout_s={PATIENCE_S}"
"""For listeners of a service: a request is not sent again because a busy machine answers late."""


@contextmanager
def held_port() -> Iterator[int]:
    """A free port for a server that gets its number, now or later; no other test gets it meanwhile.

    It is bound by a socket that does not listen, and servers set SO_REUSEADDR.
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield int(held.getsockname()[1])


def wait_until(what: Callable[[], Any], called: str) -> Any:
    """The first true value of `what`, which may fail with an OSError before."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if found := what():
                return found
        time.sleep(0.02)
    raise AssertionError(f"not within {PATIENCE_S:g} s: {called}")


async def until(holds: Callable[[], object]) -> None:
    """Let the event loop run until this holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not holds():
            await asyncio.sleep(0.005)


async def settle() -> None:
    """Let the event loop do all that waits for nothing: what could have happened by now has happened."""
    for _ in range(50):
        await asyncio.sleep(0)


def run_verb(
    verb: str, cwd: Path, *words: str, code: int = 0, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A call of a verb that ends by itself, with this exit code."""
    done = run_forked(ROOT / verb, *words, cwd=cwd, env={**os.environ, **(env or {})}, timeout_s=300)
    assert done.returncode == code, done.stdout + done.stderr
    return done


serve = partial(run_verb, "serve.py")


def script(path: str) -> Any:
    """A script of the project as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def started(command: list[str], **how: Any) -> Iterator[subprocess.Popen[Any]]:
    """A process of which nothing is left in the end, of its children neither, whatever happens."""
    with subprocess.Popen(command, start_new_session=True, **how) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def starting(
    cwd: Path, *words: str, env: dict[str, str] | None = None, **streams: Any
) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """A service that has just been started, at a free port."""
    port = [] if any(word.startswith("port=") for word in words) else ["port=0"]
    command = [sys.executable, str(ROOT / "serve.py"), *words, *port]
    return started(command, cwd=cwd, env={**os.environ, **(env or {})}, **streams)


class Answer(NamedTuple):
    status: int
    body: Any
    headers: dict[str, str]


def ask(port: int, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
    """One request over a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        content = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, content, headers or {})
        answer = connection.getresponse()
        text = answer.read()
        kind = answer.headers.get("content-type", "")
        parsed = json.loads(text) if text and kind.startswith("application/json") else text.decode()
        return Answer(answer.status, parsed, {name.lower(): value for name, value in answer.getheaders()})
    finally:
        connection.close()


@dataclass
class Running:
    """A service that runs, in `run`."""

    process: subprocess.Popen[bytes]
    run: Path
    output: Path
    port: int = 0

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        return ask(self.port, method, path, body, headers)

    def next(self, user: int, track: int = 100, time: float = 1.0) -> Answer:
        return self.ask("POST", f"/next/{user}", {"track": track, "time": time})

    def health(self) -> str:
        return str(self.ask("GET", "/health").body["status"])

    def version(self) -> str:
        return str(self.ask("GET", "/health").body["version"])

    def wait_for_health(self, wanted: str) -> None:
        wait_until(lambda: self.health() == wanted, f"health {wanted}")

    def wait_for_version(self, wanted: str) -> None:
        wait_until(lambda: self.version() == wanted, f"version {wanted}")

    def workers(self) -> list[int]:
        """Process ids."""
        pid = self.process.pid
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def lines(self) -> list[dict[str, Any]]:
        """All events of all logs; fails where one is torn."""
        return read_lines(self.run / "logs")

    def num_whole_lines(self) -> int:
        """Events so far, while the service writes: half of a write may be visible for a moment."""
        return sum(path.read_bytes().count(b"\n") for path in (self.run / "logs").rglob("data.json*"))

    def said(self) -> str:
        return self.output.read_text()

    def is_refusing(self) -> bool:
        """Whether new connections are refused."""
        try:
            socket.create_connection(("127.0.0.1", self.port)).close()
        except ConnectionRefusedError:
            return True
        return False

    def stop(self) -> None:
        """By SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(PATIENCE_S) == 0, self.said()


@contextmanager
def serving(cwd: Path, *words: str, run: str = "run", env: dict[str, str] | None = None) -> Iterator[Running]:
    """A service that is ready, in the folder `run`; ends by SIGTERM, and must have had no bug by then."""
    output = cwd / f"{run}.txt"
    with (
        output.open("wb") as file,
        starting(cwd, *words, f"run_dir={run}", env=env, stdout=file, stderr=subprocess.STDOUT) as process,
    ):
        service = Running(process, cwd / run, output)

        def is_ready() -> bool:
            assert process.poll() is None, output.read_text()
            return "\nstop  " in output.read_text()

        wait_until(is_ready, f"ready: {output}")
        assert not (cwd / "outputs" / "serve").exists()
        service.port = int(json.loads((service.run / "serve.json").read_text())["port"])
        yield service
        if process.poll() is None:
            service.stop()
        assert "internal error" not in service.said(), service.said()
        assert "Traceback" not in service.said(), service.said()


def read_lines(logs: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for path in sorted(logs.rglob("data.json*")):
        text = path.read_bytes()
        assert not text or text.endswith(b"\n"), f"{path} ends in half a line"
        found += map(json.loads, text.splitlines())
    return found


class Asked(NamedTuple):
    """A request of a listener, and the track that was answered, if one was."""

    number: int
    call: str
    user: int
    track: int
    answer: int | None


@dataclass
class Crowd:
    """What listeners asked, and what became of it."""

    answered: list[Asked] = field(default_factory=list)
    refused: list[tuple[Asked, int, str]] = field(default_factory=list)
    broken: list[tuple[Asked, str]] = field(default_factory=list)
    num_asked: int = 0
    is_over: bool = False

    @property
    def failed(self) -> list[object]:
        return [*self.refused, *self.broken]

    def statuses(self) -> Counter[int]:
        return Counter(status for _, status, _ in self.refused)

    def wait_for(self, num_more: int) -> None:
        """Until so many more requests were answered."""
        wanted = len(self.answered) + num_more
        wait_until(lambda: len(self.answered) >= wanted, f"{num_more} more answers")

    def check(self, lines: list[dict[str, Any]]) -> None:
        """Every answer has exactly one line, which tells the same; a line without one belongs to a broken request."""
        found = Counter(map(number_of, lines))
        assert {number: count for number, count in found.items() if count > 1} == {}
        by_number = {number_of(line): line for line in lines}
        missing = [asked for asked in self.answered if asked.number not in by_number]
        assert missing == []
        for asked in self.answered:
            line = by_number[asked.number]
            told = (line["message"], line["user"], line["track"], line["recommendation"])
            assert told == (asked.call, asked.user, asked.track, asked.answer)
        known = {asked.number for asked in self.answered} | {asked.number for asked, _ in self.broken}
        assert set(by_number) <= known


@contextmanager
def crowd(
    *ports: int, connections: int = 8, first_user: int = 1, tracks: range = range(100, 160), pause_s: float = 0.01
) -> Iterator[Crowd]:
    """Listeners, a connection each, who ask until the block is left; what is then in flight is waited for.

    A session is five tracks and the end, of a user of its own; requests go to the ports in turn. Who gets no answer
    asks again, by another request.
    """
    told = Crowd()
    thread = threading.Thread(
        target=lambda: asyncio.run(_listen_all(told, ports, connections, first_user, tracks, pause_s)), daemon=True
    )
    thread.start()
    try:
        yield told
    finally:
        told.is_over = True
        thread.join(PATIENCE_S)
    assert not thread.is_alive()


async def _listen_all(
    told: Crowd, ports: tuple[int, ...], connections: int, first_user: int, tracks: range, pause_s: float
) -> None:
    numbers, users = itertools.count(), itertools.count(first_user)
    connector = aiohttp.TCPConnector(limit=0, force_close=False)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=PATIENCE_S)) as session:
        listeners = (_listen(told, session, ports, numbers, users, tracks, pause_s) for _ in range(connections))
        await asyncio.gather(*listeners)


async def _listen(
    told: Crowd, session: aiohttp.ClientSession, ports: tuple[int, ...], numbers: Iterator[int], users: Iterator[int],
    tracks: range, pause_s: float,
) -> None:  # fmt: skip
    turn = 0
    while True:
        user, track = next(users), tracks[next(numbers) % len(tracks)]
        for call in ["next"] * 5 + ["last"]:
            is_answered = False
            while not is_answered:
                if told.is_over:
                    return
                turn += 1
                asked = Asked(next(numbers), call, user, track, None)
                assert asked.number <= CLOCK
                told.num_asked = asked.number + 1
                is_answered, track = await _ask(told, session, ports[turn % len(ports)], asked)
                await asyncio.sleep(pause_s if is_answered else 0.02)


async def _ask(told: Crowd, session: aiohttp.ClientSession, port: int, asked: Asked) -> tuple[bool, int]:
    body = {"track": asked.track, "time": 1 - asked.number / CLOCK}
    try:
        async with session.post(f"http://127.0.0.1:{port}/{asked.call}/{asked.user}", json=body) as response:
            text = await response.text()
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        told.broken.append((asked, repr(error)))
        return False, asked.track
    if response.status != 200:
        told.refused.append((asked, response.status, text))
        return False, asked.track
    answer = json.loads(text).get("track")
    told.answered.append(asked._replace(answer=answer))
    return True, asked.track if answer is None else answer


def binary(name: str) -> str:
    """Path of a program; where it is missing the test is skipped."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed here; on Debian: apt-get install {name}")
    return found


@dataclass
class Redis:
    """A redis-server without a memory beyond its process."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def words(self) -> tuple[str, str]:
        """What makes serve.py use it."""
        return "store=redis", f"store.url=redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.folder.mkdir(exist_ok=True)
        words = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", "."]
        with (self.folder / "redis.txt").open("ab") as file:
            self.process = subprocess.Popen([binary("redis-server"), *words], cwd=self.folder, stdout=file)

        def answers() -> bool:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(5) == b"+PONG"

        wait_until(answers, "Redis")

    def stop(self) -> None:
        """By kill -9."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@contextmanager
def redis_server(folder: Path, *, is_up: bool = True) -> Iterator[Redis]:
    """Redis, at a port that stays its own while it is down."""
    with held_port() as port:
        server = Redis(folder, port)
        try:
            if is_up:
                server.start()
            yield server
        finally:
            server.stop()
