"""Sessions without a `last`: how many each arm has, whether the arms differ in them, and what they could change.

Long sessions are cut off more often than short ones. Without them, the arm with the longer sessions therefore looks
worse than it is.
"""

from dataclasses import dataclass

import numpy as np

from segue.statistics.intervals import GroupSummary, PercentDifference, welch
from segue.verdicts.abtest.metrics import difference, metric_values
from segue.verdicts.abtest.users import Sessions, Users, sums_of_users


@dataclass(frozen=True, kw_only=True)
class Unfinished:
    """Unfinished sessions of one treatment, compared with the control.

    Args:
        p_value: of the test that the arms have the same share of unfinished sessions; NaN if none has any.
        kept: the effect if these sessions had ended where the log ends; None if there are none.
        lower_percent: lower bound of the effect if those of one arm had become as long as possible: of a metric that
            grows with the session, those of the control.
        upper_percent: upper bound of the effect if those of the other arm had.
    """

    p_value: float
    kept: PercentDifference | None = None
    lower_percent: float = float("nan")
    upper_percent: float = float("nan")


def count_unfinished(users: Users) -> dict[str, int]:
    """Number of unfinished sessions of each arm, by its name."""
    each = users.each
    return {arm: int((~each.is_finished & (each.arm_of == n)).sum()) for n, arm in enumerate(users.arms)}


def compare_unfinished(users: Users, metric: str, number: int, alpha: float) -> Unfinished:
    """Compare the unfinished sessions of a treatment with those of the control.

    Args:
        users: the users of the experiment; all of its sessions are used.
        metric: name of the metric that the effect is about.
        number: number of the treatment.
        alpha: intervals have level 1 − alpha; in (0, 1).

    Returns:
        The test, and the effects. "As long as possible" is the length of the longest finished session of the log.
    """
    each = users.each.where(np.isin(users.each.arm_of, (0, number)))
    if each.is_finished.all():
        return Unfinished(p_value=float("nan"))
    everyone, cut_off = sums_of_users(each), each.where(~each.is_finished)
    place = np.searchsorted(everyone["user_ids"], cut_off.user_ids)
    num_cut_off = np.bincount(place, minlength=len(everyone["user_ids"])).astype(np.float64)
    control, treatment = (
        GroupSummary.of_ratio(num_cut_off[own], everyone["sessions"][own].astype(np.float64))
        for own in (everyone["arm_of"] == 0, everyone["arm_of"] == number)
    )
    kept, *extremes = (  # of latency and fallbacks, either arm can give the lower effect
        _difference(users, sessions, metric, number, alpha)
        for sessions in (each, each.extended(0), each.extended(number))
    )
    low, high = sorted(extremes, key=lambda one: one.effect_percent)
    return Unfinished(
        p_value=welch(control, treatment, alpha).p_value,
        kept=kept,
        lower_percent=low.lower_percent,
        upper_percent=high.upper_percent,
    )


def _difference(users: Users, sessions: Sessions, metric: str, number: int, alpha: float) -> PercentDifference:
    changed = users.of(sessions)
    values = metric_values(changed, metric)
    control, treatment = (GroupSummary.of(values[changed.arm_of == arm]) for arm in (0, number))
    return difference(metric, control, treatment, alpha)
