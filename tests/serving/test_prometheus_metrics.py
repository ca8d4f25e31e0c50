"""Metrics add up over the workers of a service, also over one that died and was restarted."""

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

from prometheus_client.multiprocess import mark_process_dead

from segue.serving.prometheus_metrics import Metrics, Totals, count_as, exposition, totals
from segue.serving.release import Release
from segue.serving.worker_table import WorkerTable


def value(sample: str, release: Release) -> float:
    """The value of a sample such as `segue_log_lines`, 0 where it is absent."""
    text = exposition(WorkerTable(1, reset_after_s=1), release).decode()
    lines = [line.rpartition(" ") for line in text.splitlines()]
    return sum(float(number) for name, _, number in lines if name == sample)


def run_as(name: str, work: Callable[[Metrics], None]) -> None:
    """Let a worker of this name do some work and end."""

    def worker() -> None:
        count_as(name)
        work(Metrics())

    process = multiprocessing.get_context("fork").Process(target=worker)
    process.start()
    process.join()
    assert process.exitcode == 0


def test_the_gauges_of_a_worker_that_died_are_forgotten(ring: Release) -> None:
    Metrics().observe(0, 5, 0)
    run_as("worker-8", lambda metrics: metrics.observe(0, 7, 0))
    assert value("segue_log_lines", ring) == 12
    mark_process_dead("worker-8")
    assert value("segue_log_lines", ring) == 5


def test_a_restarted_worker_goes_on_with_the_counters_of_the_one_before() -> None:
    def grown() -> tuple[int, int, int]:
        after = totals()
        num_requests = sum(after.requests.values()) - sum(before.requests.values())
        return num_requests, after.num_events - before.num_events, after.num_fallbacks - before.num_fallbacks

    def work(metrics: Metrics) -> None:
        metrics.answered("next", 200, 0.001)
        metrics.count_events(3)
        metrics.fell_back("T1", "artist")

    before: Totals = totals()
    folder = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
    run_as("worker-9", work)
    assert grown() == (1, 3, 1)
    files = set(folder.iterdir())
    mark_process_dead("worker-9")
    for _ in range(3):
        run_as("worker-9", work)
    assert grown() == (4, 12, 4)
    assert set(folder.iterdir()) == files, "a restart leaves no more files"


def test_each_arm_of_the_running_experiment_is_named_with_its_settings(ring: Release) -> None:
    text = exposition(WorkerTable(1, reset_after_s=1), ring).decode()
    given = 'artist_gap="0",context="last",experiment="TEST"'
    assert [line for line in text.splitlines() if line.startswith("segue_arm{")] == [
        f'segue_arm{{arm="{arm}",{given},pick="{pick}",recommender="r.jsonl",release="{ring.version}"}} 1.0'
        for arm, pick in (("C", "uniform"), ("T1", "ranked"))
    ]


def test_files_that_a_worker_has_not_filled_yet_or_takes_away_are_left_out(ring: Release) -> None:
    empty, gone = (Path(os.environ["PROMETHEUS_MULTIPROC_DIR"], f"gauge_livesum_worker-{name}.db") for name in "67")
    empty.touch()
    gone.symlink_to("what was there when the folder was listed")
    try:
        assert "segue_workers_alive" in exposition(WorkerTable(1, reset_after_s=1), ring).decode()
    finally:
        empty.unlink()
        gone.unlink()
