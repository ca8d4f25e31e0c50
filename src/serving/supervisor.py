"""Keeps the workers of a service running: starts them, restarts those that die, and stops all of them.

Each worker is a process that is forked from this one and listens at the same port by itself (`SO_REUSEPORT`).
Therefore the others continue to answer while one is down.
"""

import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing import connection, get_context
from multiprocessing.context import ForkProcess
from typing import NamedTuple

from segue.errors import InputError
from segue.serving.stop_signals import STOP_SIGNALS, received_signals
from segue.serving.worker_table import WorkerTable, exit_cause, worker_name

START_ATTEMPTS = 4
"""How often each worker may fail to start before the service gives up, where none was ever ready."""

_FIRST_PAUSE_S = 0.5
_TICK_S = 0.05
"""Seconds between two looks at workers that start."""

_IDLE_S = 1.0
"""Seconds between two looks at workers that run; a death or a signal ends the wait at once."""

_SIGNALS = (*STOP_SIGNALS, signal.SIGHUP)

_log = logging.getLogger("segue.serving")


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


class _Renewal(NamedTuple):
    """A worker that SIGHUP replaces: its process, and when that is killed if it has not stopped."""

    worker: int
    process: ForkProcess
    deadline_s: float


class Supervisor:
    """Runs a fixed number of workers.

    SIGTERM and SIGINT stop them and return; SIGHUP restarts them one after another.

    Args:
        work: what a worker does, given its number from 0; it must end on SIGTERM.
        table: where the state of each worker is recorded.
        max_pause_s: the largest pause before a worker that keeps dying is started again.
        stop_s: seconds after which a worker that does not stop is killed.
        on_death: is called with the number of a worker that has ended, before it is started again.
    """

    def __init__(
        self,
        work: Callable[[int], None],
        table: WorkerTable,
        *,
        max_pause_s: int | float,
        stop_s: int | float,
        on_death: Callable[[int], None],
    ) -> None:
        self._work, self._table, self._on_death = work, table, on_death
        self._max_pause_s, self._stop_s = max_pause_s, stop_s
        self._processes: dict[int, ForkProcess] = {}
        self._start_at_s: dict[int, float] = {}
        self._dead: set[int] = set()
        self._received: list[int] = []
        self._to_renew: list[int] = []
        self._renewing: _Renewal | None = None

    def run(self, announce: Callable[[], bool]) -> None:
        """Run the workers until a signal stops them.

        Args:
            announce: is called once all workers have started, until it returns True.

        Raises:
            InputError: no worker could start.
        """
        is_announced = was_ready = False
        with self._signals() as wake:
            self._start_at_s = dict.fromkeys(range(len(self._table)), time.monotonic())
            try:
                while not set(self._received) & set(STOP_SIGNALS):
                    self._start_due()
                    is_idle = is_announced and self._renewing is None
                    self._wait(wake, _IDLE_S if is_idle else _TICK_S)
                    self._collect_dead()
                    was_ready = was_ready or self._table.num_ready > 0
                    if not was_ready:
                        self._check_start()
                    self._renew()
                    is_announced = is_announced or (self._table.has_started and announce())
            finally:
                self._stop()

    def _start_due(self) -> None:
        now_s = time.monotonic()
        for worker in [worker for worker, at_s in self._start_at_s.items() if at_s <= now_s]:
            del self._start_at_s[worker]
            self._processes[worker] = self._fork(worker)
            if worker in self._dead:
                self._dead.remove(worker)
                self._table.add_restart(worker)

    def _fork(self, worker: int) -> ForkProcess:
        """Start a worker. Signals are blocked meanwhile, because it would handle them as the supervisor does."""
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            process = get_context("fork").Process(
                target=_run_worker, args=(self._work, worker, mask), name=worker_name(worker), daemon=True
            )
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return process

    def _wait(self, wake: int, at_most_s: float) -> None:
        """Wait until a worker ends, a signal arrives, or a worker is due."""
        now_s = time.monotonic()
        timeout_s = min([at_most_s, *(at_s - now_s for at_s in self._start_at_s.values())])
        sentinels = [process.sentinel for process in self._processes.values()]
        connection.wait([wake, *sentinels], max(0.0, timeout_s))
        with contextlib.suppress(BlockingIOError):
            while os.read(wake, 512):
                pass

    def _collect_dead(self) -> None:
        for worker, process in list(self._processes.items()):
            exit_code = process.exitcode
            if exit_code is None:
                continue
            process.close()
            del self._processes[worker]
            self._on_death(worker)
            now_s = time.monotonic()
            if self._renewing is not None and self._renewing.process is process:
                self._plan(worker, now_s)
                continue
            num_deaths = self._table.add_death(worker, exit_code, now_s)
            wait_s = pause_s(num_deaths, max_pause_s=self._max_pause_s)
            self._dead.add(worker)
            self._plan(worker, now_s + wait_s)
            row = f", {num_deaths} times in a row" if num_deaths > 1 else ""
            when = f"in {wait_s:g} s" if wait_s else "now"
            _log.warning("%s died by %s%s; it restarts %s", worker_name(worker), exit_cause(exit_code), row, when)

    def _plan(self, worker: int, at_s: float) -> None:
        self._start_at_s[worker] = at_s
        self._table.plan_restart(worker, at_s)

    def _check_start(self) -> None:
        num_deaths = min(map(self._table.num_deaths, range(len(self._table))))
        if num_deaths >= START_ATTEMPTS:
            raise InputError(
                f"no worker could start: each of {len(self._table)} died {num_deaths} times before any was ready; "
                "the lines above say why"
            )

    def _renew(self) -> None:
        """Restart one worker at a time after SIGHUP, the next one when the new one is ready."""
        if signal.SIGHUP in self._received:
            self._received = [number for number in self._received if number != signal.SIGHUP]
            self._to_renew = list(range(len(self._table)))
        renewal = self._renewing
        if renewal is not None:
            process = self._processes.get(renewal.worker)
            if process is renewal.process and time.monotonic() >= renewal.deadline_s:
                process.kill()
            elif process is not renewal.process and self._table.is_ready(renewal.worker):
                self._renewing = None
        if self._renewing is None and self._to_renew:
            worker = self._to_renew.pop(0)
            if worker in self._processes:  # otherwise it is down, and a new one is due anyway
                process = self._processes[worker]
                self._renewing = _Renewal(worker, process, time.monotonic() + self._stop_s)
                process.terminate()

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

    @contextlib.contextmanager
    def _signals(self) -> Iterator[int]:
        """Record signals instead of acting on them; yields a descriptor that is readable after a signal has arrived."""
        reader, writer = os.pipe()
        for end in (reader, writer):
            os.set_blocking(end, False)
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        for number in _SIGNALS:
            signal.signal(number, lambda received, _: self._received.append(received))
        self._received += received_signals()  # during the start
        old = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        try:
            yield reader
        finally:
            signal.set_wakeup_fd(old)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(reader)
            os.close(writer)


def _run_worker(work: Callable[[int], None], worker: int, mask: set[signal.Signals]) -> None:
    signal.set_wakeup_fd(-1)
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the supervisor restarts the workers one after another
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    work(worker)
