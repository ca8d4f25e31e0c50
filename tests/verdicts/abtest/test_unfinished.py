"""Sessions without a `last`: the bias of leaving them out, the bounds, and the verdict that does not rest on them."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from segue.statistics.intervals import GroupSummary, fieller
from segue.verdicts.abtest.analysis import analyse
from segue.verdicts.abtest.metrics import difference, samples
from segue.verdicts.abtest.result import Analysis
from segue.verdicts.abtest.slices import compare_unfinished
from segue.verdicts.abtest.users import Users
from segue.verdicts.abtest.verdict import bounds
from tests.statistics.rates import repeat, within_four_standard_errors
from tests.verdicts.abtest.users import sessions_of, settings, users_of_sessions

TIME = "mean_time_per_session"


def cut_off(
    rng: np.random.Generator, *, lift: float, hazard: tuple[float, float], users: int = 600, each: int = 4
) -> tuple[Users, Users]:
    """Users of an experiment, and the same without cuts.

    Args:
        lift: of the mean length of a session of the treatment.
        hazard: how often a session of each arm is cut off, per unit of its time.
    """
    arm_of = np.repeat(np.arange(users) % 2, each)
    habit = np.repeat(rng.gamma(4.0, 1.0, users), each)
    whole = 1 + habit * rng.gamma(2.0, 0.5, users * each) * (1 + lift * arm_of)
    cut = rng.exponential(1 / np.maximum(np.array(hazard)[arm_of], 1e-12))
    keys, places = np.repeat(np.arange(users), each), np.tile(np.arange(each), users)
    truth = sessions_of(whole, arm_of, user_keys=keys, started_ms=places)
    logged = replace(truth, time=np.minimum(whole, cut), is_finished=whole < cut)
    return users_of_sessions(logged), users_of_sessions(truth)


def run(users: Users, **changes: Any) -> Analysis:
    return analyse(users, settings(**changes))


def test_leaving_unfinished_sessions_out_is_biased_against_the_better_arm_and_the_bounds_hold_the_truth() -> None:
    rng = np.random.default_rng(1)
    logged, truth = (run(users) for users in cut_off(rng, lift=0.5, hazard=(0.03, 0.03), users=6000))
    effect, unfinished = logged.effect("T1", "mean_time_per_session"), logged.unfinished["T1"]
    true_effect = truth.effect("T1", "mean_time_per_session").effect_percent
    assert effect.relative.upper_percent < true_effect
    assert unfinished.lower_percent < true_effect < unfinished.upper_percent


def test_the_rate_of_false_alarms_of_the_test_of_dropping_is_its_level() -> None:
    rng = np.random.default_rng(2)
    tests = repeat(
        250, lambda: compare_unfinished(cut_off(rng, lift=0.0, hazard=(0.05, 0.05))[0], TIME, 1, 0.05).p_value
    )
    assert within_four_standard_errors(sum(p_value < 0.05 for p_value in tests), 0.05, 250)


def test_the_share_of_unfinished_sessions_is_tested_and_not_their_number() -> None:
    """Users of the treatment have twice as many sessions, and the same share of them is cut off."""
    logged, _ = cut_off(np.random.default_rng(11), lift=0.0, hazard=(0.05, 0.05), each=8)
    each = logged.each
    fewer = users_of_sessions(each.where((each.arm_of == 1) | (np.arange(len(each)) % 2 == 0)))
    num = [int((~fewer.each.is_finished & (fewer.each.arm_of == arm)).sum()) for arm in (0, 1)]
    assert num[1] > 1.5 * num[0]
    assert run(fewer).unfinished["T1"].p_value > 0.05


def test_a_treatment_that_loses_its_long_sessions_is_noticed_and_the_verdict_is_withheld() -> None:
    """The censoring rule is broken: both arms are the same, and a fault of the treatment cuts off long sessions."""
    analysis = run(cut_off(np.random.default_rng(3), lift=0.0, hazard=(0.001, 0.1))[0])
    effect = analysis.effect("T1", "mean_time_per_session")
    assert effect.relative.upper_percent < -5, "without the check, the treatment would be worse"
    assert analysis.unfinished["T1"].p_value < 0.001
    says = "withheld: the arms differ in their sessions without a `last` (p < 0.0001), "
    assert analysis.verdicts["T1"].startswith(says)
    assert analysis.verdicts["T1"].endswith(f"would be in {bounds(analysis.unfinished['T1'])} if they had gone on")
    assert analysis.record()["withheld"]
    assert "unfinished, bounds" in analysis.methods("T1")


def test_the_verdict_stands_if_no_end_of_the_unfinished_sessions_could_change_its_sign() -> None:
    analysis = run(cut_off(np.random.default_rng(4), lift=2.0, hazard=(0.0001, 0.004), users=3000)[0])
    assert analysis.unfinished["T1"].p_value < 0.001
    assert analysis.unfinished["T1"].lower_percent > 0
    assert analysis.verdicts["T1"].startswith("better than C")


def test_without_unfinished_sessions_there_is_no_test_and_no_row() -> None:
    analysis = run(cut_off(np.random.default_rng(5), lift=0.0, hazard=(0.0, 0.0))[0])
    assert np.isnan(analysis.unfinished["T1"].p_value)
    assert "unfinished, bounds" not in analysis.methods("T1")


def test_longer_sessions_have_the_same_latency_per_track() -> None:
    """Every track of a user has one latency: no length changes that."""
    logged, _ = cut_off(np.random.default_rng(8), lift=0.0, hazard=(0.03, 0.03))
    num, metric = len(logged.each), "mean_request_latency"
    tracks = np.random.default_rng(9).integers(1, 20, num) * 2
    latency = np.random.default_rng(10).gamma(4.0, 1.0, 600)[logged.each.user_keys]
    each = replace(logged.each, tracks=tracks, latency_ms=latency * tracks)
    unfinished = run(users_of_sessions(each), primary=metric).unfinished["T1"]
    kept = users_of_sessions(replace(each, is_finished=np.ones(num, bool)))
    effect = difference(metric, *samples(kept, metric, 1), 0.05)
    assert [unfinished.lower_percent, unfinished.upper_percent] == pytest.approx(
        [effect.lower_percent, effect.upper_percent]
    )


def test_the_bounds_equal_those_of_a_log_where_the_sessions_of_one_arm_go_on() -> None:
    logged, _ = cut_off(np.random.default_rng(6), lift=0.0, hazard=(0.05, 0.05))
    each, longest = logged.each, logged.each.time[logged.each.is_finished].max()
    expected = []
    for arm in (0, 1):
        time = np.where(~each.is_finished & (each.arm_of == arm), np.maximum(longest, each.time), each.time)
        control, treatment = (time[each.arm_of == own].reshape(-1, 4).mean(1) for own in (0, 1))
        one = fieller(GroupSummary.of(control), GroupSummary.of(treatment), 0.05)
        expected.append(one.upper_percent if arm else one.lower_percent)
    unfinished = run(logged).unfinished["T1"]
    assert [unfinished.lower_percent, unfinished.upper_percent] == pytest.approx(expected)
