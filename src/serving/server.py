"""From settings to running workers."""

import asyncio
import contextlib
import fcntl
import functools
import gc
import http.client
import itertools
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np

from src.catalog_files import write_lines
from src.serving.log_writer import EventLogWriter
from src.serving.settings import TOKEN, ServiceSettings
from src.serving.stores import make_sessions, make_stores

if TYPE_CHECKING:
    import src.serving.app  # which is imported by `import_service`, once the metrics have their folder

_metrics: list[tempfile.TemporaryDirectory[str]] = []  # which last as long as this process

_REPORT_S = 60
"""Between two lines about fallbacks in the service's own log."""

_STOP_S = 4
"""A worker that has not stopped by then is killed."""


def import_service() -> None:
    """Import all that workers need, before they are forked."""
    _metrics.append(tempfile.TemporaryDirectory(prefix="segue-metrics-"))
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = _metrics[0].name  # is read when the metrics are imported
    import granian

    from src.serving import app, redis_store

    assert granian, (app, redis_store)


def make_service(settings: ServiceSettings) -> "src.serving.app.ServiceApp":
    """A worker's application."""
    from src.serving.app import ServiceApp
    from src.serving.metrics import Metrics, forget_dead
    from src.serving.recommender import Recommender
    from src.serving.state import State, follow_store

    run_dir, limits = Path(settings.run_dir), settings.limits
    name, before = _claim_name(run_dir)
    rng = np.random.default_rng(None if settings.seed is None else [settings.seed, int(name.split("-")[1])])
    store, shared = make_stores(settings)
    sessions, ends = make_sessions(settings)
    log, metrics = EventLogWriter(run_dir / "logs" / name, **settings.of_lines()), Metrics()
    forget_dead(before)
    release, problem = store.open_whole()
    state = State(recommender=Recommender(release, rng), sessions=sessions, log=log, store_problem=problem)
    master = os.getppid()

    async def observe() -> None:
        for second in itertools.count():
            metrics.observe(log.num_waiting, log.num_lines, len(state.problems()))
            if second % _REPORT_S == _REPORT_S - 1:
                metrics.report_fallbacks()
            if os.getppid() != master:  # killed, so that nobody will stop this worker
                signal.raise_signal(signal.SIGTERM)
            await asyncio.sleep(1)

    gc.collect()  # what is here stays: without it each full collection holds the answers up for 30 ms
    gc.freeze()
    fetch = None if shared is None else shared.fetch
    follow = functools.partial(follow_store, state, store, fetch, poll_s=settings.poll_s, rng=rng)
    return ServiceApp(
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


_names: list[TextIO] = []  # open files, whose locks last as long as the worker


def _claim_name(run_dir: Path) -> tuple[str, list[int]]:
    """`worker-<k>`, the first that no living worker of this run has, and the processes that had it before.

    Who follows a dead worker goes on with its log.
    """
    folder = run_dir / "workers"
    folder.mkdir(exist_ok=True)
    number = 1
    while True:
        file = (folder / f"worker-{number}").open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            number += 1
            continue
        _names.append(file)
        file.seek(0)
        before = [int(line) for line in file]
        print(os.getpid(), file=file, flush=True)
        return f"worker-{number}", before


def run(settings: ServiceSettings) -> None:
    """Run the workers until SIGTERM or Ctrl-C; then answer what is in flight, write what is left, and return."""
    from granian import Granian
    from granian.constants import HTTPModes, Interfaces
    from granian.http import HTTP1Settings
    from granian.log import LogLevels

    sys.stdout.flush()  # before workers are forked, who would write it again
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
        log_level=LogLevels.warning,
        respawn_failed_workers=True,
        workers_kill_timeout=_STOP_S,
    )
    threading.Thread(target=_accompany, args=(settings,), daemon=True).start()
    server.serve(target_loader=functools.partial(make_service, settings), wrap_loader=False)


def _accompany(settings: ServiceSettings) -> None:
    """Say when the service is ready, and leave its catalogue beside the logs, so that both can train the next model."""
    started_s = time.monotonic()
    last_name = Path(settings.run_dir, "workers", f"worker-{settings.workers}")
    while not last_name.exists():  # hold no lock here while workers are forked
        time.sleep(0.02)
    release = make_stores(settings).local.open()
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
