"""The effect in parts of the log (by day, in first and later sessions), and with unfinished sessions.

Long sessions are cut off more often than short ones. Without them, the arm with the longer sessions therefore looks
worse than it is.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool

from segue.statistics.holm import holm, holm_alphas
from segue.statistics.intervals import GroupSummary, mean_test, welch
from segue.verdicts.abtest.metrics import Comparison, Pair, difference, samples, summary
from segue.verdicts.abtest.users import Users

DAY_MS = 86_400_000

LEAST_USERS = 30
"""A part with fewer users in an arm is left out."""


def slices(users: Users, metric: str, alpha: float) -> list[Comparison]:
    """The effects on each day, and in the first session of each user and in later ones.

    Args:
        users: the users of the experiment.
        metric: name of the primary metric.
        alpha: of the days, and of the sessions; the tests of each are a family of their own.

    Returns:
        A row for each part and treatment with at least LEAST_USERS users in both arms; none where only one part has
        them. The p-value has Holm's correction, and the interval agrees with it.
    """
    sessions = users.counted
    day, is_first = (sessions.started_ms - users.first_ms) // DAY_MS, sessions.is_first
    days = {f"day {one + 1}": day == one for one in np.unique(day).tolist()}  # a wrong clock gives days far away
    found = []
    for parts in (days, {"first session of a user": is_first, "later sessions": ~is_first}):
        rows = _compare(users, metric, alpha, parts)
        found += rows if len({row.part for row in rows}) > 1 else []  # one part alone is no split
    return found


def _compare(users: Users, metric: str, alpha: float, parts: dict[str, Bool[np.ndarray, "S"]]) -> list[Comparison]:
    pairs: dict[tuple[str, str], Pair] = {}
    for part, mask in parts.items():
        own = users.of(users.counted.where(mask))
        counts = np.bincount(own.arm_of, minlength=len(users.arms))
        for number, arm in enumerate(users.arms[1:], start=1):
            if min(counts[0], counts[number]) >= LEAST_USERS:
                pairs[arm, part] = samples(own, metric, number)
    p_values = [mean_test(*pair) for pair in pairs.values()]
    found = []
    tests = zip(pairs.items(), holm(p_values), holm_alphas(p_values, alpha), strict=True)
    for ((arm, part), pair), p_value, level in tests:
        effect = replace(difference(metric, *pair, level), p_value=p_value)
        found.append(Comparison(treatment=arm, metric=metric, part=part, **summary(pair), **vars(effect)))
    return found


@dataclass(frozen=True)
class Unfinished:
    """Unfinished sessions of one treatment, compared with the control.

    Args:
        p_value: of the test that the arms have the same share of unfinished sessions; NaN if none has any.
        lower_percent: lower bound of the effect if those of one arm had become as long as possible: of a metric that
            grows with the session, those of the control.
        upper_percent: upper bound of the effect if those of the other arm had.
    """

    p_value: float
    lower_percent: float = np.nan
    upper_percent: float = np.nan


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
        The test, and the bounds. "As long as possible" is the length of the longest finished session of the log.
    """
    each = users.each.where(np.isin(users.each.arm_of, (0, number)))
    if each.is_finished.all():
        return Unfinished(p_value=np.nan)
    everyone = users.of(each)
    place = np.searchsorted(everyone.user_keys, each.user_keys[~each.is_finished])
    num_cut_off = np.bincount(place, minlength=len(everyone)).astype(np.float64)
    shares = [
        GroupSummary.of_ratio(num_cut_off[own], everyone.sessions[own].astype(np.float64))
        for own in (everyone.arm_of == 0, everyone.arm_of == number)
    ]
    extremes = [
        difference(metric, *samples(users.of(each.extended(arm)), metric, number), alpha) for arm in (0, number)
    ]
    low, high = sorted(extremes, key=lambda one: one.effect_percent)  # of latency, either arm can give the lower one
    return Unfinished(welch(shares[0], shares[1], alpha).p_value, low.lower_percent, high.upper_percent)
