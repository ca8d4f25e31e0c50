"""Whether a relative effect changes between two periods in which the same units occur. U units."""

import numpy as np
from jaxtyping import Bool, Float64
from scipy import special

from segue.statistics.intervals import PercentDifference


def change_of_effect(
    values: Float64[np.ndarray, "2 U"], is_treated: Bool[np.ndarray, "U"], alpha: float
) -> PercentDifference:
    """The relative effect of the second period less that of the first, with the delta method.

    A unit that occurs in both periods makes their effects correlated; therefore the error is computed from what each
    unit adds to the difference, and not from two separate intervals.

    Args:
        values: value of each unit in each period, NaN where it does not occur; shape `[2, U]`. Each group has at least
            two units in each period, and the means of the control are not 0.
        is_treated: whether each unit is in the treatment group, shape `[U]`.
        alpha: the interval has level 1 − alpha; in (0, 1).

    Returns:
        The change in percentage points of the effect, its interval and p-value.
    """
    occurs, groups, variance = ~np.isnan(values), (~is_treated, is_treated), 0.0
    means = np.array([[values[period, occurs[period] & group].mean() for period in (0, 1)] for group in groups])
    ratios = means[1] / means[0]
    for number, group in enumerate(groups):
        share = occurs[:, group].mean(1, keepdims=True)
        error = np.where(occurs[:, group], values[:, group] - means[number][:, None], 0.0) / share
        error *= (np.ones(2) if number else -ratios)[:, None] / means[0][:, None]
        variance += float((error[1] - error[0]).var(ddof=1)) / int(group.sum())
    change, error_percent = 100 * float(ratios[1] - ratios[0]), 100 * variance**0.5
    margin = float(special.ndtri(1 - alpha / 2)) * error_percent
    p_value = 2 * float(special.ndtr(-abs(change) / error_percent)) if error_percent > 0 else float("nan")
    return PercentDifference(change, change - margin, change + margin, p_value)
