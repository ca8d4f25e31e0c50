"""Whether a relative effect changes between two periods in which the same units occur. C and T units of two groups."""

import numpy as np
from jaxtyping import Float64
from scipy import special

from segue.statistics.intervals import PercentDifference


def change_of_effect(
    control: Float64[np.ndarray, "2 C"], treatment: Float64[np.ndarray, "2 T"], alpha: float
) -> PercentDifference:
    """The relative effect of the second period less that of the first, with the delta method.

    A unit that occurs in both periods makes their effects correlated; therefore the error is computed from what each
    unit adds to the difference, and not from two separate intervals.

    Args:
        control: value of each unit of the control in each period, NaN where it does not occur; at least two units occur
            in each period, and their means are not 0.
        treatment: the same of the treatment.
        alpha: the interval has level 1 − alpha; in (0, 1).

    Returns:
        The change in percentage points of the effect, its interval and p-value.
    """
    means, parts = [], []
    for values in (control, treatment):
        occurs = ~np.isnan(values)
        means.append(np.nanmean(values, axis=1, keepdims=True))
        parts.append(np.where(occurs, values - means[-1], 0.0) / occurs.mean(1, keepdims=True))
    effects = means[1] / means[0]
    errors = (effects * parts[0] / means[0], parts[1] / means[0])
    variance = sum(float((error[1] - error[0]).var(ddof=1)) / error.shape[1] for error in errors)
    change, error_percent = 100 * float(effects[1, 0] - effects[0, 0]), 100 * variance**0.5
    margin = float(special.ndtri(1 - alpha / 2)) * error_percent
    p_value = 2 * float(special.ndtr(-abs(change) / error_percent)) if error_percent > 0 else np.nan
    return PercentDifference(change, change - margin, change + margin, p_value)
