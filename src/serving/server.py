"""From settings to running workers."""

import asyncio
import contextlib
import fcntl
import functools
import gc
import http.client
import itertools
import json
import logging
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.catalog_files import write_lines
from src.errors import InputError, check_flag, check_number
from src.serving.event_log import EventLog, check_log
from src.serving.limits import RateLimit
from src.serving.sessions import MappedSessions, check_limits
from src.serving.store import FolderStore

SETTINGS = "serve.json"
TOKEN = "SEGUE_TOKEN"
REDIS = "SEGUE_REDIS_URL"

_metrics = tempfile.TemporaryDirectory(prefix="segue-metrics-")

_TELL_S = 60
"""Between two words about fallbacks in the service's own log."""

_STOP_S = 4
"""A worker that has not stopped by then is killed."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to serve; see conf/serve.yaml. Secrets are not among them: they come by environment.

    Raises:
        InputError: one breaks its law.
    """

    run_dir: str
    host: str
    port: int
    workers: int
    seed: int | None
    poll_s: float
    store: dict[str, Any]
    sessions: dict[str, Any]
    log: dict[str, Any]
    limits: dict[str, Any]

    def __post_init__(self) -> None:
        check_number("workers", self.workers, whole=True, least=1, most=256)
        check_number("store.poll_s", self.poll_s, above=0)
        if self.seed is not None:
            check_number("seed", self.seed, whole=True, least=0)
        limits = self.limits
        check_number("limits.max_body_bytes", limits["max_body_bytes"], whole=True, least=64)
        check_number("limits.body_timeout_s", limits["body_timeout_s"], above=0)
        check_number("limits.header_timeout_s", limits["header_timeout_s"], above=0, most=60)
        check_number("limits.header_bytes", limits["header_bytes"], whole=True, least=8192)
        check_number("limits.connections", limits["connections"], whole=True, least=1)
        self.rate_limit()
        check_flag("log.with_fallback", self.log["with_fallback"])
        check_log(**self.of_lines())
        check_limits(**self.sessions)
        failures, given = ("error", "embedded"), self.store.get("on_failure", "error")
        if given not in failures:
            raise InputError(f"store.on_failure must be one of {', '.join(failures)}, got {given!r}")

    def of_lines(self) -> dict[str, Any]:
        """What `EventLog` is given."""
        return {name: value for name, value in self.log.items() if name != "with_fallback"}

    def rate_limit(self) -> RateLimit | None:
        """The limit of a client, if any."""
        rate = self.limits["requests_per_second"]
        check_number("limits.burst", self.limits["burst"], whole=True, least=1)
        return None if rate is None else RateLimit(per_second=rate, burst=self.limits["burst"])

    def write(self) -> None:
        """Leave them in the run folder."""
        Path(self.run_dir, SETTINGS).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def import_service() -> None:
    """Import all that workers need, before they are forked."""
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = _metrics.name  # is read when the metrics are imported
    import granian

    from src.serving import app, redis_store

    assert granian, (app, redis_store)


def free_port(host: str, port: int) -> int:
    """The port, or a free one for 0, after a look whether somebody listens there.

    Raises:
        InputError: somebody does, or the host is none of this machine's.
    """
    check_number("port", port, whole=True, least=0, most=65535)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen()
            return int(probe.getsockname()[1])
    except OSError as error:
        remedy = "choose another port=, or 0 for a free one"
        raise InputError(f"cannot listen at {host}:{port}: {error.strerror}; {remedy}") from None


def address_of(host: object) -> str:
    """The IP address of a host, of version 4 where it has one.

    Raises:
        InputError: it has none.
    """
    if isinstance(host, str) and host:
        for family in (socket.AF_INET, socket.AF_INET6):
            with contextlib.suppress(OSError, UnicodeError):
                return str(socket.getaddrinfo(host, None, family)[0][4][0])
    raise InputError(f"host must be an address of this machine, such as 127.0.0.1 or 0.0.0.0, got {host!r}")


def check_token() -> None:
    """Refuse a token that no header can bear.

    Raises:
        InputError: the environment variable has other letters.
    """
    token = os.environ.get(TOKEN, "")
    if not (token.isascii() and token.isprintable() and token == token.strip()):
        raise InputError(f"{TOKEN} must be printable ASCII without a space at either end, since it travels in a header")


