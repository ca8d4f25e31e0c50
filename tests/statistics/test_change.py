"""The change of an effect between two periods with the same units."""

import numpy as np
import pytest
from scipy import stats

from segue.statistics.change import change_of_effect
from tests.statistics.rates import within_four_standard_errors


def two_periods(rng: np.random.Generator, lifts: tuple[float, float], num: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Values of control and treatment: units with a habit, each absent from each period with probability 0.3."""
    is_treated = np.arange(num) % 2 == 1
    habit = rng.gamma(2.0, 2.0, num)
    lift = np.where(is_treated, 1 + np.array(lifts)[:, None], 1.0)
    values = habit * rng.gamma(8.0, 1 / 8, (2, num)) * lift
    values = np.where(rng.random((2, num)) < 0.3, np.nan, values)
    return values[:, ~is_treated], values[:, is_treated]


@pytest.mark.parametrize("lifts", [(0.0, 0.0), (0.6, 0.6), (0.8, 0.2)])
def test_the_interval_covers_the_true_change_at_its_level(lifts: tuple[float, float]) -> None:
    rng, num = np.random.default_rng(1), 1200
    truth = 100 * (lifts[1] - lifts[0])
    found = [change_of_effect(*two_periods(rng, lifts), 0.05) for _ in range(num)]
    covered = sum(one.lower_percent < truth < one.upper_percent for one in found)
    assert within_four_standard_errors(covered, 0.95, num)
    for one in found[:50]:
        assert (one.p_value < 0.05) == (one.lower_percent > 0 or one.upper_percent < 0)


def test_the_error_is_that_of_the_delta_method_over_sums_and_counts_of_both_periods() -> None:
    """With the numerical gradient and the sample covariance of four sums of each group."""
    both = two_periods(np.random.default_rng(5), (0.3, 0.1), 60)
    groups = [
        np.stack([np.nan_to_num(one[0]), ~np.isnan(one[0]), np.nan_to_num(one[1]), ~np.isnan(one[1])]) for one in both
    ]

    def change(means: np.ndarray) -> float:
        (a, b, c, d), (e, f, g, h) = means
        return float(100 * ((g / h) / (c / d) - (e / f) / (a / b)))

    means = np.array([group.mean(1) for group in groups])
    variance = 0.0
    for number, group in enumerate(groups):
        steps = np.zeros((4, 2, 4))
        steps[range(4), number, range(4)] = 1e-6
        gradient = np.array([change(means + step) - change(means - step) for step in steps]) / 2e-6
        variance += gradient @ np.cov(group) @ gradient / group.shape[1]
    one = change_of_effect(*both, 0.1)
    assert one.effect_percent == pytest.approx(change(means))
    margin = stats.norm.ppf(0.95) * variance**0.5
    assert (one.upper_percent - one.effect_percent) == pytest.approx(margin, rel=1e-6)
    assert (one.effect_percent - one.lower_percent) == pytest.approx(margin, rel=1e-6)
    assert one.p_value == pytest.approx(2 * stats.norm.sf(abs(one.effect_percent) / variance**0.5), rel=1e-6)


def test_without_variation_there_is_no_p_value() -> None:
    assert np.isnan(change_of_effect(np.ones((2, 4)), np.ones((2, 4)), 0.05).p_value)
