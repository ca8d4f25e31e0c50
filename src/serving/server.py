"""From the command line to running workers: loads the release in a separate process, then runs the service."""

import asyncio
import contextlib
import functools
import gc
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import uvloop

from segue.errors import InputError
from segue.runs.catalog_files import write_lines
from segue.serving.last_plays import make_last_plays
from segue.serving.loading import ReleaseWriter, check_last_plays, load_to_serve
from segue.serving.log_writer import EventLogWriter
from segue.serving.release import Release
from segue.serving.settings import TOKEN, ServiceSettings, check_token
from segue.serving.stores import make_profiles, make_sessions, make_store
from segue.serving.supervisor import Supervisor, interruptible, stop_signals_recorded
from segue.serving.worker_table import WorkerTable, worker_name

if TYPE_CHECKING:
    import segue.serving.app
    import segue.serving.prometheus_metrics  # both are imported by `import_service`, once the metrics have their folder

    OpenRoom = Callable[[ServiceSettings], segue.serving.app.Room]

Warn = Callable[[str], None]
Busy = Callable[[], contextlib.AbstractContextManager[object]]

_metrics_folders: list[tempfile.TemporaryDirectory[str]] = []  # each is removed when this process ends

_STOP_S = 4  # seconds after which a worker that does not stop is killed
_MAX_PAUSE_S = 5.0  # the pauses before a worker is started again grow to this
_RESET_AFTER_S = 30.0  # seconds without a death after which they begin at 0 again
_POLL_S = 0.25  # between two checks for a new version

# Seconds that a worker that stops waits for requests whose rest has not arrived, before it closes the connections.
_GRACE_S = 2

_log = logging.getLogger("segue.serving")


@contextlib.contextmanager
def prepared_service(
    given: Mapping[str, Any], request: ReleaseWriter | None, *, warn: Warn, busy: Busy
) -> Iterator[tuple[ServiceSettings, Release]]:
    """Check the settings, load the release, and write `serve.json`; if this fails, a store that it created is removed.

    SIGTERM and SIGINT interrupt the loading. Within the block they wait for the supervisor, which then stops at once.

    Args:
        given: the composed config.
        request: the release that the command line names, if any.
        warn: prints a warning; it is called in another process and must therefore be a function of a module.
        busy: shows that work is in progress.

    Yields:
        The settings, and the release that will be served.

    Raises:
        InputError: a setting is out of range, or there is nothing to serve.
        KeyboardInterrupt: a signal arrived before everything was loaded.
    """
    check_token()
    settings = ServiceSettings.of({**given, "host": address_of(given["host"])})
    with hold_port(settings.host, settings.port) as held, stop_signals_recorded():
        settings = replace(settings, port=held.getsockname()[1])
        folder = make_store(settings).local.folder
        had_store = folder.exists()
        try:
            _load_and_import(request, settings, warn=warn, busy=busy)
        except BaseException:
            if not had_store:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        settings.write()
        yield settings, make_store(settings).local.open()


def address_of(host: object) -> str:
    """The IP address of a host; IPv4 if it has one.

    Raises:
        InputError: it has no address.
    """
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError, UnicodeError):
            if isinstance(host, str) and host:
                return str(socket.getaddrinfo(host, None, family)[0][4][0])
    raise InputError(f"host must be an address of this machine, such as 127.0.0.1 or 0.0.0.0, got {host!r}")


def hold_port(host: str, port: int) -> socket.socket:
    """Reserve a port for the workers, which listen at it one by one, also while none of them does.

    Args:
        host: an address of this machine.
        port: the port; 0 for a free one.

    Returns:
        A socket that is bound and does not listen. Only a socket of the same user that shares the port on purpose
        (`SO_REUSEPORT`), as those of the workers do, can be bound to the port as well.

    Raises:
        InputError: another program listens at the port, or the host is not an address of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen()
    except OSError as error:
        remedy = "choose another port=, or 0 for a free one"
        raise InputError(f"cannot listen at {host}:{port}: {error.strerror}; {remedy}") from None
    held = socket.socket(family)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.bind((host, port))
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)  # which would let any program bind it as well
    return held


def _load_and_import(request: ReleaseWriter | None, settings: ServiceSettings, *, warn: Warn, busy: Busy) -> None:
    """Load in a separate process, whose libraries and memory the service does not keep; import the service meanwhile.

    A signal interrupts the loading, once the imports are complete: interrupted imports print errors of libraries. The
    loading process has ended when this function ends.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as loader:
        process = loader.submit(os.getpid).result()  # forked while signals are recorded: none ends it before its work
        try:
            with busy():
                loading = loader.submit(_load_elsewhere, request, settings, warn)
                import_service()
                with interruptible():
                    loading.result()
        except KeyboardInterrupt:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGINT)  # as Ctrl-C reaches both processes
            raise


