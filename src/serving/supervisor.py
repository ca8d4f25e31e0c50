"""Keeps the workers of a service running: starts them, restarts those that die, and stops all of them.

Each worker is a process that is forked from this one and listens at the same port by itself (`SO_REUSEPORT`).
Therefore the others continue to answer while one is down.

SIGTERM and SIGINT (Ctrl-C) stop it. Before it runs they interrupt the start, or wait for it.
"""

import contextlib
import logging
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing import connection, get_context
from multiprocessing.context import ForkProcess

from segue.errors import InputError
from segue.serving.worker_table import WorkerTable, exit_cause, worker_name

START_ATTEMPTS = 4
"""How often each worker may fail to start before the service gives up, where none was ever ready."""

_FIRST_PAUSE_S = 0.5
_TICK_S = 0.05  # seconds between two looks at workers that start

_IDLE_S = 1.0  # seconds between two looks at workers that run; a death or a signal ends the wait at once

_log = logging.getLogger("segue.serving")

OfWorker = Callable[[int], None]  # called with the number of a worker, from 0

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_received: list[int] = []
_raises = False


@contextlib.contextmanager
def stop_signals_recorded() -> Iterator[None]:
    """Record these signals instead of acting on them, here and in processes that are forked meanwhile."""
    before = {number: signal.signal(number, _record) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _received.clear()


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let the first signal raise KeyboardInterrupt; one that was recorded before raises it at once.

    Later signals are recorded, therefore they do not interrupt what cleans up.
    """
    global _raises
    try:
        _raises = True
        if _received:
            raise KeyboardInterrupt
        yield
    finally:
        _raises = False


def _record(number: int, _: object) -> None:
    global _raises
    _received.append(number)
    if _raises:
        _raises = False
        raise KeyboardInterrupt


def pause_s(num_deaths: int, *, max_pause_s: int | float) -> float:
    """Seconds to wait before a worker that died is started again: 0, 0.5, 1, 2, 4 and so on up to the largest pause.

    Args:
        num_deaths: how many times in a row it died, at least 1.
        max_pause_s: the largest pause.
    """
    if num_deaths <= 1:
        return 0.0
    doublings = min(num_deaths - 2, 20)  # far above any largest pause, and no overflow after a year of restarts
    return min(float(max_pause_s), _FIRST_PAUSE_S * 2.0**doublings)


class Supervisor:
    """Runs a fixed number of workers, until SIGTERM or SIGINT stops them.

    Args:
        work: what a worker does, given its number from 0; it must end on SIGTERM.
        table: where the state of each worker is recorded.
        max_pause_s: the largest pause before a worker that keeps dying is started again.
        stop_s: seconds after which a worker that does not stop is killed.
        on_death: is called with the number of a worker that has ended, before it is started again.
    """

    def __init__(
        self, work: OfWorker, table: WorkerTable, *, max_pause_s: int | float, stop_s: int | float, on_death: OfWorker
    ) -> None:
        self._work, self._table, self._on_death = work, table, on_death
        self._max_pause_s, self._stop_s = max_pause_s, stop_s
        self._processes: dict[int, ForkProcess] = {}
        self._start_at_s: dict[int, float] = {}

    def run(self, announce: Callable[[], bool], each_second: Callable[[], object] = lambda: None) -> None:
        """Run the workers until a signal stops them.

        Args:
            announce: is called once all workers have started, until it returns True.
            each_second: is called about once a second after that.

        Raises:
            InputError: no worker could start.
        """
        is_announced = was_ready = False
        with stop_signals_recorded(), contextlib.suppress(KeyboardInterrupt):
            try:
                with interruptible():
                    self._start_at_s = dict.fromkeys(range(len(self._table)), time.monotonic())
                    while not _received:  # code that runs between two lines can swallow what a signal raises
                        self._start_due()
                        due_s = [at_s - time.monotonic() for at_s in self._start_at_s.values()]
                        timeout_s = max(0.0, min([_IDLE_S if is_announced else _TICK_S, *due_s]))
                        connection.wait([process.sentinel for process in self._processes.values()], timeout_s)
                        self._collect_dead()
                        was_ready = was_ready or self._table.num_ready > 0
                        num_deaths = min(row.num_deaths for row in self._table.rows)
                        if not was_ready and num_deaths >= START_ATTEMPTS:
                            raise InputError(
                                f"no worker could start: each of {len(self._table)} died {num_deaths} times before any "
                                "was ready; the lines above say why"
                            )
                        if is_announced:
                            each_second()
                        is_announced = is_announced or (self._table.has_started and announce())
            finally:
                self._stop()

    def _start_due(self) -> None:
        for worker in [worker for worker, at_s in self._start_at_s.items() if at_s <= time.monotonic()]:
            del self._start_at_s[worker]
            # signals are blocked meanwhile, because the worker would handle them as the supervisor does
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
            try:
                process = get_context("fork").Process(
                    target=_run_worker, args=(self._work, worker, mask), name=worker_name(worker), daemon=True
                )
                process.start()
                self._processes[worker] = process
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            self._table.rows[worker].num_restarts += self._table.rows[worker].num_deaths > 0

    def _collect_dead(self) -> None:
        for worker, process in list(self._processes.items()):
            if (exit_code := process.exitcode) is None:
                continue
            del self._processes[worker]
            process.close()
            self._on_death(worker)
            now_s = time.monotonic()
            num_deaths = self._table.add_death(worker, exit_code, now_s)
            wait_s = pause_s(num_deaths, max_pause_s=self._max_pause_s)
            self._start_at_s[worker] = self._table.rows[worker].restart_at_s = now_s + wait_s
            row = f", {num_deaths} times in a row" if num_deaths > 1 else ""
            when = f"in {wait_s:g} s" if wait_s else "now"
            _log.warning("%s died by %s%s; it restarts %s", worker_name(worker), exit_cause(exit_code), row, when)

    def _stop(self) -> None:
        """Stop all workers. Each answers the requests it has received; one that takes too long is killed."""
        for process in self._processes.values():
            process.terminate()
        deadline_s = time.monotonic() + self._stop_s
        for worker, process in self._processes.items():
            process.join(max(0.0, deadline_s - time.monotonic()))
            if process.exitcode is None:
                _log.warning("%s did not stop within %g s and is killed", worker_name(worker), self._stop_s)
                process.kill()
                process.join()


def _run_worker(work: OfWorker, worker: int, mask: set[signal.Signals]) -> None:
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    work(worker)
