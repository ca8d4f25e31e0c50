"""CUPED: independent calculations, and the coverage of its interval."""

import numpy as np
import pytest
import statsmodels.api as sm

from segue.statistics.cuped import cuped
from segue.statistics.intervals import GroupSummary, fieller
from tests.statistics.rates import skewed, within_four_standard_errors


def test_without_a_pre_period_the_effect_is_fiellers() -> None:
    values, is_treated = np.random.default_rng(3).exponential(size=200), np.arange(200) % 2 == 1
    expected = fieller(GroupSummary.of(values[~is_treated]), GroupSummary.of(values[is_treated]), 0.05)
    effect, saved_percent = cuped(values, np.full(200, np.nan), is_treated, 0.05)
    assert saved_percent == 0
    assert tuple(vars(effect).values()) == pytest.approx(tuple(vars(expected).values()))


def test_the_slope_is_that_of_a_regression_on_the_group_and_the_pre_period() -> None:
    rng = np.random.default_rng(5)
    is_treated = rng.random(90) < 0.4
    habit = skewed(rng, 90)
    values = 0.7 * habit + rng.normal(0, 1, 90) + 0.5 * is_treated
    effect, saved_percent = cuped(values, habit, is_treated, 0.05)
    group = sm.add_constant(is_treated.astype(np.float64))
    without, fit = sm.OLS(values, group).fit(), sm.OLS(values, np.column_stack([group, habit])).fit()
    assert saved_percent == pytest.approx(100 * (1 - fit.ssr / without.ssr))
    adjusted = values - fit.params[2] * (habit - habit.mean())
    assert effect.effect_percent == pytest.approx(
        100 * (adjusted[is_treated].mean() / adjusted[~is_treated].mean() - 1)
    )
    assert cuped(np.ones(90), habit, is_treated, 0.05)[1] == 0


@pytest.mark.parametrize("num_known", [(1.0, 1.0), (0.9, 0.5)])
def test_the_error_is_that_of_the_jackknife(num_known: tuple[float, float]) -> None:
    """The effect is computed again without each unit; the difference to the formula is of the order of 1 / units."""
    rng, num = np.random.default_rng(6), 500
    is_treated = rng.random(num) < 0.3
    habit = skewed(rng, num)
    values = 0.9 * habit * (1 + 0.3 * is_treated) + rng.normal(0, 1, num)
    known = rng.random(num) < np.where(is_treated, num_known[1], num_known[0])
    before = np.where(known, habit, np.nan)
    effect, _ = cuped(values, before, is_treated, 0.05)
    rest = [np.arange(num) != unit for unit in range(num)]
    effects = [cuped(values[own], before[own], is_treated[own], 0.05)[0].effect_percent for own in rest]
    jackknife = ((num - 1) ** 2 / num * np.var(effects, ddof=1)) ** 0.5
    assert (effect.upper_percent - effect.lower_percent) / (2 * 1.96) == pytest.approx(jackknife, rel=0.03)


@pytest.mark.parametrize("truth", [0, 20, 60, 130])
def test_the_interval_covers_effects_of_any_size(truth: int) -> None:
    rng, num, covered = np.random.default_rng(18), 1500, 0
    is_treated = np.arange(400) % 2 == 1
    for _ in range(num):
        habit = skewed(rng, 400)
        values = (habit + rng.normal(0, 0.5, 400)) * np.where(is_treated, 1 + truth / 100, 1.0)
        one, _ = cuped(values, habit, is_treated, 0.05)
        covered += one.lower_percent < truth < one.upper_percent
        assert (one.lower_percent > 0 or one.upper_percent < 0) == (one.p_value < 0.05)
    assert within_four_standard_errors(covered, 0.95, num)