def _load_elsewhere(request: ReleaseWriter | None, settings: ServiceSettings, warn: Warn) -> None:
    try:
        with interruptible():
            load_to_serve(request, settings, warn)
            release = make_store(settings).local.open()
            check_last_plays(release.arms, lambda: settings.profiles.remember)
            _write_tracks(release, settings, warn)
    except KeyboardInterrupt:  # the waiting process is interrupted as well and prints it
        raise InputError("interrupted") from None


def _write_tracks(release: Release, settings: ServiceSettings, warn: Warn) -> None:
    """Write `tracks.json`, because training the next model needs logs and catalogue; kept tracks are in logs too."""
    path = Path(settings.run_dir, "tracks.json")
    try:
        write_lines(path, map(release.track, range(len(release))))
    except OSError as error:
        warn(f"cannot write {path}: {error.strerror}; the service runs without it")


def _follow_tracks(settings: ServiceSettings) -> Callable[[], None]:
    """What writes `tracks.json` again when another release has become current."""
    store = make_store(settings).local
    written = store.index().current

    def follow() -> None:
        nonlocal written
        with contextlib.suppress(InputError):  # a damaged release; the workers say so
            if (current := store.index().current) != written:
                written = current
                _write_tracks(store.open(), settings, _log.warning)

    return follow


def import_service() -> None:
    """Import all that workers need, before they are forked; `make_store` has imported the client of Redis, if any."""
    _metrics_folders.append(tempfile.TemporaryDirectory(prefix="segue-metrics-"))
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = _metrics_folders[0].name  # is read when the metrics are imported
    import granian.server.embed

    from segue.serving import app

    assert granian, app


def run(settings: ServiceSettings, show: Callable[[str], None], open_room: "OpenRoom | None") -> None:
    """Run the workers until SIGTERM or Ctrl-C, then stop them and print what the service has done.

    Args:
        settings: how to serve; `prepared_service` holds the port.
        show: prints a line: the address when the service is ready, and counts when it has stopped.
        open_room: opens the listening room in a worker, if there is one.

    Raises:
        InputError: no worker could start.
    """
    from prometheus_client.multiprocess import mark_process_dead

    from segue.serving.prometheus_metrics import totals

    sys.stdout.flush()  # before the workers are forked, because each would write it again
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    make_sessions(settings)  # before several workers map it at the same time
    make_last_plays(settings)
    started_s = time.monotonic()
    workers = WorkerTable(settings.workers, reset_after_s=_RESET_AFTER_S)
    supervisor = Supervisor(
        functools.partial(_run_worker, settings, workers, open_room, os.getpid()),
        workers,
        max_pause_s=_MAX_PAUSE_S,
        stop_s=_STOP_S,
        on_death=lambda worker: mark_process_dead(worker_name(worker)),  # its gauges go, and its counters stay
    )
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # where this machine reaches it
    where = f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"

    def announce() -> bool:
        try:
            socket.create_connection((host, settings.port), timeout=1).close()
        except OSError:
            return False
        of = "" if workers.num_ready == len(workers) else f" of {len(workers)}"
        noun = "worker" if len(workers) == 1 else "workers"
        show(f"serving      {where} ({workers.num_ready}{of} {noun}), documentation: {where}/docs")
        if open_room is not None:
            show(f"room         {where}/room")
        show(f"event logs   {settings.run_dir}/logs")
        show("stop         Ctrl-C, or SIGTERM")
        return True

    supervisor.run(announce, _follow_tracks(settings))
    show(f"stopped      {closing_line(totals(), sum(workers.restarts().values()), time.monotonic() - started_s)}")


def _run_worker(
    settings: ServiceSettings, workers: WorkerTable, open_room: "OpenRoom | None", supervisor: int, worker: int
) -> None:
    from segue.serving.prometheus_metrics import count_as

    count_as(worker_name(worker))
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_answer(settings, workers, open_room, supervisor, worker))
    except InputError as error:
        _log.error("%s cannot start: %s", worker_name(worker), error)
        sys.exit(2)


