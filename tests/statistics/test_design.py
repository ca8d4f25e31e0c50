"""Power and sample ratio: independent calculations, and error rates."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import tt_ind_solve_power

from segue.statistics.design import minimal_detectable_effect, sample_ratio
from segue.statistics.intervals import GroupSummary, welch
from tests.statistics.rates import skewed, within_four_standard_errors

NUM_EXPERIMENTS, ALPHA = 1500, 0.05


def test_the_detectable_effect_equals_that_of_statsmodels() -> None:
    sample = GroupSummary(num=500, mean=4.0, variance=9.0)
    detectable = minimal_detectable_effect(sample, sample, 0.05, 0.8)
    needed = tt_ind_solve_power(nobs1=500, alpha=0.05, power=0.8) * 3 / 4 * 100
    assert detectable == pytest.approx(needed, rel=2e-3)


def test_the_p_value_of_the_sample_ratio_test_equals_that_of_scipy() -> None:
    rng = np.random.default_rng(10)
    for num_arms in (2, 3, 5):
        counts, planned = rng.integers(900, 1100, num_arms), rng.uniform(0.9, 1.1, num_arms)
        expected = counts.sum() * planned / planned.sum()
        assert sample_ratio(counts, planned) == pytest.approx(stats.chisquare(counts, expected).pvalue, rel=1e-12)


def test_the_power_at_the_detectable_effect_is_the_nominal_one() -> None:
    sample = GroupSummary.of(skewed(np.random.default_rng(0), 400_000))
    arm = GroupSummary(num=300, mean=sample.mean, variance=sample.variance)
    detectable = minimal_detectable_effect(arm, arm, ALPHA, 0.8) / 100
    rng = np.random.default_rng(8)
    num_detected = 0
    for _ in range(NUM_EXPERIMENTS):
        control, treatment = skewed(rng, 300), skewed(rng, 300) + detectable * sample.mean
        num_detected += welch(GroupSummary.of(control), GroupSummary.of(treatment), ALPHA).p_value < ALPHA
    assert within_four_standard_errors(num_detected, 0.8, NUM_EXPERIMENTS)


def test_the_rate_of_false_alarms_of_the_sample_ratio_test_is_the_nominal_one() -> None:
    rng = np.random.default_rng(9)
    num_alarms = sum(
        sample_ratio(np.bincount(rng.integers(2, size=1000), minlength=2), np.ones(2)) < 0.05
        for _ in range(4 * NUM_EXPERIMENTS)
    )
    assert within_four_standard_errors(num_alarms, 0.05, 4 * NUM_EXPERIMENTS)
