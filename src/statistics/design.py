"""The design of an experiment: does it split as planned, and how small an effect could it detect? A arms."""

import numpy as np
from jaxtyping import Float64, Int64
from scipy import stats

from src.statistics.intervals import GroupSummary


def sample_ratio(counts: Int64[np.ndarray, "A"], planned: Float64[np.ndarray, "A"]) -> float:
    """P-value of the chi-square test of units per arm against the planned shares."""
    return float(stats.chisquare(counts, counts.sum() * planned / planned.sum()).pvalue)


def minimal_detectable_effect(control: GroupSummary, treatment: GroupSummary, alpha: float, power: float) -> float:
    """The effect, in percent of the control mean, that an experiment like this one finds with this power."""
    error = (control.squared_error + treatment.squared_error) ** 0.5
    reach = float(stats.norm.ppf(1 - alpha / 2) + stats.norm.ppf(power))
    return 100 * reach * error / abs(control.mean) if control.mean else float("nan")
