"""The state of each worker, in memory that the supervisor and all workers share."""

import signal
import time
from ctypes import Structure, c_bool, c_double, c_int64
from multiprocessing.sharedctypes import RawArray


class Worker(Structure):
    """The state of one worker. Times are those of `time.monotonic()`, which all processes of a machine share."""

    _fields_ = (
        ("is_ready", c_bool),
        ("ready_since_s", c_double),
        ("num_restarts", c_int64),
        ("num_deaths", c_int64),  # in a row: without `reset_after_s` of health between two of them
        ("exit_code", c_int64),  # of the last death, as `multiprocessing` gives it: -9 for SIGKILL
        ("restart_at_s", c_double),
    )


class WorkerTable:
    """Which workers answer requests, and how often each one died.

    It must be created before the workers are forked. The supervisor writes deaths and restarts; a worker writes that
    it is ready. Every worker reads all of it; therefore `/health` and `/metrics` of each worker report the same.

    Args:
        num_workers: number of workers that the service is configured with.
        reset_after_s: seconds of health after which the deaths of a worker are forgotten.
    """

    def __init__(self, num_workers: int, *, reset_after_s: int | float) -> None:
        self.rows = RawArray(Worker, num_workers)
        self._reset_after_s = reset_after_s

    def __len__(self) -> int:
        return len(self.rows)

    def set_ready(self, worker: int, now_s: int | float) -> None:
        """Record that a worker answers requests."""
        self.rows[worker].ready_since_s, self.rows[worker].is_ready = now_s, True

    def add_death(self, worker: int, exit_code: int, now_s: int | float) -> int:
        """Record that a worker ended although nobody stopped it; returns how many times in a row it did."""
        row = self.rows[worker]
        row.num_deaths = 1 if self._is_settled(row, now_s) else row.num_deaths + 1
        row.is_ready, row.exit_code = False, exit_code
        return int(row.num_deaths)

    @property
    def num_ready(self) -> int:
        """Number of workers that answer requests."""
        return sum(row.is_ready for row in self.rows)

    @property
    def has_started(self) -> bool:
        """Whether a worker answers requests and every other one does so too or has died at its start."""
        return self.num_ready > 0 and all(row.is_ready or row.num_deaths for row in self.rows)

    def restarts(self) -> dict[str, int]:
        """Number of restarts of each worker, by its name."""
        return {worker_name(worker): row.num_restarts for worker, row in enumerate(self.rows)}

    def problems(self, now_s: int | float | None = None) -> list[str]:
        """A line for each worker that is down or that died several times in a row."""
        now_s = time.monotonic() if now_s is None else now_s
        lines = []
        for worker, row in enumerate(self.rows):
            deaths = f"died {row.num_deaths} times in a row, last" if row.num_deaths > 1 else "died"
            cause = f"{deaths} by {exit_cause(row.exit_code)}"
            if row.num_deaths and not row.is_ready:
                wait_s = row.restart_at_s - now_s
                when = f"restarts in {wait_s:.1f} s" if wait_s > 0 else "is being restarted"
                lines.append(f"{worker_name(worker)} is down: it {cause}; it {when}")
            elif row.num_deaths > 1 and not self._is_settled(row, now_s):
                lines.append(f"{worker_name(worker)} is restarted often: it {cause}")
        return lines

    def _is_settled(self, row: Worker, now_s: int | float) -> bool:
        return bool(row.is_ready and now_s - row.ready_since_s >= self._reset_after_s)


def worker_name(worker: int) -> str:
    """Name of a worker, which is also that of its folder of logs; the first is `worker-1`."""
    return f"worker-{worker + 1}"


def exit_cause(exit_code: int) -> str:
    """How a process ended: the name of the signal, or its exit code."""
    if exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        return signal.Signals(-exit_code).name
    except ValueError:
        return f"signal {-exit_code}"
