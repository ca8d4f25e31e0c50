"""Logs of arms that know their listeners: they are not computed again, and their propensities are right."""

from pathlib import Path

import pytest

from segue.errors import InputError
from segue.simulation.policies import Random
from segue.simulation.world import World
from segue.verdicts.offpolicy.behaviours import LogFolder, candidate_of
from segue.verdicts.offpolicy.decisions import read_decisions
from segue.verdicts.offpolicy.estimates import EstimateSettings, OffPolicyLog
from tests.simulation.test_arm_profiles import an_arm, write_run
from tests.simulation.test_traffic import run

RULES = {"max_rejected": 0.01, "session_gap_minutes": 30.0}


def log_of(folder: Path) -> tuple[OffPolicyLog, LogFolder]:
    beside = LogFolder.open(folder)
    return OffPolicyLog(read_decisions(folder, beside.catalog, **RULES), beside), beside


def test_an_arm_that_knows_its_listeners_is_left_out_beside_one_that_is_known(world: World, tmp_path: Path) -> None:
    write_run(world, tmp_path, share=5.0)
    arms = {"C": Random(world=world), "T1": an_arm(world, tmp_path, pick="weighted", familiar=0.5)}
    run(world, tmp_path / "run", policies=arms, sessions=200)
    log, _ = log_of(tmp_path / "run")
    assert log.is_mixture
    assert log.arms_left_out == ['{"TEST":"T1"}']


def test_alone_its_propensities_estimate_other_lists(world: World, tmp_path: Path) -> None:
    """The share played of the first track, as where the candidate is played, within twice the interval."""
    write_run(world, tmp_path, share=0.5)
    how = {"pick": "uniform", "artist_gap": 0, "num_lists": 1}
    arms = {
        "known": an_arm(world, tmp_path, familiar=0.5, **how),
        "played": an_arm(world, tmp_path, context="last", **how),
    }
    for name, arm in arms.items():
        run(world, tmp_path / name, policies={"C": arm}, sessions=500)
    (log, beside), (truth, _) = log_of(tmp_path / "known"), log_of(tmp_path / "played")
    assert not log.is_mixture
    candidate = candidate_of({"recommender": str(tmp_path / "r.jsonl"), "context": "last"}, locate=Path)
    loose = EstimateSettings(min_effective_sample_size=2, max_without_support=1, min_session_weight=0)
    found = log.estimate(beside.candidate(candidate), loose).first_step_snips
    played = truth.decisions.shares[truth.decisions.first + 1].mean()
    assert abs(found.value - played) < found.upper - found.lower < 0.4


def test_a_candidate_that_knows_the_listener_is_refused(world: World, tmp_path: Path) -> None:
    name = str(write_run(world, tmp_path, share=0.5) / "r.jsonl")
    with pytest.raises(InputError, match=r"\(context=listener\), which is not estimated from a log; play it with"):
        candidate_of(name, locate=Path)
