"""Metrics for Prometheus, added up over the workers of a machine.

The environment variable `PROMETHEUS_MULTIPROC_DIR` must name a folder before this module is imported.
"""

import contextlib
import logging
import os
from collections import Counter as Counted
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from segue.serving.prometheus_parts import name_files_by_worker
from segue.serving.worker_table import WorkerTable

_log = logging.getLogger("segue.serving")

_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)

name_files_by_worker()

_requests = Counter("segue_requests", "Requests answered.", ["endpoint", "status"])
_seconds = Histogram("segue_request_seconds", "Time until a request is answered.", ["endpoint"], buckets=_SECONDS)
_fallbacks = Counter("segue_fallbacks", "Answers that no list gave, by the source they came from.", ["arm", "source"])
_events = Counter("segue_events_logged", "Events written to the event log.")
_log_queue = Gauge("segue_log_queue", "Events that wait for the disk, see log.fsync.", multiprocess_mode="livesum")
_log_lines = Gauge("segue_log_lines", "Events written by the workers alive.", multiprocess_mode="livesum")
_problems = Gauge("segue_problems", "Number of problems that /health reports.", multiprocess_mode="livemax")


class Metrics:
    """Counts what a worker does."""

    def __init__(self) -> None:
        self._by_answer: dict[tuple[str, int], Callable[[], None]] = {}
        self._by_endpoint: dict[str, Callable[[float], None]] = {}
        self._recent_fallbacks: Counted[tuple[str, str]] = Counted()

    def answered(self, endpoint: str, status: int, seconds: float) -> None:
        """A request was answered."""
        count = self._by_answer.get((endpoint, status))
        if count is None:  # looking labels up costs more than counting
            count = self._by_answer[endpoint, status] = _requests.labels(endpoint, int(status)).inc
            self._by_endpoint.setdefault(endpoint, _seconds.labels(endpoint).observe)
        count()
        self._by_endpoint[endpoint](seconds)

    def count_events(self, num_events: int) -> None:
        """Events were written to the event log."""
        _events.inc(num_events)

    def fell_back(self, arm: str, source: str) -> None:
        """No list gave an answer."""
        _fallbacks.labels(arm, source).inc()
        self._recent_fallbacks[arm, source] += 1

    def report_fallbacks(self) -> None:
        """Put the fallbacks since the last call into the service's own log."""
        if self._recent_fallbacks:
            counts = sorted(self._recent_fallbacks.items())
            text = ", ".join(f"{arm} {source} {number}" for (arm, source), number in counts)
            _log.warning("recent answers that no list gave: %s", text)
            self._recent_fallbacks.clear()

    def observe(self, num_waiting: int, num_lines: int, num_problems: int) -> None:
        """Record the present state of the log and of the service."""
        _log_queue.set(num_waiting)
        _log_lines.set(num_lines)
        _problems.set(num_problems)


@dataclass(frozen=True, kw_only=True)
class Totals:
    """What all workers have counted since the service started.

    Args:
        requests: requests answered, by endpoint and status.
        num_events: events written to the event log.
        num_fallbacks: answers that no list gave.
    """

    requests: dict[tuple[str, str], int]
    num_events: int
    num_fallbacks: int


def totals() -> Totals:
    """Add up the counters of all workers, those that died among them."""
    requests: Counted[tuple[str, str]] = Counted()
    sums: Counted[str] = Counted()
    for metric in _WorkerFiles().collect():
        for sample in metric.samples:
            if sample.name == "segue_requests_total":
                requests[sample.labels["endpoint"], sample.labels["status"]] += int(sample.value)
            sums[sample.name] += int(sample.value)
    return Totals(
        requests=dict(requests),
        num_events=sums["segue_events_logged_total"],
        num_fallbacks=sums["segue_fallbacks_total"],
    )


class _WorkerFiles(Collector):
    """What the workers have counted in their files."""

    def collect(self) -> Iterable[Metric]:
        # a worker that starts creates its files empty, and one that is killed in that moment leaves them so
        files = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).glob("*.db")
        filled = sorted(str(path) for path in files if _is_filled(path))
        metrics: Iterable[Metric] = MultiProcessCollector.merge(filled, accumulate=True)
        return metrics


def _is_filled(path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):  # the gauges of a worker that has just died
        return path.stat().st_size > 0
    return False


class _WorkerMetrics(Collector):
    def __init__(self, workers: WorkerTable) -> None:
        self._workers = workers

    def collect(self) -> Iterator[Metric]:
        workers = self._workers
        yield GaugeMetricFamily("segue_workers_configured", "Workers that should run.", value=len(workers))
        yield GaugeMetricFamily("segue_workers_alive", "Workers that answer requests.", value=workers.num_ready)
        restarts = CounterMetricFamily("segue_worker_restarts", "Restarts after a worker died.", labels=["worker"])
        for name, count in workers.restarts().items():
            restarts.add_metric([name], count)
        yield restarts


def forget_gauges(worker: str) -> None:
    """Remove the gauges of a worker that has died; its counters stay."""
    mark_process_dead(worker)


def exposition(workers: WorkerTable) -> bytes:
    """The metrics of all workers, in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_WorkerFiles())
    registry.register(_WorkerMetrics(workers))
    return generate_latest(registry)
