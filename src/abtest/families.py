"""Which tests are corrected together, and which are made at all.

The primary metric is tested alone. The secondary metrics form a family of their own, and those of a treatment are
tested only if the primary effect of that treatment is significant (gatekeeping).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from src.abtest.metrics import METRICS
from src.abtest.settings import AnalysisSettings
from src.statistics.holm import holm, holm_alphas

Key = tuple[str, str]
"""A treatment and a metric."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """How the test of one effect was decided.

    Args:
        family: name of its family.
        tested: whether it was tested; a secondary metric is not if the primary effect is not significant.
        holm_p_value: with Holm's correction within the family; NaN without a test or without the correction.
        significant: whether the effect is significant.
        alpha: the level that Holm's procedure compared the p-value with. An interval of level 1 − alpha excludes 0
            exactly if the effect is significant.
    """

    family: str
    tested: bool
    holm_p_value: float
    significant: bool
    alpha: float


def family_of(metric: str, settings: AnalysisSettings) -> str:
    """Name of the family of a metric: `primary` or `secondary`."""
    return "primary" if metric == settings.primary else "secondary"


def decide(p_values: Mapping[Key, float], settings: AnalysisSettings) -> dict[Key, Decision]:
    """Decide which effects are significant.

    Args:
        p_values: without correction, for each treatment and metric; NaN where no test is possible.
        settings: the primary metric, alpha, and whether there is a correction.

    Returns:
        A decision for each treatment and metric.
    """
    alpha, decisions = float(settings.alpha), dict[Key, Decision]()
    for family in ("primary", "secondary"):
        keys = [
            key for metric in METRICS for key in p_values if key[1] == metric and family_of(metric, settings) == family
        ]
        is_open = [
            family == "primary" or not settings.correction or decisions[treatment, settings.primary].significant
            for treatment, _ in keys
        ]
        # closed tests count with p = 1: how many are open depends on the data, and must not change the correction
        counted = [
            1.0 if not opened and np.isfinite(p_values[key]) else p_values[key]
            for key, opened in zip(keys, is_open, strict=True)
        ]
        corrected = holm(counted) if settings.correction else counted
        alphas = holm_alphas(counted, alpha) if settings.correction else [alpha] * len(keys)
        for key, opened, p_value, level in zip(keys, is_open, corrected, alphas, strict=True):
            decisions[key] = Decision(
                family=family,
                tested=opened and bool(np.isfinite(p_values[key])),
                holm_p_value=p_value if opened and settings.correction else float("nan"),
                significant=bool(opened and p_value < alpha),
                alpha=level if opened else alpha,
            )
    return decisions
