"""The state of each worker, in memory that the supervisor and all workers share."""

import mmap
import signal
import time

import numpy as np

_FIELDS = np.dtype(
    [
        ("is_ready", "<i8"),
        ("ready_since_s", "<f8"),
        ("num_restarts", "<i8"),
        ("num_deaths", "<i8"),  # in a row: without `reset_after_s` of health between two of them
        ("exit_code", "<i8"),  # of the last death, as `multiprocessing` gives it: -9 for SIGKILL
        ("restart_at_s", "<f8"),
    ]
)


class WorkerTable:
    """Which workers answer requests, and how often each one died.

    It must be created before the workers are forked. The supervisor writes deaths and restarts; a worker writes that
    it is ready. Every worker reads all of it; therefore `/health` and `/metrics` of each worker report the same.
    Times are those of `time.monotonic()`, which all processes of a machine share.

    Args:
        num_workers: number of workers that the service is configured with.
        reset_after_s: seconds of health after which the deaths of a worker are forgotten.
    """

    def __init__(self, num_workers: int, *, reset_after_s: int | float) -> None:
        self._memory = mmap.mmap(-1, num_workers * _FIELDS.itemsize)
        self._rows = np.frombuffer(self._memory, _FIELDS)
        self._reset_after_s = reset_after_s

    def __len__(self) -> int:
        return len(self._rows)

    def set_ready(self, worker: int, now_s: int | float) -> None:
        """Record that a worker answers requests."""
        self._rows["ready_since_s"][worker] = now_s
        self._rows["is_ready"][worker] = 1

    def add_death(self, worker: int, exit_code: int, now_s: int | float) -> int:
        """Record that a worker ended although nobody stopped it; returns how many times in a row it did."""
        is_first = self._is_settled(worker, now_s)
        self._rows["is_ready"][worker] = 0
        self._rows["exit_code"][worker] = exit_code
        num_deaths = 1 if is_first else int(self._rows["num_deaths"][worker]) + 1
        self._rows["num_deaths"][worker] = num_deaths
        return num_deaths

    def plan_restart(self, worker: int, at_s: int | float) -> None:
        """Record when a worker that is down will be started again."""
        self._rows["is_ready"][worker] = 0
        self._rows["restart_at_s"][worker] = at_s

    def add_restart(self, worker: int) -> None:
        """Record that a worker was started again."""
        self._rows["num_restarts"][worker] += 1

    @property
    def num_ready(self) -> int:
        """Number of workers that answer requests."""
        return int(np.count_nonzero(self._rows["is_ready"]))

    @property
    def has_started(self) -> bool:
        """Whether a worker answers requests and every other one does so too or has died at its start."""
        return self.num_ready > 0 and bool(np.all((self._rows["is_ready"] == 1) | (self._rows["num_deaths"] > 0)))

    def num_deaths(self, worker: int) -> int:
        """How many times in a row a worker died."""
        return int(self._rows["num_deaths"][worker])

    def is_ready(self, worker: int) -> bool:
        """Whether a worker answers requests."""
        return bool(self._rows["is_ready"][worker])

    def restarts(self) -> dict[str, int]:
        """Number of restarts of each worker, by its name."""
        return {worker_name(worker): int(count) for worker, count in enumerate(self._rows["num_restarts"])}

    def problems(self, now_s: int | float | None = None) -> list[str]:
        """A line for each worker that is down or that died several times in a row."""
        now_s = time.monotonic() if now_s is None else now_s
        lines = []
        for worker, row in enumerate(self._rows):
            num_deaths = int(row["num_deaths"])
            if not num_deaths:
                continue
            deaths = f"died {num_deaths} times in a row, last" if num_deaths > 1 else "died"
            cause = f"{deaths} by {exit_cause(int(row['exit_code']))}"
            if not row["is_ready"]:
                wait_s = float(row["restart_at_s"]) - now_s
                when = f"restarts in {wait_s:.1f} s" if wait_s > 0 else "is being restarted"
                lines.append(f"{worker_name(worker)} is down: it {cause}; it {when}")
            elif num_deaths > 1 and not self._is_settled(worker, now_s):
                lines.append(f"{worker_name(worker)} is restarted often: it {cause}")
        return lines

    def _is_settled(self, worker: int, now_s: int | float) -> bool:
        row = self._rows[worker]
        return bool(row["is_ready"]) and now_s - float(row["ready_since_s"]) >= self._reset_after_s


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