def make_service(settings: Settings) -> Any:
    """A worker's application."""
    from src.serving.app import Service, State, follow_store
    from src.serving.metrics import Metrics
    from src.serving.recommender import Recommender

    run_dir, limits = Path(settings.run_dir), settings.limits
    name = _claim_name(run_dir)
    rng = np.random.default_rng(None if settings.seed is None else [settings.seed, int(name.split("-")[1])])
    store, remote = make_stores(settings)
    sessions, ends = make_sessions(settings)
    log, metrics = EventLog(run_dir / "logs" / name, **settings.of_lines()), Metrics()
    release, problem = store.open_whole()
    state = State(recommender=Recommender(release, rng), sessions=sessions, log=log, store_problem=problem)
    master = os.getppid()

    async def observe() -> None:
        for second in itertools.count():
            metrics.observe(log.num_waiting, log.num_lines, len(state.problems()))
            if second % _TELL_S == _TELL_S - 1:
                metrics.tell_fallbacks()
            if os.getppid() != master:  # killed, so that nobody will tell this worker to stop
                signal.raise_signal(signal.SIGTERM)
            await asyncio.sleep(1)

    gc.collect()  # what is here stays: without it each full collection holds the answers up for 30 ms
    gc.freeze()
    fetch = None if remote is None else remote.fetch
    follow = functools.partial(follow_store, state, store, fetch, poll_s=settings.poll_s, rng=rng)
    return Service(
        state=state,
        metrics=metrics,
        upkeep=[log.run, observe, follow],
        closing=[log.close, *ends],
        max_body_bytes=limits["max_body_bytes"],
        body_timeout_s=limits["body_timeout_s"],
        token=os.environ.get(TOKEN) or None,
        rate_limit=settings.rate_limit(),
        with_fallback=settings.log["with_fallback"],
    )


def make_stores(settings: Settings) -> tuple[Any, Any]:
    """The folder with releases, and the Redis they come from, if any."""
    given = settings.store
    local = FolderStore(Path(given["folder"]), keep=given["keep"])
    url = os.environ.get(REDIS)
    if given["kind"] != "redis" or url is None:
        return local, None
    from src.serving.redis_store import RedisStore

    timeout_s = given["timeout_s"]
    return local, RedisStore(url=url, name=given["name"], local=local, keep=given["keep"], timeout_s=timeout_s)


def make_sessions(settings: Settings) -> tuple[Any, list[Callable[[], Awaitable[None]]]]:
    """The memory of sessions, and what closes it."""
    local = MappedSessions(Path(settings.run_dir, "sessions.bin"), **settings.sessions)
    url = os.environ.get(REDIS)
    if settings.store["kind"] != "redis" or url is None:
        return local, []
    from src.serving.redis_store import RedisSessions

    given = settings.store
    shared = RedisSessions(url=url, name=given["name"], local=local, timeout_s=given["timeout_s"], **settings.sessions)
    return shared, [shared.close]


_names: list[Any] = []  # open files, whose locks last as long as the worker


def _claim_name(run_dir: Path) -> str:
    """`worker-<k>`, the first that no living worker of this run has: who follows a dead worker goes on with its log."""
    folder = run_dir / "workers"
    folder.mkdir(exist_ok=True)
    number = 1
    while True:
        file = (folder / f"worker-{number}").open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            number += 1
            continue
        _names.append(file)
        return f"worker-{number}"


def run(settings: Settings) -> None:
    """Run the workers until SIGTERM or Ctrl-C; then answer what is in flight, write what is left, and return."""
    from granian import Granian
    from granian.constants import HTTPModes, Interfaces
    from granian.http import HTTP1Settings

    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    make_sessions(settings)  # before workers map it side by side
    limits = settings.limits
    server = Granian(
        "segue",
        address=settings.host,
        port=settings.port,
        interface=Interfaces.ASGI,
        workers=settings.workers,
        http=HTTPModes.http1,  # waits for no HTTP/2 preface, so that silent clients are timed as well
        websockets=False,
        backlog=1024,
        backpressure=limits["connections"],
        http1_settings=HTTP1Settings(
            header_read_timeout=int(limits["header_timeout_s"] * 1000), max_buffer_size=limits["header_bytes"]
        ),
        log_level="warning",  # type: ignore[arg-type]
        respawn_failed_workers=True,
        workers_kill_timeout=_STOP_S,
    )
    threading.Thread(target=_accompany, args=(settings, server), daemon=True).start()
    server.serve(target_loader=functools.partial(make_service, settings), wrap_loader=False)


def _accompany(settings: Settings, server: Any) -> None:
    """Say when the service is ready, and leave its catalogue beside the logs, so that both can train the next model."""
    started_s = time.monotonic()
    while len(server.wrks) < settings.workers:  # nothing but sleep here while workers are forked
        time.sleep(0.02)
    release = make_stores(settings)[0].open()
    write_lines(Path(settings.run_dir, "tracks.json"), map(release.track, range(len(release))))
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    while time.monotonic() - started_s < 60:
        time.sleep(0.02)
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection(host, settings.port, timeout=5)
            connection.request("GET", "/health/live")
            if connection.getresponse().status == 200:
                address = f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"
                print(f"serving      {address} ({settings.workers} workers), what it can: {address}/docs", flush=True)
                print(f"event logs   {settings.run_dir}/logs", flush=True)
                print("stop         Ctrl-C, or SIGTERM", flush=True)
                return
