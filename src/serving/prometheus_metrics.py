"""Metrics for Prometheus, added up over the workers of a machine.

The environment variable `PROMETHEUS_MULTIPROC_DIR` must name a folder before this module is imported. It uses
prometheus_client beyond its documented interface, tried with prometheus_client 0.26: the tests of this module say
which part an upgrade has taken away.
"""

import contextlib
import os
from collections import Counter as Counted
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, cast

from prometheus_client import Counter, Gauge, Histogram, generate_latest, values
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from segue.serving.release import Release
from segue.serving.worker_table import WorkerTable

_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)

_name = "supervisor"

if "PROMETHEUS_MULTIPROC_DIR" in os.environ:  # otherwise prometheus_client counts in memory
    # files have the name of a worker: one that was restarted goes on counting in the files of the one before. With
    # process ids each restart would leave two more files, which every request for the metrics reads
    values.ValueClass = values.MultiProcessValue(process_identifier=lambda: _name)

_requests = Counter("segue_requests", "Requests answered.", ["endpoint", "status"])
_seconds = Histogram("segue_request_seconds", "Time until a request is answered.", ["endpoint"], buckets=_SECONDS)
_fallbacks = Counter("segue_fallbacks", "Answers that no list gave, by the source they came from.", ["arm", "source"])
_PLAY = ["experiment", "arm", "message"]
_plays = Counter("segue_plays", "Plays that listeners reported, by message of the event log: next or last.", _PLAY)
_listened = Counter("segue_listened_tracks", "Sum of the shares of tracks that listeners have played.", _PLAY)
_events = Counter("segue_events_logged", "Events written to the event log.")
_log_queue = Gauge("segue_log_queue", "Events that wait for the disk, see log.fsync.", multiprocess_mode="livesum")
_log_lines = Gauge("segue_log_lines", "Events written by the workers alive.", multiprocess_mode="livesum")
_problems = Gauge("segue_problems", "Number of problems that /health reports.", multiprocess_mode="livemax")


def count_as(name: str) -> None:
    """Count in the files of a worker from now on; no other process may count in them at the same time."""
    global _name
    _name = name


class Metrics:
    """Counts what a worker does."""

    def __init__(self) -> None:
        self._by_answer: dict[tuple[str, int], Callable[[], None]] = {}
        self._by_endpoint: dict[str, Callable[[float], None]] = {}
        self._played: defaultdict[tuple[str, str, str], list[float]] = defaultdict(lambda: [0, 0.0])

    def answered(self, endpoint: str, status: int, seconds: float) -> None:
        """A request was answered."""
        if (count := self._by_answer.get((endpoint, status))) is None:  # looking labels up costs more than counting
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

    def played(self, experiment: str, arm: str, message: str, share: float) -> None:
        """A listener reported a play; `observe` counts it.

        Args:
            experiment: name of the experiment.
            arm: of the listener.
            message: `next`, or `last` at the end of a session.
            share: of the track that was played, in [0, 1].
        """
        sums = self._played[experiment, arm, message]
        sums[0] += 1
        sums[1] += share

    def observe(self, num_waiting: int, num_lines: int, num_problems: int) -> None:
        """Record the present state of the log and of the service, and the plays since the call before."""
        for labels, (num_plays, shares) in self._played.items():
            _plays.labels(*labels).inc(num_plays)
            _listened.labels(*labels).inc(shares)
        self._played.clear()
        _log_queue.set(num_waiting)
        _log_lines.set(num_lines)
        _problems.set(num_problems)


class Totals(NamedTuple):
    """What all workers have counted since the service started, also those that died.

    Attributes:
        requests: requests answered, by endpoint and status.
        num_events: events written to the event log.
        num_fallbacks: answers that no list gave.
    """

    requests: dict[tuple[str, str], int]
    num_events: int
    num_fallbacks: int


def totals() -> Totals:
    """Add up the counters of all workers."""
    requests: Counted[tuple[str, str]] = Counted()
    sums: Counted[str] = Counted()
    for sample in (sample for metric in _counted() for sample in metric.samples):
        sums[sample.name] += int(sample.value)
        if sample.name == "segue_requests_total":
            requests[sample.labels["endpoint"], sample.labels["status"]] += int(sample.value)
    return Totals(dict(requests), sums["segue_events_logged_total"], sums["segue_fallbacks_total"])


def _counted() -> Iterable[Metric]:
    filled = []
    for path in Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).glob("*.db"):
        # a worker that starts creates its files empty, and one that is killed in that moment leaves them so
        with contextlib.suppress(FileNotFoundError):  # the gauges of a worker that has just died
            filled += [str(path)] if path.stat().st_size else []
    return cast("Iterable[Metric]", MultiProcessCollector.merge(sorted(filled), accumulate=True))


class _AllMetrics(Collector):
    def __init__(self, workers: WorkerTable, release: Release) -> None:
        self._workers, self._release = workers, release

    def collect(self) -> Iterator[Metric]:
        workers = self._workers
        yield from _counted()
        yield GaugeMetricFamily("segue_workers_configured", "Workers that should run.", value=len(workers))
        yield GaugeMetricFamily("segue_workers_alive", "Workers that answer requests.", value=workers.num_ready)
        restarts = CounterMetricFamily("segue_worker_restarts", "Restarts after a worker died.", labels=["worker"])
        for name, count in workers.restarts().items():
            restarts.add_metric([name], count)
        yield restarts
        release = self._release
        labels = ["experiment", "arm", "recommender", "pick", "artist_gap", "context", "release"]
        arms = GaugeMetricFamily("segue_arm", "1 for each arm of the running experiment.", labels=labels)
        for name, arm in release.arms.items():
            how = [arm.pick, str(arm.artist_gap), arm.context] if arm.has_lists else ["", "", ""]
            arms.add_metric([release.experiment, name, arm.recommender, *how, release.version], 1)
        yield arms


def exposition(workers: WorkerTable, release: Release) -> bytes:
    """The metrics of all workers, in Prometheus' text format.

    Args:
        workers: the state of all workers.
        release: the current one of the worker that is asked.
    """
    return generate_latest(_AllMetrics(workers, release))
