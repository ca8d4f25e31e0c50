"""Which tests are corrected together, and which are made at all.

The primary metric is tested alone. The secondary metrics form a family of their own, and those of a treatment are
tested only if the primary effect of that treatment is significant (gatekeeping). The guardrails are the third family:
each is tested against its margin, always.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from segue.statistics.holm import holm, holm_alphas
from segue.statistics.intervals import GroupSummary, mean_test
from segue.verdicts.abtest.metrics import IN_POINTS, LOWER_IS_BETTER, METRICS
from segue.verdicts.abtest.settings import AnalysisSettings

Key = tuple[str, str]
"""A treatment and a metric."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """How the test of one effect was decided.

    Args:
        family: name of its family.
        holm_p_value: with Holm's correction within the family; NaN without a test, as of a secondary metric if the
            primary effect is not significant.
        significant: whether the effect is significant; of a guardrail, whether its metric is better than the margin.
        alpha: the level that Holm's procedure compared the p-value with. An interval of level 1 − alpha excludes 0
            exactly if the effect is significant.
    """

    family: str
    holm_p_value: float
    significant: bool
    alpha: float


def family_of(metric: str, settings: AnalysisSettings) -> str:
    """Name of the family of a metric: `primary`, `guardrail` or `secondary`."""
    if metric == settings.primary:
        return "primary"
    return "secondary" if settings.guardrails.get(metric) is None else "guardrail"


def p_value_of(metric: str, control: GroupSummary, treatment: GroupSummary, settings: AnalysisSettings) -> float:
    """The p-value of the test of one effect: that it is not 0, or for a guardrail that it is better than the margin.

    Args:
        metric: name of the metric.
        control: summary of the control group.
        treatment: summary of the treatment group.
        settings: the primary metric and the guardrails.

    Returns:
        The p-value without correction, in [0, 1]; NaN if no value varies.
    """
    if family_of(metric, settings) != "guardrail":
        return mean_test(control, treatment)
    sign, margin = -1 if metric in LOWER_IS_BETTER else 1, settings.guardrails[metric] or 0.0
    if metric in IN_POINTS:
        return mean_test(control, treatment, sign=sign, shift=-sign * margin)
    return mean_test(control, treatment, sign=sign, ratio=1 - sign * margin / 100)


def decide(p_values: Mapping[Key, float], settings: AnalysisSettings) -> dict[Key, Decision]:
    """Decide which effects are significant.

    Args:
        p_values: of `p_value_of`, for each treatment and metric; NaN where no test is possible.
        settings: the primary metric, the guardrails, and alpha.

    Returns:
        A decision for each treatment and metric.
    """
    decisions = dict[Key, Decision]()
    for family in ("primary", "secondary", "guardrail"):
        keys = [
            key for metric in METRICS for key in p_values if key[1] == metric and family_of(metric, settings) == family
        ]
        is_open = [family != "secondary" or decisions[arm, settings.primary].significant for arm, _ in keys]
        # closed tests count with p = 1: how many are open depends on the data, and must not change the correction
        counted = [
            p_values[key] if opened or np.isnan(p_values[key]) else 1.0
            for key, opened in zip(keys, is_open, strict=True)
        ]
        tests = zip(keys, is_open, holm(counted), holm_alphas(counted, settings.alpha), strict=True)
        for key, opened, p_value, level in tests:
            decisions[key] = Decision(
                family=family,
                holm_p_value=p_value if opened else np.nan,
                significant=opened and p_value < settings.alpha,
                alpha=level if opened else settings.alpha,
            )
    return decisions
