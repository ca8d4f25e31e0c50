"""Metrics for Prometheus, added up over the workers of a machine.

The environment variable `PROMETHEUS_MULTIPROC_DIR` must name a folder before this module is imported.
"""

import logging
import os
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

_log = logging.getLogger("segue.serving")

_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)

_requests = Counter("segue_requests", "Requests answered.", ["endpoint", "status"])
_seconds = Histogram("segue_request_seconds", "Time to an answer.", ["endpoint"], buckets=_SECONDS)
_fallbacks = Counter("segue_fallbacks", "Answers that no list gave, and where they came from.", ["arm", "source"])
_log_queue = Gauge("segue_log_queue", "Lines waiting to be as safe as was promised.", multiprocess_mode="livesum")
_log_lines = Gauge("segue_log_lines", "Lines written by the workers alive.", multiprocess_mode="livesum")
_problems = Gauge("segue_problems", "What is wrong, see /health.", multiprocess_mode="livemax")


class Metrics:
    """Counts what a worker does."""

    def __init__(self) -> None:
        self._by_answer: dict[tuple[str, int], Callable[[], None]] = {}
        self._by_endpoint: dict[str, Callable[[float], None]] = {}
        self._lately: dict[tuple[str, str], int] = {}

    def answered(self, endpoint: str, status: int, seconds: float) -> None:
        """A request was answered."""
        count = self._by_answer.get((endpoint, status))
        if count is None:  # looking labels up costs more than counting
            count = self._by_answer[endpoint, status] = _requests.labels(endpoint, int(status)).inc
            self._by_endpoint.setdefault(endpoint, _seconds.labels(endpoint).observe)
        count()
        self._by_endpoint[endpoint](seconds)

    def fell_back(self, arm: str, source: str) -> None:
        """No list gave an answer."""
        _fallbacks.labels(arm, source).inc()
        self._lately[arm, source] = self._lately.get((arm, source), 0) + 1

    def report_fallbacks(self) -> None:
        """Put those since the last call into the service's own log."""
        if self._lately:
            counted = ", ".join(f"{arm} {source} {number}" for (arm, source), number in sorted(self._lately.items()))
            _log.warning("answers of late that no list gave: %s", counted)
            self._lately.clear()

    def observe(self, num_waiting: int, num_lines: int, num_problems: int) -> None:
        """How the log and the service are now."""
        _log_queue.set(num_waiting)
        _log_lines.set(num_lines)
        _problems.set(num_problems)


def forget_dead(pids: Iterable[int]) -> None:
    """Take out the gauges of workers that were killed, as far as none of these processes is alive."""
    for pid in pids:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            mark_process_dead(pid)
        except PermissionError:  # it lives, and is somebody else's
            continue


def exposition() -> bytes:
    """All workers' metrics, in Prometheus' text format."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    return generate_latest(registry)
