"""From settings to running workers."""

import asyncio
import contextlib
import functools
import gc
import itertools
import logging
import os
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import uvloop

from segue.errors import InputError
from segue.runs.catalog_files import write_lines
from segue.serving.log_writer import EventLogWriter
from segue.serving.settings import TOKEN, ServiceSettings
from segue.serving.stores import make_sessions, make_stores
from segue.serving.supervisor import Supervisor
from segue.serving.worker_table import WorkerTable, worker_name

if TYPE_CHECKING:
    import segue.serving.app
    import segue.serving.prometheus_metrics  # both are imported by `import_service`, once the metrics have their folder

    OpenRoom = Callable[[ServiceSettings], segue.serving.app.Room | None]

_metrics_folders: list[tempfile.TemporaryDirectory[str]] = []  # each is removed when this process ends

_REPORT_S = 60
"""Seconds between two lines about fallbacks in the service's own log."""

_STOP_S = 4
"""Seconds after which a worker that does not stop is killed."""

_GRACE_S = 2
"""Seconds that a worker that stops waits for requests whose rest has not arrived, before it closes the connections."""

_log = logging.getLogger("segue.serving")


def import_service() -> None:
    """Import all that workers need, before they are forked."""
    _metrics_folders.append(tempfile.TemporaryDirectory(prefix="segue-metrics-"))
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = _metrics_folders[0].name  # is read when the metrics are imported
    import granian.server.embed

    from segue.serving import app, redis_store

    assert granian, (app, redis_store)


def make_service(
    settings: ServiceSettings, open_room: "OpenRoom", *, worker: int, workers: WorkerTable, supervisor: int
) -> "segue.serving.app.ServiceApp":
    """Build the application of one worker, in the process of that worker.

    Args:
        settings: how to serve.
        open_room: opens the listening room in this worker.
        worker: number of the worker, from 0.
        workers: the state of all workers; this one is set ready when it starts to answer.
        supervisor: process id of the supervisor; the worker stops when that process has ended.

    Raises:
        InputError: the event log cannot be written, or there is no release to serve.
    """
    from segue.serving.app import ServiceApp
    from segue.serving.prometheus_metrics import Metrics
    from segue.serving.recommender import Recommender
    from segue.serving.state import State, follow_store

    run_dir, limits = Path(settings.run_dir), settings.limits
    rng = np.random.default_rng(None if settings.seed is None else [settings.seed, worker + 1])
    store, shared = make_stores(settings)
    sessions, close_sessions = make_sessions(settings)
    metrics = Metrics()
    log = EventLogWriter(
        run_dir / "logs" / worker_name(worker), **settings.log_settings(), on_write=metrics.count_events
    )
    release, problem = store.open_whole()
    state = State(
        recommender=Recommender(release, rng), sessions=sessions, log=log, workers=workers, store_problem=problem
    )

    async def observe() -> None:
        workers.set_ready(worker, time.monotonic())
        for second in itertools.count():
            metrics.observe(log.num_waiting, log.num_lines, len(state.problems()))
            if second % _REPORT_S == _REPORT_S - 1:
                metrics.report_fallbacks()
            if os.getppid() != supervisor:  # it was killed and cannot stop this worker
                signal.raise_signal(signal.SIGTERM)
            await asyncio.sleep(1)

    gc.collect()
    gc.freeze()  # what exists now stays; without this each full collection delays the answers by 30 ms
    fetch = None if shared is None else shared.fetch
    follow = functools.partial(follow_store, state, store, fetch, poll_s=settings.poll_s, rng=rng)
    room = open_room(settings)
    return ServiceApp(
        state=state,
        metrics=metrics,
        upkeep=[log.run, observe, follow],
        closing=[log.close, *close_sessions, *([] if room is None else [room.close])],
        max_body_bytes=limits["max_body_bytes"],
        body_timeout_s=limits["body_timeout_s"],
        token=os.environ.get(TOKEN) or None,
        rate_limit=settings.rate_limit(),
        with_fallback=settings.log["with_fallback"],
        with_propensity=settings.log["with_propensity"],
        room=room,
    )


