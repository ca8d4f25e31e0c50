"""CUPED: which values a pre-period changes, and the coverage of its interval."""

import numpy as np
import pytest
import statsmodels.api as sm

from segue.statistics.cuped import cuped
from segue.statistics.intervals import GroupSummary, fieller
from tests.statistics.rates import skewed, within_four_standard_errors


def test_without_a_pre_period_the_groups_are_unchanged() -> None:
    values, is_treated = np.random.default_rng(3).exponential(size=200), np.arange(200) % 2 == 1
    adjusted = cuped(values, np.full(200, np.nan), is_treated)
    for ours, group in ((adjusted.control, ~is_treated), (adjusted.treatment, is_treated)):
        plain = GroupSummary.of(values[group])
        assert (ours.num, ours.mean, ours.variance) == pytest.approx((plain.num, plain.mean, plain.variance))
    assert (adjusted.covariance, adjusted.saved_percent) == (0, 0)


def test_the_share_of_the_variance_that_is_removed_does_not_depend_on_the_unit_and_of_none_it_is_0() -> None:
    rng, is_treated = np.random.default_rng(4), np.arange(40) % 2 == 1
    before = rng.normal(size=40)
    values = before + rng.normal(size=40)
    saved = cuped(values, before, is_treated).saved_percent
    assert 20 < saved < 80
    assert cuped(values / 100, before, is_treated).saved_percent == pytest.approx(saved)
    assert cuped(np.ones(40), before, is_treated).saved_percent == 0


def test_the_slope_is_that_of_a_regression_on_the_group_and_the_pre_period() -> None:
    rng = np.random.default_rng(5)
    is_treated = rng.random(90) < 0.4
    habit = skewed(rng, 90)
    values = 0.7 * habit + rng.normal(0, 1, 90) + 0.5 * is_treated
    adjusted = cuped(values, habit, is_treated)
    group = sm.add_constant(is_treated.astype(np.float64))
    without, fit = sm.OLS(values, group).fit(), sm.OLS(values, np.column_stack([group, habit])).fit()
    assert adjusted.saved_percent == pytest.approx(100 * (1 - fit.ssr / without.ssr))
    for ours, mask in ((adjusted.control, ~is_treated), (adjusted.treatment, is_treated)):
        expected = (values - fit.params[2] * (habit - habit.mean()))[mask]
        assert ours.num == mask.sum()
        assert ours.mean == pytest.approx(expected.mean())


@pytest.mark.parametrize("num_known", [(1.0, 1.0), (0.9, 0.5)])
def test_variances_and_covariance_of_the_means_are_those_of_the_jackknife(num_known: tuple[float, float]) -> None:
    """The means are computed again without each unit; the difference to the formula is of the order of 1 / units."""
    rng, num = np.random.default_rng(6), 500
    is_treated = rng.random(num) < 0.3
    habit = skewed(rng, num)
    values = 0.9 * habit * (1 + 0.3 * is_treated) + rng.normal(0, 1, num)
    known = rng.random(num) < np.where(is_treated, num_known[1], num_known[0])
    before = np.where(known, habit, np.nan)
    adjusted = cuped(values, before, is_treated)
    means = []
    for unit in range(num):
        rest = np.arange(num) != unit
        one = cuped(values[rest], before[rest], is_treated[rest])
        means.append((one.control.mean, one.treatment.mean))
    jackknife = (num - 1) ** 2 / num * np.cov(np.array(means).T)
    assert adjusted.control.squared_error == pytest.approx(jackknife[0, 0], rel=0.03)
    assert adjusted.treatment.squared_error == pytest.approx(jackknife[1, 1], rel=0.03)
    assert adjusted.covariance == pytest.approx(jackknife[0, 1], rel=0.03)


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
