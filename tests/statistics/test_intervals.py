"""Intervals of means and of differences: independent libraries, and coverage."""

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import integrate, stats

from segue.statistics.intervals import (
    UNKNOWN,
    GroupSummary,
    MeanInterval,
    always_valid,
    degrees_of_freedom,
    fieller,
    mean_test,
    welch,
)
from tests.statistics.rates import skewed, within_four_standard_errors

NUM_EXPERIMENTS, ALPHA = 1500, 0.05


MANY = GroupSummary(num=20, mean=4.0, variance=3.0), GroupSummary(num=20, mean=5.0, variance=6.0)


def test_the_interval_of_a_mean_equals_students() -> None:
    values = np.random.default_rng(0).exponential(size=9)
    one = MeanInterval.of(values, 0.9)
    assert one.num == 9
    assert one.mean == pytest.approx(values.mean())
    assert (one.lower, one.upper) == pytest.approx(stats.t.interval(0.9, 8, values.mean(), stats.sem(values)))


def test_one_value_has_a_mean_without_interval_and_no_value_has_neither() -> None:
    single, none = MeanInterval.of(np.array([2.0]), 0.95), MeanInterval.of(np.empty(0), 0.95)
    assert (single.num, single.mean, none.num) == (1, 2.0, 0)
    assert np.isnan([single.lower, single.upper, none.mean, none.lower, none.upper]).all()


def test_equal_values_have_an_interval_without_width_although_their_mean_is_rounded() -> None:
    interval = MeanInterval.of(np.full(3, 3.566), 0.95)
    assert interval.lower == interval.mean == interval.upper


def test_the_interval_of_clusters_equals_the_cluster_interval_of_statsmodels() -> None:
    rng = np.random.default_rng(4)
    cluster = 7 * np.repeat(rng.permutation(30), rng.integers(1, 9, 30))
    values = rng.random(len(cluster)) + rng.normal(0, 0.3, 211)[cluster]
    fit = sm.OLS(values, np.ones(len(values))).fit()
    expected = fit.get_robustcov_results("cluster", groups=cluster, use_t=True, df_correction=True)
    one = MeanInterval.of_clusters(values, cluster, 0.9)
    assert one.num == len(values)
    assert one.mean == pytest.approx(expected.params[0])
    assert (one.lower, one.upper) == pytest.approx(tuple(expected.conf_int(0.1)[0]))


def test_the_interval_of_clusters_of_one_value_is_students_and_of_one_cluster_there_is_none() -> None:
    values = np.random.default_rng(5).random(12)
    each, students = MeanInterval.of_clusters(values, np.arange(12), 0.95), MeanInterval.of(values, 0.95)
    assert (each.mean, each.lower, each.upper) == pytest.approx((students.mean, students.lower, students.upper))
    two, means = MeanInterval.of_clusters(np.array([1.0, 2.0]), np.array([0, 1]), 0.95), np.array([1.0, 2.0])
    assert (two.lower, two.upper) == pytest.approx(stats.t.interval(0.95, 1, means.mean(), stats.sem(means)))
    single = MeanInterval.of_clusters(values, np.zeros(12, np.int64), 0.95)
    assert single.mean == values.mean()
    assert np.isnan([single.lower, single.upper]).all()


@pytest.mark.parametrize("unit", [None, 2.5])
def test_welchs_difference_equals_that_of_scipy(unit: float | None) -> None:
    rng = np.random.default_rng(20)
    control, treatment = skewed(rng, 7), skewed(rng, 12) + 1
    groups = GroupSummary.of(control), GroupSummary.of(treatment)
    theirs = stats.ttest_ind(treatment, control, equal_var=False)
    bounds, one = theirs.confidence_interval(0.9), welch(*groups, 0.1, unit)
    times = 100 / control.mean() if unit is None else unit
    assert degrees_of_freedom(*groups) == pytest.approx(theirs.df)
    assert one.effect_percent == pytest.approx(times * (treatment.mean() - control.mean()))
    assert (one.lower_percent, one.upper_percent) == pytest.approx((times * bounds.low, times * bounds.high))
    assert one.p_value == pytest.approx(theirs.pvalue)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("alpha", [0.01, 0.3])
