"""The design of an experiment: the split of its units, and the smallest effect that it detects. A arms."""

import numpy as np
from jaxtyping import Float64, Int64
from scipy import special  # scipy.stats.chisquare gives the same p-value and takes 100 times as long

from segue.statistics.intervals import GroupSummary


def sample_ratio(counts: Int64[np.ndarray, "A"], planned: Float64[np.ndarray, "A"]) -> float:
    """Test whether units are split over the arms as planned (sample-ratio test).

    Args:
        counts: number of units of each arm, shape `[A]`.
        planned: planned share of each arm, shape `[A]`; only their ratios matter.

    Returns:
        The p-value of the chi-square test, in [0, 1].
    """
    expected = counts.sum() * planned / planned.sum()
    return float(special.chdtrc(len(counts) - 1, ((counts - expected) ** 2 / expected).sum()))


def minimal_detectable_effect(control: GroupSummary, treatment: GroupSummary, alpha: float, power: float) -> float:
    """The effect that an experiment with these groups detects with a given probability.

    Args:
        control: summary of the control group.
        treatment: summary of the treatment group.
        alpha: rate of false alarms of the two-sided test, in (0, 1).
        power: probability of detecting the effect, in (0, 1).

    Returns:
        The effect in percent of the control mean; NaN if that is 0.
    """
    error = (control.squared_error + treatment.squared_error) ** 0.5
    num_errors = float(special.ndtri(1 - alpha / 2) + special.ndtri(power))
    return 100 * num_errors * error / abs(control.mean) if control.mean else float("nan")