def run(settings: ServiceSettings, show: Callable[[str], None], open_room: "OpenRoom") -> None:
    """Run the workers until SIGTERM or Ctrl-C, then stop them and print what the service has done.

    Args:
        settings: how to serve; `prepared_service` holds the port.
        show: prints a line: the address when the service is ready, and counts when it has stopped.
        open_room: opens the listening room in a worker; returns None where it is switched off.

    Raises:
        InputError: no worker could start.
    """
    from segue.serving.prometheus_metrics import forget_gauges, totals

    sys.stdout.flush()  # before the workers are forked, because each would write it again
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    make_sessions(settings)  # before several workers map it at the same time
    started_s = time.monotonic()
    workers = WorkerTable(settings.workers, reset_after_s=settings.restart["reset_after_s"])
    supervisor = Supervisor(
        functools.partial(_run_worker, settings, workers, open_room, os.getpid()),
        workers,
        max_pause_s=settings.restart["max_pause_s"],
        stop_s=_STOP_S,
        on_death=lambda worker: forget_gauges(worker_name(worker)),
    )
    catalogue = get_context("fork").Process(target=_write_catalogue, args=(settings,), daemon=True)

    def announce() -> bool:
        address = _local_address(settings)
        if catalogue.exitcode is None or not _listens(address):
            return False
        where = f"http://{f'[{address[0]}]' if ':' in address[0] else address[0]}:{address[1]}"
        num_ready = workers.num_ready
        of = "" if num_ready == len(workers) else f" of {len(workers)}"
        noun = "worker" if len(workers) == 1 else "workers"
        show(f"serving      {where} ({num_ready}{of} {noun}), documentation: {where}/docs")
        if settings.room["enabled"]:
            show(f"room         {where}/room")
        show(f"event logs   {settings.run_dir}/logs")
        show("stop         Ctrl-C, or SIGTERM")
        return True

    catalogue.start()
    supervisor.run(announce)
    num_restarts = sum(workers.restarts().values())
    show(f"stopped      {closing_line(totals(), num_restarts, time.monotonic() - started_s)}")


def _run_worker(
    settings: ServiceSettings, workers: WorkerTable, open_room: "OpenRoom", supervisor: int, worker: int
) -> None:
    from segue.serving.prometheus_parts import count_as

    count_as(worker_name(worker))
    try:
        service = make_service(settings, open_room, worker=worker, workers=workers, supervisor=supervisor)
    except InputError as error:
        _log.error("%s cannot start: %s", worker_name(worker), error)
        sys.exit(2)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_answer(service, settings))


async def _answer(service: "segue.serving.app.ServiceApp", settings: ServiceSettings) -> None:
    """Answer requests until SIGTERM or SIGINT."""
    from granian.constants import HTTPModes, Interfaces
    from granian.http import HTTP1Settings
    from granian.log import LogLevels
    from granian.server.embed import Server

    limits = settings.limits
    server: Any = Server(  # whose methods have no types
        service,
        address=settings.host,
        port=settings.port,
        interface=Interfaces.ASGI,
        http=HTTPModes.http1,  # without waiting for an HTTP/2 preface, during which idle clients would not time out
        websockets=False,
        backlog=1024,
        backpressure=limits["connections"],
        http1_settings=HTTP1Settings(
            header_read_timeout=int(limits["header_timeout_s"] * 1000), max_buffer_size=limits["header_bytes"]
        ),
        log_level=LogLevels.error,
    )
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    serving, stopped = asyncio.ensure_future(server.serve()), asyncio.ensure_future(stopping.wait())
    await asyncio.wait([serving, stopped], return_when=asyncio.FIRST_COMPLETED)
    if stopping.is_set():
        server.stop()
        await asyncio.wait([serving], timeout=_GRACE_S)  # the server itself waits for every connection, without end
    await service.close()
    if not serving.done():
        os._exit(0)  # which closes them; the server would log a traceback for each
    await serving
    if not stopping.is_set():  # the server has logged why it ended
        sys.exit(1)


def _write_catalogue(settings: ServiceSettings) -> None:
    """Write the catalogue into the run folder, because training the next model needs logs and catalogue."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # which ends it with the service
    release = make_stores(settings).local.open()
    path = Path(settings.run_dir, "tracks.json")
    try:
        write_lines(path, map(release.track, range(len(release))))
    except OSError as error:
        _log.warning("cannot write %s: %s; the service runs without it", path, error.strerror)


def _local_address(settings: ServiceSettings) -> tuple[str, int]:
    """Where this machine reaches the service."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host), settings.port


def _listens(address: tuple[str, int]) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(address, timeout=1):
        return True
    return False


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
