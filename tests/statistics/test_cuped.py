"""CUPED: which values a pre-period changes, and the coverage of its interval."""

import numpy as np
import pytest

from src.statistics.cuped import cuped
from src.statistics.intervals import GroupSummary, fieller
from tests.statistics.rates import skewed, within_four_standard_errors


def test_without_a_pre_period_the_groups_are_unchanged() -> None:
    values, is_treated = np.random.default_rng(3).exponential(size=200), np.arange(200) % 2 == 1
    adjusted = cuped(values, np.full(200, np.nan), is_treated)
    for ours, group in ((adjusted.control, ~is_treated), (adjusted.treatment, is_treated)):
        plain = GroupSummary.of(values[group])
        assert (ours.num, ours.mean, ours.variance) == pytest.approx((plain.num, plain.mean, plain.variance))
    assert (adjusted.covariance, adjusted.saved_percent) == (0, 0)


def test_users_without_a_pre_period_keep_their_values() -> None:
    rng = np.random.default_rng(3)
    habit, is_treated = rng.exponential(size=200), np.arange(200) % 2 == 1
    adjusted = cuped(habit, np.where(is_treated & (habit > 0.5), habit, np.nan), is_treated)
    assert adjusted.control.mean == pytest.approx(habit[~is_treated].mean())
    assert adjusted.saved_percent > 10


def test_the_p_value_is_that_of_the_difference_of_the_adjusted_values() -> None:
    rng = np.random.default_rng(4)
    habit, is_treated = skewed(rng, 300), np.arange(300) % 2 == 1
    one = cuped(habit + rng.normal(0, 1, 300) + 0.3 * is_treated, habit, is_treated).difference(0.05)
    assert (one.lower_percent > 0) == (one.p_value < 0.05)
    assert one.lower_percent < one.effect_percent < one.upper_percent


@pytest.mark.parametrize("truth", [0, 20, 60, 130])
def test_the_interval_covers_effects_of_any_size(truth: int) -> None:
    """The two adjusted means are correlated; without their covariance the interval of no effect is too wide."""
    rng = np.random.default_rng(18)
    covered, covered_without, num = 0, 0, 1500
    is_treated = np.arange(400) % 2 == 1
    for _ in range(num):
        habit = skewed(rng, 400)
        values = (habit + rng.normal(0, 0.5, 400)) * np.where(is_treated, 1 + truth / 100, 1.0)
        adjusted = cuped(values, habit, is_treated)
        one, without = adjusted.difference(0.05), fieller(adjusted.control, adjusted.treatment, 0.05)
        covered += one.lower_percent < truth < one.upper_percent
        covered_without += without.lower_percent < truth < without.upper_percent
    assert within_four_standard_errors(covered, 0.95, num)
    if truth == 0:
        assert not within_four_standard_errors(covered_without, 0.95, num)
