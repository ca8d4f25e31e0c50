"""The effect in parts of the log (by day, in first and later sessions, by activity), and with unfinished sessions.

Long sessions are cut off more often than short ones. Without them, the arm with the longer sessions therefore looks
worse than it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64

from segue.statistics.change import change_of_effect
from segue.statistics.holm import holm, holm_alphas
from segue.statistics.intervals import GroupSummary, PercentDifference, mean_test, welch
from segue.verdicts.abtest.metrics import IN_POINTS, difference, metric_values, samples
from segue.verdicts.abtest.users import Sessions, Users, sums_of_users

DAY_MS = 86_400_000

LEAST_USERS = 30
"""A part with fewer users in an arm is left out."""

Mask = Bool[np.ndarray, "S"]
"""Whether each session of a log belongs to a slice."""


@dataclass(frozen=True, kw_only=True)
class Slice:
    """The effect in a part of the sessions.

    Args:
        treatment: name of the arm.
        split: what the log is split by: `day`, `session` or `activity`.
        part: name of the part.
        control_users: users of the control in this part.
        treatment_users: users of the treatment in this part.
        effect_percent: difference of the user means, in percent of the control mean.
        lower_percent: lower bound of Fieller's interval, at the level that Holm's correction gives the test.
        upper_percent: upper bound of the interval.
        holm_p_value: p-value with Holm's correction over the parts and arms of the split.
        significant: whether it is below alpha.
    """

    treatment: str
    split: str
    part: str
    control_users: int
    treatment_users: int
    effect_percent: float
    lower_percent: float
    upper_percent: float
    holm_p_value: float
    significant: bool


def slices(users: Users, metric: str, alpha: float, pre_period: Users | None) -> list[Slice]:
    """The effects in the parts of each split.

    Args:
        users: the users of the experiment.
        metric: name of the primary metric.
        alpha: of each split; its tests are a family of their own.
        pre_period: what each user did before the experiment; None if it is not known.

    Returns:
        A row for each split, part and treatment with at least LEAST_USERS users in both arms; none for a split with one
        such part.
    """
    sessions = users.counted
    day, is_first = _day_of(users, sessions), sessions.is_first
    splits: Mapping[str, Mapping[str, Mask]] = {
        "day": {str(one + 1): day == one for one in np.unique(day).tolist()},  # a wrong clock gives days far away
        "session": {"first of a user": is_first, "later": ~is_first},
        "activity": _activity(users, sessions, pre_period),
    }
    found = []
    for split, parts in splits.items():
        rows = _compare(users, metric, alpha, split, parts)
        found += rows if len({row.part for row in rows}) > 1 else []  # one part alone is no split
    return found


def changes(users: Users, metric: str, alpha: float) -> dict[str, PercentDifference]:
    """The effect in the second half of the days less that in the first half, in percentage points.

    Args:
        users: the users of the experiment.
        metric: name of the primary metric.
        alpha: intervals have level 1 − alpha.

    Returns:
        For each treatment; empty if the log has less than two days, a half has too few users, or the metric is in
        points.
    """
    sessions = users.counted
    day = _day_of(users, sessions)
    if not len(day) or day.max() < 1 or metric in IN_POINTS:
        return {}
    values = np.full((2, len(users)), np.nan)
    for half in (0, 1):
        own = users.of(sessions.where((day > day.max() / 2) == bool(half)))
        values[half, np.searchsorted(users.user_keys, own.user_keys)] = metric_values(own, metric)
    found = {}
    for number, arm in enumerate(users.arms[1:], start=1):
        compared = np.isin(users.arm_of, (0, number))
        halves, is_treated = values[:, compared], users.arm_of[compared] == number
        num_users = [int((~np.isnan(half) & group).sum()) for half in halves for group in (is_treated, ~is_treated)]
        if min(num_users) >= LEAST_USERS and all(np.nanmean(half[~is_treated]) for half in halves):
            found[arm] = change_of_effect(halves, is_treated, alpha)
    return found


def _day_of(users: Users, sessions: Sessions) -> Int64[np.ndarray, "S"]:
    """Day of each session, counted from the first event of the log."""
    return (sessions.started_ms - users.first_ms) // DAY_MS


def _activity(users: Users, sessions: Sessions, pre_period: Users | None) -> Mapping[str, Mask]:
    """Light and heavy users, by their sessions before the experiment; without these by those in the experiment.

    In the experiment the arm can change how many sessions a user has. If the arms differ in it, there is no such split.
    """
    counts, where = users.sessions, "in the experiment"
    if pre_period is not None:
        counts, where = np.nan_to_num(pre_period.look_up(users.user_keys, pre_period.sessions)), "before"
    elif any(mean_test(*samples(users, "sessions", number)) < 0.05 for number in range(1, len(users.arms))):
        return {}
    middle = int(np.median(counts[counts > 0]))
    of_session = counts[np.searchsorted(users.user_keys, sessions.user_keys)]
    return {
        f"no session {where}": of_session == 0,
        f"1 to {middle} sessions {where}": (of_session > 0) & (of_session <= middle),
        f"more than {middle} sessions {where}": of_session > middle,
    }


def _compare(users: Users, metric: str, alpha: float, split: str, parts: Mapping[str, Mask]) -> list[Slice]:
    groups: dict[tuple[str, str], tuple[GroupSummary, GroupSummary]] = {}
    for part, mask in parts.items():
        own = users.of(users.counted.where(mask))
        counts = np.bincount(own.arm_of, minlength=len(users.arms))
        groups |= {
            (arm, part): samples(own, metric, number)
            for number, arm in enumerate(users.arms[1:], start=1)
            if min(counts[0], counts[number]) >= LEAST_USERS
        }
    p_values = [mean_test(control, treatment) for control, treatment in groups.values()]
    corrected = zip(groups.items(), holm(p_values), holm_alphas(p_values, alpha), strict=True)
    return [
        Slice(
            treatment=arm,
            split=split,
            part=part,
            control_users=control.num,
            treatment_users=treatment.num,
            effect_percent=effect.effect_percent,
            lower_percent=effect.lower_percent,
            upper_percent=effect.upper_percent,
            holm_p_value=p_value,
            significant=p_value < alpha,
        )
        for ((arm, part), (control, treatment)), p_value, level in corrected
        for effect in (difference(metric, control, treatment, level),)
    ]


@dataclass(frozen=True)
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
    counts = np.bincount(users.each.arm_of[~users.each.is_finished], minlength=len(users.arms))
    return dict(zip(users.arms, counts.tolist(), strict=True))


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
    place = np.searchsorted(everyone["user_keys"], cut_off.user_keys)
    num_cut_off = np.bincount(place, minlength=len(everyone["user_keys"])).astype(np.float64)
    shares = [
        GroupSummary.of_ratio(num_cut_off[own], everyone["sessions"][own].astype(np.float64))
        for own in (everyone["arm_of"] == 0, everyone["arm_of"] == number)
    ]
    kept, *extremes = (  # of latency and fallbacks, either arm can give the lower effect
        difference(metric, *samples(users.of(sessions), metric, number), alpha)
        for sessions in (each, each.extended(0), each.extended(number))
    )
    low, high = sorted(extremes, key=lambda one: one.effect_percent)
    return Unfinished(welch(shares[0], shares[1], alpha).p_value, kept, low.lower_percent, high.upper_percent)
