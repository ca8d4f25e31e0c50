"""Estimates, compared with sb-obp, with slow loops, and with the truth of small problems."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from segue.verdicts.offpolicy.estimators import (
    Estimate,
    RewardModel,
    doubly_robust,
    effective_sample_size,
    scaled_by_arm,
    snips,
)

OBP = json.loads(Path(__file__).with_name("sb_obp.json").read_text(encoding="utf-8"))
"""The estimates of sb-obp 0.5 of a log of 60 decisions."""


def obp_log() -> dict[str, Any]:
    columns = {name: np.array(value) for name, value in OBP.items() if name != "estimates"}
    rounds = np.arange(len(columns["action"]))
    return {
        "weights": columns["candidate"][rounds, columns["action"]] / columns["pscore"],
        "rewards": columns["reward"],
        "predicted": columns["model"][rounds, columns["action"]],
        "expected": (columns["candidate"] * columns["model"]).sum(1),
        "cluster": rounds,
    }


def test_estimates_are_those_of_sb_obp() -> None:
    log = obp_log()
    by_snips = snips(log["weights"], log["rewards"], log["cluster"], 0.95)
    assert by_snips.value == pytest.approx(OBP["estimates"]["snips"], abs=1e-9)
    assert doubly_robust(**log, level=0.95).value == pytest.approx(OBP["estimates"]["sndr"], abs=1e-9)


weights_of = st.lists(st.floats(0.01, 50), min_size=2, max_size=12).map(np.array)


@given(weights=weights_of, factor=st.floats(0.1, 10))
def test_snips_stays_among_the_rewards_and_ignores_the_scale_of_the_weights(
    weights: np.ndarray[Any, np.dtype[np.float64]], factor: float
) -> None:
    rewards, users = np.arange(len(weights)) / len(weights), np.arange(len(weights))
    found, scaled = (snips(some, rewards, users, 0.95) for some in (weights, weights * factor))
    assert rewards.min() <= found.value <= rewards.max()
    assert scaled.value == pytest.approx(found.value)
    assert scaled.effective_sample_size == pytest.approx(found.effective_sample_size)
    assert 1 <= found.effective_sample_size * (1 + 1e-9) <= len(weights) * (1 + 1e-6)


def test_equal_weights_give_the_mean_and_the_usual_interval() -> None:
    rewards = np.random.default_rng(0).random(50)
    found = snips(np.full(50, 0.3), rewards, np.arange(50), 0.95)
    half = 2.009575 * rewards.std(ddof=1) / 50**0.5  # Student's quantile with 49 degrees of freedom
    assert (found.value, found.upper - found.value) == pytest.approx((rewards.mean(), half))
    assert found.effective_sample_size == pytest.approx(50)


@pytest.mark.parametrize("num_users", [4, 25])
def test_the_interval_is_that_of_a_weighted_regression_with_few_degrees_of_freedom(num_users: int) -> None:
    """The error is that of statsmodels by user."""
    rng = np.random.default_rng(7)
    users = np.append(np.arange(num_users), rng.integers(num_users, size=60 - num_users))
    weights, rewards = rng.gamma(0.5, 2.0, 60), rng.random(60) + 0.3 * rng.random(num_users)[users]
    fit = sm.WLS(rewards, np.ones(60), weights=weights).fit()
    robust = fit.get_robustcov_results("cluster", groups=users, df_correction=True)
    found = snips(weights, rewards, users, 0.9)
    effective = weights.sum() ** 2 / (weights**2).sum()
    margin = stats.t.ppf(0.95, min(num_users - 1, effective - 1)) * robust.bse[0]
    assert found.value == pytest.approx(robust.params[0])
    assert found.effective_sample_size == pytest.approx(effective)
    assert (found.value - found.lower, found.upper - found.value) == pytest.approx((margin, margin))


def test_the_error_of_the_doubly_robust_estimate_is_that_of_the_delta_method() -> None:
    """With one decision for each user: the numerical gradient, and the sample covariance of three means."""
    rng = np.random.default_rng(8)
    weights, rewards, predicted, expected = rng.gamma(2.0, 0.5, 40), *rng.random((3, 40))
    columns = np.stack([expected, weights * (rewards - predicted), weights])

    def estimate(means: Any) -> float:
        return float(means[0] + means[1] / means[2])

    steps, means = 1e-6 * np.eye(3), columns.mean(1)
    gradient = np.array([estimate(means + step) - estimate(means - step) for step in steps]) / 2e-6
    error = (gradient @ np.cov(columns) @ gradient / 40) ** 0.5
    users = np.arange(40)
    found = doubly_robust(weights, rewards, predicted, expected, users, 0.9)
    freedom = min(39, effective_sample_size(weights) - 1)
    assert found.value == pytest.approx(estimate(means))
    assert found.upper - found.value == pytest.approx(stats.t.ppf(0.95, freedom) * error)
    assert found.value - found.lower == pytest.approx(stats.t.ppf(0.95, freedom) * error)


def test_one_user_or_one_effective_decision_has_no_interval() -> None:
    rewards = np.array([0.2, 0.4, 0.9])
    same = snips(np.ones(3), rewards, np.zeros(3, np.int64), 0.95)
    alone = snips(np.array([1.0, 0.0, 0.0]), rewards, np.arange(3), 0.95)
    for found in (same, alone):
        assert not np.isnan(found.value)
        assert np.isnan([found.lower, found.upper]).all()
    more = snips(np.array([1.0, 0.2, 0.0]), rewards, np.arange(3), 0.95)
    assert 1 < more.effective_sample_size < 2
    assert more.lower < more.value < more.upper


def test_intervals_hold_the_truth_as_often_as_they_promise() -> None:
    """1,000 logs of 60 users with 5 decisions each; decisions of one user are not independent."""
    rng = np.random.default_rng(5)
    logging, candidate, quality = np.array([0.6, 0.3, 0.1]), np.array([0.2, 0.3, 0.5]), np.array([0.2, 0.5, 0.6])
    held: dict[str, list[bool]] = {"snips": [], "dr": [], "not clustered": []}
    for _ in range(1000):
        users = np.repeat(np.arange(60), 5)
        actions = rng.choice(3, size=300, p=logging)
        rewards = quality[actions] + rng.normal(0, 0.2, 60)[users] + rng.normal(0, 0.1, 300)
        weights, model = (candidate / logging)[actions], np.array([0.3, 0.4, 0.5])
        found: dict[str, Estimate] = {
            "snips": snips(weights, rewards, users, 0.95),
            "dr": doubly_robust(weights, rewards, model[actions], np.full(300, candidate @ model), users, 0.95),
            "not clustered": snips(weights, rewards, np.arange(300), 0.95),
        }
        for name, one in found.items():
            held[name].append(one.lower <= candidate @ quality <= one.upper)
    four_errors = 4 * (0.95 * 0.05 / 1000) ** 0.5
    assert abs(np.mean(held["snips"]) - 0.95) < four_errors
    assert abs(np.mean(held["dr"]) - 0.95) < four_errors
    assert np.mean(held["not clustered"]) < 0.95 - four_errors


def test_a_log_that_has_missed_the_largest_weights_is_refused() -> None:
    """The candidate picks a track in half of its decisions that few of 300 logged decisions have.

    Without the rules of support and of ten effective decisions, most intervals miss the truth.
    """
    rng, candidate, quality = np.random.default_rng(6), np.array([0.5, 0.5]), np.array([0.3, 0.7])
    arm, held, held_all = np.zeros(300, np.int64), list[bool](), list[bool]()
    for chance in np.repeat([0.003, 0.03, 0.1], 1000):
        logging = np.array([1 - chance, chance])
        actions = rng.choice(2, size=300, p=logging)
        rewards, weights = (rng.random(300) < quality[actions]).astype(float), (candidate / logging)[actions]
        scaled, without_support = scaled_by_arm(weights, arm)
        one = snips(weights, rewards, np.arange(300), 0.95)
        held_all.append(one.lower <= candidate @ quality <= one.upper)
        if not without_support and one.effective_sample_size >= 10:
            assert snips(scaled, rewards, np.arange(300), 0.95).value == pytest.approx(one.value)
            held.append(held_all[-1])
    assert 1000 < len(held) < 2500
    assert np.mean(held) > 0.9
    assert np.mean(held_all) < 0.85


def test_each_arm_counts_as_its_effective_sample_size() -> None:
    """The sums of the weights are these sizes, and so is that of all; arms without support have no weight."""
    rng, arm = np.random.default_rng(2), np.repeat([4, 7, 8, 9], 200)
    chances = rng.random(800)
    weights = np.select([arm == 4, arm == 7, arm == 8], [np.ones(800), 20.0 * (chances < 0.05), 0.5 * np.ones(800)], 0)
    scaled, without_support = scaled_by_arm(weights, arm)
    assert without_support == {8: 0.5, 9: 0.0}
    sizes = [effective_sample_size(weights[arm == one]) for one in (4, 7)]
    assert [scaled[arm == one].sum() for one in (4, 7, 8, 9)] == pytest.approx([*sizes, 0, 0])
    assert effective_sample_size(scaled) == pytest.approx(sum(sizes))


def test_the_reward_model_is_a_mean_by_group_and_a_shrunken_effect_of_the_track() -> None:
    tracks, same = np.array([0, 0, 1, 2]), np.array([True, False, False, False])
    model = RewardModel.fit(tracks, same, np.array([1.0, 0.4, 0.2, 0.3]), 4)
    overall = 1.9 / 4
    other, own = (0.9 + overall) / 4, (1.0 + overall) / 2
    assert model.means.tolist() == pytest.approx([other, own])
    assert model.effects.tolist() == pytest.approx(
        [(1.0 - own + 0.4 - other) / 12, (0.2 - other) / 11, (0.3 - other) / 11, 0.0]
    )
    assert model.predict(np.array([3]), np.array([True])).tolist() == pytest.approx([own])
    extreme = RewardModel(means=np.array([0.1, 0.9]), effects=np.array([-0.3, 0.0, 0.3]))
    assert extreme.predict(np.arange(3), np.zeros(3, bool)).tolist() == pytest.approx([0.0, 0.1, 0.4])
    assert extreme.predict(np.arange(3), np.ones(3, bool)).tolist() == pytest.approx([0.6, 0.9, 1.0])
    assert RewardModel.fit(tracks[:0], same[:0], np.empty(0), 4).predict(tracks, same).tolist() == [0.5] * 4