def test_a_mean_is_as_good_as_accepted_exactly_if_the_interval_is_on_the_better_side(sign: int, alpha: float) -> None:
    """What is accepted lies on the bound of the interval of level 1 - alpha: then the p-value is alpha."""
    control, treatment = GroupSummary(num=9, mean=4.0, variance=3.0), GroupSummary(num=14, mean=4.5, variance=2.0)
    one, plain = fieller(control, treatment, alpha), welch(control, treatment, alpha, 1.0)
    side = "lower_percent" if sign > 0 else "upper_percent"
    ratio, shift = 1 + getattr(one, side) / 100, getattr(plain, side)
    assert mean_test(control, treatment, sign=sign, ratio=ratio) == pytest.approx(alpha)
    assert mean_test(control, treatment, sign=sign, shift=shift) == pytest.approx(alpha)
    assert mean_test(control, treatment, sign=sign, shift=shift - 0.1 * sign) < alpha
    assert mean_test(control, treatment, sign=sign, shift=shift + 9 * sign) == 1


@pytest.mark.parametrize("covariance", [0.0, 0.05])
def test_fiellers_bounds_are_the_ratios_whose_p_value_is_alpha(covariance: float) -> None:
    groups = GroupSummary(num=20, mean=4.0, variance=3.0), GroupSummary(num=30, mean=5.0, variance=6.0)
    one = fieller(*groups, 0.1, covariance)
    for bound in (one.lower_percent, one.upper_percent):
        assert mean_test(*groups, ratio=1 + bound / 100, covariance=covariance) == pytest.approx(0.1)
    assert mean_test(*groups, ratio=1 + one.effect_percent / 100, covariance=covariance) == pytest.approx(1)


@pytest.mark.parametrize("unit", [1.0, 0.05])
def test_fiellers_interval_does_not_depend_on_the_unit(unit: float) -> None:
    control, treatment = (GroupSummary(num=20, mean=one.mean * unit, variance=one.variance * unit**2) for one in MANY)
    found, usual = fieller(control, treatment, 0.1), fieller(*MANY, 0.1)
    assert (found.lower_percent, found.upper_percent) == pytest.approx((usual.lower_percent, usual.upper_percent))


def test_fiellers_interval_of_values_that_hardly_vary_is_their_ratio() -> None:
    """Rounding then makes the number below the root negative now and then."""
    rng = np.random.default_rng(3)
    for control, treatment in rng.uniform(0.1, 9, (200, 2)).tolist():
        ours, theirs = (GroupSummary(num=9, mean=mean, variance=1e-40) for mean in (control, treatment))
        one = fieller(ours, theirs, 0.05)
        effect = 100 * (treatment / control - 1)
        assert isinstance(one.lower_percent, float)
        assert (one.lower_percent, one.upper_percent) == pytest.approx((effect, effect), rel=1e-6, abs=1e-4)


def test_the_variance_of_a_ratio_of_sums_is_that_of_the_delta_method() -> None:
    rng = np.random.default_rng(21)
    counts = 1.0 + rng.poisson(3, 40)
    sums = counts * skewed(rng, 40)
    gradient = np.array([1 / counts.mean(), -sums.mean() / counts.mean() ** 2])
    one = GroupSummary.of_ratio(sums, counts)
    assert one.num == 40
    assert one.mean == pytest.approx(sums.sum() / counts.sum())
    assert one.variance == pytest.approx(gradient @ np.cov(sums, counts) @ gradient)


def test_values_that_do_not_vary_have_no_p_value_and_a_control_of_0_has_no_percentages() -> None:
    equal = GroupSummary(num=5, mean=2.0, variance=0.0), GroupSummary(num=5, mean=3.0, variance=0.0)
    assert np.isnan([mean_test(*equal, sign=1), mean_test(*equal), degrees_of_freedom(*equal)]).all()
    assert always_valid(*equal, 0.05) is UNKNOWN
    zero = GroupSummary(num=5, mean=0.0, variance=1.0), GroupSummary(num=5, mean=3.0, variance=1.0)
    assert always_valid(*zero, 0.05) is UNKNOWN
    for one in (welch(*zero, 0.05), fieller(*zero, 0.05)):
        assert np.isnan([one.effect_percent, one.lower_percent, one.upper_percent]).all()
        assert one.p_value == pytest.approx(stats.ttest_ind_from_stats(0, 1, 5, 3, 1, 5, equal_var=False).pvalue)


def test_there_is_no_relative_interval_if_the_control_mean_could_be_zero() -> None:
    one = fieller(GroupSummary(num=10, mean=0.1, variance=9.0), GroupSummary(num=10, mean=1.0, variance=9.0), 0.05)
    assert np.isnan([one.lower_percent, one.upper_percent]).all()
    assert one.effect_percent == pytest.approx(900)
    assert 0 < one.p_value < 1


