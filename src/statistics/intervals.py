"""Intervals: of a mean, and of the difference between two independent groups.

Every interval that Segue reports is made here, except the paired difference of two set-ups (`paired.py`) and the bars
of the calibration picture (`plots/run.py`), which are 1.96 standard errors.
V values of a group, W of another.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy import stats


@dataclass(frozen=True, kw_only=True)
class MeanInterval:
    """A mean of `num` values with Student's interval; NaN where there are too few values."""

    num: int
    mean: float
    lower: float
    upper: float

    @classmethod
    def of(cls, values: Float64[np.ndarray, "V"], level: float) -> "MeanInterval":
        """Of some values; the mean needs one, its interval two."""
        mean, reach = float(values.mean()) if len(values) else float("nan"), float("nan")
        if len(values) > 1:
            quantile = float(stats.t.ppf((1 + level) / 2, len(values) - 1))
            reach = quantile * float(values.std(ddof=1)) / len(values) ** 0.5
        return cls(num=len(values), mean=mean, lower=mean - reach, upper=mean + reach)


@dataclass(frozen=True, kw_only=True)
class GroupSummary:
    """What a comparison of two groups needs of each: number of values, mean, and variance (ddof 1)."""

    num: int
    mean: float
    variance: float

    @classmethod
    def of(cls, values: Float64[np.ndarray, "V"]) -> "GroupSummary":
        """Of the values of a group, at least two."""
        return cls(num=len(values), mean=float(values.mean()), variance=float(values.var(ddof=1)))

    @property
    def squared_error(self) -> float:
        """Variance of the mean."""
        return self.variance / self.num


def degrees_of_freedom(control: GroupSummary, treatment: GroupSummary) -> float:
    """Of Welch's t test. Source: Welch 1947, Satterthwaite 1946."""
    a, b = control.squared_error, treatment.squared_error
    below = a**2 / (control.num - 1) + b**2 / (treatment.num - 1)
    return (a + b) ** 2 / below if below > 0 else float("nan")


@dataclass(frozen=True, kw_only=True)
class PercentDifference:
    """A difference between two means, in percent of the control mean."""

    effect_percent: float
    lower_percent: float
    upper_percent: float
    p_value: float


def welch(control: GroupSummary, treatment: GroupSummary, alpha: float) -> PercentDifference:
    """Welch's interval of the difference, in percent of a control mean that is treated as a constant.

    This is the published sheet of the A/B test.
    """
    error = (control.squared_error + treatment.squared_error) ** 0.5
    df = degrees_of_freedom(control, treatment)
    difference = treatment.mean - control.mean
    reach = float(stats.t.ppf(1 - alpha / 2, df)) * error
    p_value = 2 * float(stats.t.sf(abs(difference) / error, df)) if error > 0 else float("nan")
    unit = 100 / control.mean if control.mean else float("nan")
    return PercentDifference(
        effect_percent=difference * unit,
        lower_percent=(difference - reach) * unit,
        upper_percent=(difference + reach) * unit,
        p_value=p_value,
    )


def fieller(control: GroupSummary, treatment: GroupSummary, alpha: float) -> tuple[float, float]:
    """Interval of the relative effect in percent that accounts for the uncertainty of the control mean.

    All ratios r that the data do not reject: (m_t − r·m_c)² ≤ q²·(v_t + r²·v_c). NaN where the control mean could be 0,
    since no ratio can be ruled out then. Source: Fieller 1954.
    """
    q2 = float(stats.t.ppf(1 - alpha / 2, degrees_of_freedom(control, treatment))) ** 2
    a = control.mean**2 - q2 * control.squared_error
    b = treatment.mean * control.mean
    c = treatment.mean**2 - q2 * treatment.squared_error
    if not a > 0:
        return float("nan"), float("nan")
    root = max(b**2 - a * c, 0.0) ** 0.5
    return 100 * ((b - root) / a - 1), 100 * ((b + root) / a - 1)


def always_valid(
    control: GroupSummary, treatment: GroupSummary, alpha: float, expected_percent: float
) -> tuple[float, float]:
    """Sequential interval in percent: it holds at every moment at once, under continuous monitoring.

    The mixture sequential probability ratio test, mixed over effects N(0, τ²) with τ the effect that is expected.
    Source: Johari, Koomen, Pekelis, Walsh, Peeking at A/B Tests, KDD 2017, section 3.
    """
    error2 = control.squared_error + treatment.squared_error
    tau2 = (expected_percent / 100 * control.mean) ** 2
    if not (error2 > 0 and tau2 > 0):
        return float("nan"), float("nan")
    spread = error2 * (error2 + tau2) / tau2
    reach = (spread * (np.log((error2 + tau2) / error2) - 2 * np.log(alpha))) ** 0.5
    difference = treatment.mean - control.mean
    return 100 * float(difference - reach) / control.mean, 100 * float(difference + reach) / control.mean


def bootstrap(
    control: Float64[np.ndarray, "V"],
    treatment: Float64[np.ndarray, "W"],
    alpha: float,
    rounds: int,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Percentile interval of the relative effect in percent, values drawn with replacement."""
    means = []
    for values in (control, treatment):
        block = max(1, 2_000_000 // len(values))
        drawn = [
            values[rng.integers(len(values), size=(min(block, rounds - start), len(values)))].mean(1)
            for start in range(0, rounds, block)
        ]
        means.append(np.concatenate(drawn))
    with np.errstate(divide="ignore", invalid="ignore"):
        effects = 100 * (means[1] / means[0] - 1)
    lower, upper = np.quantile(effects, [alpha / 2, 1 - alpha / 2])
    return float(lower), float(upper)