async def _answer(
    settings: ServiceSettings, workers: WorkerTable, open_room: "OpenRoom | None", supervisor: int, worker: int
) -> None:
    """Answer requests until SIGTERM or SIGINT.

    Args:
        settings: how to serve.
        workers: the state of all workers; this one is set ready when it starts to answer.
        open_room: opens the listening room in this worker, if there is one.
        supervisor: process id of the supervisor; the worker stops when that process has ended.
        worker: number of the worker, from 0.

    Raises:
        InputError: the event log cannot be written, or there is no release to serve.
    """
    from granian.constants import HTTPModes, Interfaces
    from granian.http import HTTP1Settings
    from granian.log import LogLevels
    from granian.server.embed import Server

    from segue.serving.app import ServiceApp
    from segue.serving.prometheus_metrics import Metrics
    from segue.serving.recommender import Recommender
    from segue.serving.state import State, follow_store

    rng = np.random.default_rng(None if settings.seed is None else [settings.seed, worker + 1])
    store, sessions, metrics = make_store(settings), make_sessions(settings), Metrics()
    profiles = None if settings.profiles.remember == "none" else make_profiles(settings.store, settings.profiles)
    last_plays = make_last_plays(settings)
    log = EventLogWriter(Path(settings.run_dir, "logs", worker_name(worker)), settings.log, metrics.count_events)
    release, problem = store.local.open_whole()
    state = State(
        recommender=Recommender(release, rng, settings.policies),
        sessions=sessions,
        last_plays=last_plays,
        remember=settings.profiles,
        profiles=profiles,
        log=log,
        workers=workers,
        store_problem=problem,
    )
    if state.recommender.knows_listeners and profiles is not None:
        await profiles.open()
    room = None if open_room is None else open_room(settings)
    token = os.environ.get(TOKEN) or None
    service = ServiceApp(state, metrics, limits=settings.limits, logged=settings.log, token=token, room=room)
    gc.collect()
    gc.freeze()  # what exists now stays; without this each full collection delays the answers by 30 ms

    async def observe() -> None:
        workers.set_ready(worker, time.monotonic())
        while os.getppid() == supervisor:
            metrics.observe(log.num_waiting, log.num_lines, len(state.problems()))
            await asyncio.sleep(1)
        signal.raise_signal(signal.SIGTERM)  # it was killed and cannot stop this worker

    follow = follow_store(state, store, poll_s=_POLL_S, rng=rng)
    limits = settings.limits
    server: Any = Server(  # whose methods have no types
        service,
        address=settings.host,
        port=settings.port,
        interface=Interfaces.ASGINL,
        http=HTTPModes.http1,  # without waiting for an HTTP/2 preface, during which idle clients would not time out
        websockets=False,
        backlog=1024,
        backpressure=limits.connections,
        http1_settings=HTTP1Settings(
            header_read_timeout=int(limits.header_timeout_s * 1000), max_buffer_size=limits.header_bytes
        ),
        log_level=LogLevels.error,
    )
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    upkeep = [asyncio.ensure_future(work) for work in (log.run(), observe(), follow)]
    serving, stopped = asyncio.ensure_future(server.serve()), asyncio.ensure_future(stopping.wait())
    await asyncio.wait([serving, stopped], return_when=asyncio.FIRST_COMPLETED)
    if stopping.is_set():
        server.stop()
        await asyncio.wait([serving], timeout=_GRACE_S)  # the server itself waits for every connection, without end
    for task in upkeep:
        task.cancel()
    await asyncio.gather(*upkeep, return_exceptions=True)
    used = log, sessions, last_plays, profiles, room
    for one in used:  # requests that are still in progress get no line in the log
        if (close := getattr(one, "close", None)) is not None:
            await close()
    if not serving.done():
        os._exit(0)  # which closes them; the server would log a traceback for each
    await serving
    if not stopping.is_set():  # the server has logged why it ended
        sys.exit(1)


def closing_line(totals: "segue.serving.prometheus_metrics.Totals", num_restarts: int, uptime_s: float) -> str:
    """What the service has done, in one line.

    Args:
        totals: counted by all workers.
        num_restarts: restarts of workers that died.
        uptime_s: seconds since the start.
    """
    by_endpoint: Counter[str] = Counter({"next": 0, "last": 0, "page": 0})
    by_class: Counter[str] = Counter({"2xx": 0})
    for (endpoint, status), count in totals.requests.items():
        by_endpoint[endpoint] += count
        by_class[f"{status[0]}xx"] += count
    endpoints = ", ".join(f"{name} {count:,}" for name, count in by_endpoint.items())
    classes = ", ".join(f"{name} {count:,}" for name, count in sorted(by_class.items()))
    return (
        f"after {uptime_s:,.1f} s; requests answered: {by_class.total():,} ({endpoints}; {classes}); "
        f"events logged: {totals.num_events:,}; fallbacks: {totals.num_fallbacks:,}; worker restarts: {num_restarts:,}"
    )