@pytest.mark.parametrize("truth", [0, 20, 60, 130])
def test_fiellers_interval_covers_effects_of_any_size_and_the_sheets_does_not(truth: int) -> None:
    rng = np.random.default_rng(17)
    covered, covered_by_sheet, num = 0, 0, 2500
    for _ in range(num):
        values = skewed(rng, (2, 200))
        groups = GroupSummary.of(values[0]), GroupSummary.of(values[1] * (1 + truth / 100))
        one, sheet = fieller(*groups, ALPHA), welch(*groups, ALPHA)
        covered += one.lower_percent < truth < one.upper_percent
        covered_by_sheet += sheet.lower_percent < truth < sheet.upper_percent
    assert within_four_standard_errors(covered, 0.95, num)
    assert within_four_standard_errors(covered_by_sheet, 0.95, num) == (truth == 0)


@pytest.mark.parametrize("truth", [0, 20, 130])
def test_the_interval_of_a_ratio_of_sums_covers_the_true_effect_at_its_level(truth: int) -> None:
    """Users with many sessions have longer ones, therefore the ratio of sums is not the mean of users."""
    rng = np.random.default_rng(19)
    covered, num = 0, 2000
    for _ in range(num):
        sessions = 1.0 + rng.poisson(4, (2, 300))
        time = sessions * skewed(rng, (2, 300)) * (1 + sessions / 10)
        ours = GroupSummary.of_ratio(time[0], sessions[0])
        theirs = GroupSummary.of_ratio(time[1] * (1 + truth / 100), sessions[1])
        one = fieller(ours, theirs, ALPHA)
        covered += one.lower_percent < truth < one.upper_percent
    assert within_four_standard_errors(covered, 0.95, num)


@pytest.mark.parametrize("alpha", [0.05, 0.2])
@pytest.mark.parametrize("effect", [-0.5, 0.0, 0.7])
def test_the_always_valid_interval_has_the_effects_whose_mixture_likelihood_ratio_is_below_1_by_alpha(
    alpha: float, effect: float
) -> None:
    """The definition of the mSPRT, by numerical integration over the mixture.

    Johari, Koomen, Pekelis, Walsh, Always Valid Inference: Continuous Monitoring of A/B Tests, Operations Research
    2022 (arXiv 1512.04922), sections 3 and 4: an effect is in the interval as long as its likelihood ratio against
    effects that are normal around it, with standard deviation tau, is below 1 / alpha.
    """
    control = GroupSummary(num=80, mean=4.0, variance=9.0)
    treatment = GroupSummary(num=120, mean=4.0 + effect, variance=6.0)
    error, tau = (9 / 80 + 6 / 120) ** 0.5, 0.1 * 4.0

    def ratio(percent: float) -> float:
        tested, density = percent / 100 * 4.0, stats.norm.pdf
        mixed = integrate.quad(lambda other: density(effect, tested + other, error) * density(other, 0, tau), -9, 9)[0]
        return float(mixed / density(effect, tested, error))

    one = always_valid(control, treatment, alpha)
    assert one.effect_percent == pytest.approx(25 * effect)
    assert ratio(one.lower_percent) == pytest.approx(1 / alpha)
    assert ratio(one.upper_percent) == pytest.approx(1 / alpha)
    assert ratio(one.lower_percent - 1) > 1 / alpha > ratio(one.lower_percent + 1)
    assert ratio(one.upper_percent + 1) > 1 / alpha > ratio(one.upper_percent - 1)


def test_the_always_valid_interval_keeps_its_level_under_repeated_looks_and_welchs_does_not() -> None:
    """Twenty looks at the growing data of each A/A experiment."""
    rng = np.random.default_rng(10)
    sequential_alarms = welch_alarms = 0
    for _ in range(600):
        control, treatment = skewed(rng, 2000), skewed(rng, 2000)
        looks = [(GroupSummary.of(control[:num]), GroupSummary.of(treatment[:num])) for num in range(100, 2001, 100)]
        welch_alarms += any(welch(*look, ALPHA).p_value < ALPHA for look in looks)
        intervals = [always_valid(*look, ALPHA) for look in looks]
        sequential_alarms += any(one.lower_percent > 0 or one.upper_percent < 0 for one in intervals)
    assert sequential_alarms / 600 < ALPHA + 4 * (ALPHA * (1 - ALPHA) / 600) ** 0.5
    assert welch_alarms / 600 > 2 * ALPHA
