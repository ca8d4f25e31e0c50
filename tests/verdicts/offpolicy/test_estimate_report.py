"""Off-policy estimates at the end of a run: logged and printed, or refused in one line."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segue.datamodules.pair_datamodule import PairDataModule
from segue.errors import InputError
from segue.simulation.policies import Popular, Random, StickyArtist
from segue.simulation.world import World
from segue.verdicts.offpolicy.behaviours import Candidate
from segue.verdicts.offpolicy.decisions import read_decisions
from segue.verdicts.offpolicy.estimate_report import OffPolicyEstimates
from segue.verdicts.offpolicy.estimates import OffPolicyLog
from tests.verdicts.offpolicy.played import edit, neighbours, opened, settings, simulate, without_propensity


@pytest.fixture(scope="module")
def run(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs") / "run"
    arms = {"C": Random(world=world), "T1": StickyArtist(world=world), "T2": Popular(num_tracks=100, world=world)}
    simulate(world, folder, arms, sessions=3000)
    simulate(world, folder.with_name("old"), arms, sessions=50)
    edit(folder.with_name("old") / "logs/day-1/data.json", without_propensity)
    neighbours(world, folder / "recommendations.jsonl")
    return folder


def estimated(
    datamodule: PairDataModule, lists: Path, *, is_session: bool = False, **changes: Any
) -> tuple[dict[str, float], str]:
    usual: dict[str, Any] = {
        "split": "time", "session_gap_minutes": 30, "pick": "uniform", "artist_gap": 0, "settings": settings(),
    }  # fmt: skip
    estimate = OffPolicyEstimates(**{**usual, **changes})
    try:
        found = estimate(
            Path(datamodule.path), lists, is_session=is_session, seen_until_ms=lambda: datamodule.seen_until_ms
        )
    except InputError as error:
        return {}, f"refused: {error}"
    return found or ({}, "")


def data_of(make: Callable[..., PairDataModule], run: Path) -> PairDataModule:
    datamodule = make(run)
    if (run / "tracks.json").is_file():
        datamodule.setup()
    return datamodule


def test_a_run_with_the_session_is_not_estimated(run: Path, datamodule_of: Callable[..., PairDataModule]) -> None:
    _, line = estimated(data_of(datamodule_of, run), run / "recommendations.jsonl", is_session=True)
    assert line.startswith("refused: a training run estimates its lists alone, and this one answers from the session")


def test_the_latest_tenth_of_the_sessions_is_estimated(run: Path, datamodule_of: Callable[..., PairDataModule]) -> None:
    metrics, line = estimated(data_of(datamodule_of, run), run / "recommendations.jsonl")
    assert line.startswith("first step 0.")
    assert "\n" not in line
    assert re.search(r"300 test sessions, worth \d+, fewer than 30: the intervals may be much too narrow$", line)
    folder = opened(run)[0]
    sessions, number = (
        read_decisions(folder.logs, folder.catalog, max_rejected=0.0, session_gap_minutes=30),
        np.arange(3000),
    )
    assert (np.diff(sessions.started_ms[2698:2702]) > 0).all(), "no other session starts when the first one does"
    log = OffPolicyLog(sessions.where(number >= 2700), folder, sessions.where(number < 2700))
    candidate = folder.candidate(Candidate(name="lists", file=run / "recommendations.jsonl"))
    assert metrics == log.estimate(candidate, settings()).metrics()
    assert {"offline/first_step_snips", "offline/first_step_dr_lower", "offline/share_without_support"} <= set(metrics)


def test_only_sessions_that_the_model_has_not_seen_are_estimated(
    world: World, tmp_path: Path, datamodule_of: Callable[..., PairDataModule]
) -> None:
    """The last day has no propensities; the test set, the latest tenth of all sessions, begins with it."""
    arms = {"C": Random(world=world), "T1": Popular(num_tracks=100, world=world)}
    simulate(world, tmp_path / "one", arms, sessions=900)
    simulate(world, tmp_path / "two", arms, sessions=100, after=tmp_path / "one")
    edit(tmp_path / "two/logs/day-2/data.json", without_propensity)
    lists = neighbours(world, tmp_path / "recommendations.jsonl")
    metrics, line = estimated(data_of(datamodule_of, tmp_path / "two"), lists)
    assert re.match(r"refused: .* none of the 900 sessions that an estimate can use is in the", line)
    assert metrics == {}


def test_the_session_is_printed_where_it_is_reliable(
    world: World, run: Path, datamodule_of: Callable[..., PairDataModule]
) -> None:
    datamodule = data_of(datamodule_of, run)
    metrics, line = estimated(datamodule, run / "recommendations.jsonl")
    assert "session not estimated, because its mean weight is 0." in line
    assert "offline/session_snips" not in metrics
    every_track = neighbours(world, run.with_name("every.jsonl"), num=len(world.catalog) - 1)
    metrics, line = estimated(datamodule, every_track)
    assert re.search(r"; session \d\.\d\d \[", line)
    assert "too narrow" not in line
    assert "offline/session_snips_lower" in metrics


@pytest.mark.parametrize(
    ("folder", "changes", "message"),
    [
        ("old", {}, "refused: logs=.* no line has a propensity"),
        ("run", {"split": "session"}, "refused: datamodule.split=session does not say which sessions"),
        ("run", {"settings": settings(min_effective_sample_size=300)}, "refused: the logs are worth"),
    ],
)
def test_what_cannot_be_estimated_is_refused_in_one_line(
    run: Path, datamodule_of: Callable[..., PairDataModule], folder: str, changes: dict[str, Any], message: str
) -> None:
    datamodule = data_of(datamodule_of, run.with_name(folder))
    metrics, line = estimated(datamodule, run / "recommendations.jsonl", **changes)
    assert re.match(message, line)
    assert "\n" not in line
    assert metrics == {}


def test_a_run_without_an_event_log_is_passed_over(
    run: Path, tmp_path: Path, datamodule_of: Callable[..., PairDataModule]
) -> None:
    (tmp_path / "playlists.csv").write_text("playlist,track\n", encoding="utf-8")
    for source in (tmp_path, tmp_path / "playlists.csv", tmp_path / "*.csv"):
        assert estimated(data_of(datamodule_of, source), run / "recommendations.jsonl") == ({}, "")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pick": "best"}, "callbacks.off_policy.pick must be one of uniform, ranked, weighted, got 'best'"),
        ({"artist_gap": -1}, "callbacks.off_policy.artist_gap must be a whole number"),
    ],
)
def test_a_setting_out_of_range_is_refused(
    run: Path, datamodule_of: Callable[..., PairDataModule], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        estimated(data_of(datamodule_of, run), run / "recommendations.jsonl", **changes)
