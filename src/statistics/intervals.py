"""Intervals of a mean, and of the difference between two independent groups.

Which of them an effect of an A/B test gets is decided in `verdicts/abtest/metrics.py`. Elsewhere are the paired
difference of two set-ups (`paired.py`), the change of an effect (`change.py`), off-policy estimates
(`verdicts/offpolicy/estimators.py`), and the bars of the calibration picture (`reports/training_pictures.py`), which
are 1.96 standard errors.

V values of one group, W values of another, G clusters.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from scipy import special  # t quantiles: scipy.stats gives the same numbers and takes 50 times as long

LEVEL = 0.95
"""Level of every interval whose level nobody can set."""

EXPECTED_PERCENT = 10.0
"""The effect at which the always-valid interval is narrowest, in percent of the control mean."""


@dataclass(frozen=True, kw_only=True)
class MeanInterval:
    """A mean with Student's interval.

    Args:
        num: number of values.
        mean: their mean; NaN without a value.
        lower: lower bound; NaN with fewer than two values or clusters.
        upper: upper bound; NaN with fewer than two values or clusters.
    """

    num: int
    mean: float
    lower: float
    upper: float

    @classmethod
    def of(cls, values: Float64[np.ndarray, "V"], level: float) -> "MeanInterval":
        """The mean of values and its interval.

        Args:
            values: shape `[V]`.
            level: of the interval, in (0, 1).
        """
        mean, margin = float(values.mean()) if len(values) else np.nan, np.nan
        if len(values) > 1:
            quantile = float(special.stdtrit(len(values) - 1, (1 + level) / 2))
            spread = float(values.std(ddof=1)) if np.ptp(values) else 0.0  # of equal values it may be a rounding error
            margin = quantile * spread / len(values) ** 0.5
        return cls(num=len(values), mean=mean, lower=mean - margin, upper=mean + margin)

    @classmethod
    def of_clusters(
        cls, values: Float64[np.ndarray, "V"], cluster: Int64[np.ndarray, "V"], level: float
    ) -> "MeanInterval":
        """The mean of values and its interval, where the values of a cluster are not independent.

        Args:
            values: at least one, shape `[V]`.
            cluster: number of the cluster of each value, shape `[V]`.
            level: of the interval, in (0, 1).

        Source: Liang & Zeger 1986.
        """
        mean, margin = float(values.mean()), np.nan
        sums = np.bincount(np.unique(cluster, return_inverse=True)[1], values - mean)
        if len(sums) > 1:
            quantile = float(special.stdtrit(len(sums) - 1, (1 + level) / 2))
            margin = quantile * clustered_variance(sums, len(values)) ** 0.5
        return cls(num=len(values), mean=mean, lower=mean - margin, upper=mean + margin)


def clustered_variance(sums: Float64[np.ndarray, "G"], num_values: int) -> float:
    """Variance of a mean over the values of clusters, the square of its standard error (linearised ratio, G/(G−1)).

    Args:
        sums: for each cluster, the sum over its values of the value less the mean; at least two clusters.
        num_values: number of values of all clusters.

    Source: Liang & Zeger 1986.
    """
    return float(sums @ sums) * len(sums) / (len(sums) - 1) / num_values**2


@dataclass(frozen=True, kw_only=True)
class GroupSummary:
    """Summary of one group, as a comparison of two groups needs it.

    Args:
        num: number of values.
        mean: their mean.
        variance: their sample variance (ddof 1).
    """

    num: int
    mean: float
    variance: float

    @classmethod
    def of(cls, values: Float64[np.ndarray, "V"]) -> "GroupSummary":
        """The summary of the values of a group.

        Args:
            values: at least two, shape `[V]`.
        """
        return cls(num=len(values), mean=float(values.mean()), variance=float(values.var(ddof=1)))

    @classmethod
    def of_ratio(cls, sums: Float64[np.ndarray, "V"], counts: Float64[np.ndarray, "V"]) -> "GroupSummary":
        """The summary of a ratio of two sums over units: Σ sums / Σ counts, with the delta method.

        Args:
            sums: what each of at least two units adds to the numerator, shape `[V]`.
            counts: what each unit adds to the denominator, shape `[V]`; not all 0.

        Source: Deng, Knoblich, Lu, Applying the Delta Method in Metric Analytics, KDD 2018, section 3.
        """
        ratio = float(sums.sum() / counts.sum())
        linear = (sums - ratio * counts) / counts.mean()
        return cls(num=len(sums), mean=ratio, variance=float(linear.var(ddof=1)))

    @property
    def squared_error(self) -> float:
        """Variance of the mean, the square of its standard error."""
        return self.variance / self.num


def degrees_of_freedom(control: GroupSummary, treatment: GroupSummary) -> float:
    """Degrees of freedom of Welch's t test.

    Args:
        control: summary of the control group.
        treatment: summary of the treatment group.

    Returns:
        The degrees of freedom; NaN if no value varies.

    Source: Welch 1947, Satterthwaite 1946.
    """
    a, b = control.squared_error, treatment.squared_error
    below = a**2 / (control.num - 1) + b**2 / (treatment.num - 1)
    return (a + b) ** 2 / below if below > 0 else np.nan


@dataclass(frozen=True)
class PercentDifference:
    """A difference between two means, in percent of the control mean. What is not known is NaN.

    Args:
        effect_percent: treatment mean less control mean.
        lower_percent: lower bound of its interval.
        upper_percent: upper bound of its interval.
        p_value: two-sided, in [0, 1]; NaN if no value varies.
    """

    effect_percent: float = np.nan
    lower_percent: float = np.nan
    upper_percent: float = np.nan
    p_value: float = np.nan


UNKNOWN = PercentDifference()


def mean_test(
    control: GroupSummary,
    treatment: GroupSummary,
    *,
    ratio: float = 1.0,
    shift: float = 0.0,
    sign: int = 0,
    covariance: float = 0.0,
) -> float:
    """Test the treatment mean against ratio · control mean + shift; Welch's t test, if nothing else is given.

    Args:
        control: summary of the control group.
        treatment: summary of the treatment group.
        ratio: multiplies the control mean.
        shift: is added to it.
        sign: 0 to test that the means differ; 1 to test that the treatment mean is higher, −1 that it is lower
            (non-inferiority, if ratio and shift say the worst mean that is accepted).
        covariance: of the two means; 0 for independent groups.

    Returns:
        The two-sided p-value, or twice the one-sided one, at most 1: it is below alpha exactly if the interval of
        level 1 − alpha (Fieller's with a ratio, Welch's with a shift) excludes what is tested, with a sign on the
        better side. NaN if no value varies.
    """
    variance = treatment.squared_error - 2 * ratio * covariance + ratio**2 * control.squared_error
    if not variance > 0:
        return np.nan
    above = (treatment.mean - ratio * control.mean - shift) / variance**0.5
    distance = sign * above if sign else abs(above)
    return min(1.0, 2 * float(special.stdtr(degrees_of_freedom(control, treatment), -distance)))


def welch(control: GroupSummary, treatment: GroupSummary, alpha: float, unit: float | None = None) -> PercentDifference:
    """Welch's interval of the difference, in percent of a control mean that is treated as a constant.

    Args:
        control: summary of the control group.
        treatment: summary of the treatment group.
        alpha: the interval has level 1 − alpha; in (0, 1).
        unit: multiplies the difference instead of 100 / control mean.

    Returns:
        The difference with its interval and p-value; percentages are NaN if the control mean is 0.

    Source: Welch 1947, and the published A/B spreadsheet of 2023.
    """
    error = (control.squared_error + treatment.squared_error) ** 0.5
    margin = float(special.stdtrit(degrees_of_freedom(control, treatment), 1 - alpha / 2)) * error
    if unit is None:
        unit = 100 / control.mean if control.mean else np.nan
    difference, p_value = treatment.mean - control.mean, mean_test(control, treatment)
    return PercentDifference(difference * unit, (difference - margin) * unit, (difference + margin) * unit, p_value)


def fieller(control: GroupSummary, treatment: GroupSummary, alpha: float, covariance: float = 0.0) -> PercentDifference:
    """The relative difference with an interval that accounts for the uncertainty of the control mean.

    The interval contains every ratio r that the data do not reject: (m_t − r·m_c)² ≤ q²·(v_t − 2·r·c + r²·v_c). At
    r = 1 this is Welch's test; therefore the interval excludes 0 % exactly if the p-value is below alpha.

    Args:
        control: summary of the control group.
        treatment: summary of the treatment group.
        alpha: the interval has level 1 − alpha; in (0, 1).
        covariance: c, the covariance of the two means; 0 for independent groups.

    Returns:
        The difference with its interval and p-value. The bounds are NaN if the control mean could be 0, because no
        ratio can be ruled out then.

    Source: Fieller, Some Problems in Interval Estimation, 1954.
    """
    q2 = float(special.stdtrit(degrees_of_freedom(control, treatment), 1 - alpha / 2)) ** 2
    a = control.mean**2 - q2 * control.squared_error
    b = treatment.mean * control.mean - q2 * covariance
    c = treatment.mean**2 - q2 * treatment.squared_error
    lower = upper = np.nan
    if a > 0:
        root = max(b**2 - a * c, 0.0) ** 0.5
        lower, upper = 100 * ((b - root) / a - 1), 100 * ((b + root) / a - 1)
    effect = 100 * (treatment.mean / control.mean - 1) if control.mean else np.nan
    return PercentDifference(effect, lower, upper, mean_test(control, treatment, covariance=covariance))


def always_valid(control: GroupSummary, treatment: GroupSummary, alpha: float) -> PercentDifference:
    """Interval of the relative effect that is valid under continuous monitoring.

    The mixture sequential probability ratio test, mixed over effects N(0, τ²) with τ the `EXPECTED_PERCENT`.

    Args:
        control: summary of the control group.
        treatment: summary of the treatment group.
        alpha: the interval has level 1 − alpha at all times together; in (0, 1).

    Returns:
        The difference and its interval, without a p-value; NaN if no value varies or the control mean is 0.

    Source: Johari, Koomen, Pekelis, Walsh, Peeking at A/B Tests, KDD 2017, section 3.
    """
    error2 = control.squared_error + treatment.squared_error
    tau2 = (EXPECTED_PERCENT / 100 * control.mean) ** 2
    if not (error2 > 0 and tau2 > 0):
        return UNKNOWN
    margin = (error2 * (error2 + tau2) / tau2 * (np.log((error2 + tau2) / error2) - 2 * np.log(alpha))) ** 0.5
    effect, margin_percent = (100 * float(one) / control.mean for one in (treatment.mean - control.mean, margin))
    return PercentDifference(effect, effect - margin_percent, effect + margin_percent)
