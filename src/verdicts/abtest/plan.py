"""The plan of an A/B test: how many users and days it needs, from a log of the past."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from segue.errors import InputError
from segue.reports.numbers import number, words
from segue.reports.result_table import Table
from segue.settings import Setting, settings
from segue.statistics.design import minimal_detectable_effect
from segue.statistics.intervals import GroupSummary
from segue.verdicts.abtest.metrics import IN_POINTS, Values, metric_values
from segue.verdicts.abtest.settings import POWER, AnalysisSettings
from segue.verdicts.abtest.slices import DAY_MS
from segue.verdicts.abtest.users import Users

LONGEST_DAYS = 365
"""Longer tests are not planned."""

EFFECTS = (1, 2, 5, 10, 20)
"""Effects, in percent, that every plan has beside the one that is asked for."""

_HINT = "5 plans a test that detects an effect of 5 %"


@dataclass(frozen=True)
class Need:
    """What a test needs to detect an effect.

    Args:
        effect_percent: the effect, in percent of the control mean.
        users: number of users in all arms together.
        days: number of days; None if the log does not say when there are so many users, or after more than a year.
    """

    effect_percent: float
    users: int
    days: int | None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The plan of a test.

    Args:
        metric: name of the primary metric.
        effect_percent: the effect that is asked for.
        alpha: of the test.
        shares: planned share of each arm, the control first.
        users_by_day: number of users in the log until the end of each of its days.
        new_users_a_day: new users on a day after the log; NaN for a log of one day.
        needs: users and days for several effects, ascending, the one that is asked for among them.
    """

    metric: str
    effect_percent: float
    alpha: float
    shares: list[float]
    users_by_day: list[int]
    new_users_a_day: float
    needs: list[Need]


@settings()
def make_plan(
    past: Users,
    settings: AnalysisSettings,
    *,
    plan: Annotated[
        float, Setting("effect in percent that a planned test must detect", above=0, most=1000, hint=_HINT)
    ],
) -> Plan:
    """Plan a test on the traffic of a log of the past.

    The spread of the user means falls with the days, because each user has more sessions; the number of users grows.
    Within the log both are counted. After it, the users grow as in the second half of the log, and the variance v(d)
    after d days is a + b/d, fitted to the days of the log.

    Args:
        past: what users did, whatever their arm.
        settings: primary metric, alpha and split; two arms of equal shares if there is no split.

    Raises:
        InputError: the effect is out of range, or the log has too few users or no values.
    """
    if settings.primary in IN_POINTS:
        raise InputError(f"analysis.primary={settings.primary}: a plan needs a metric whose mean is not near 0")
    num_arms = len(settings.split or (1, 1))
    shares = settings.shares(["C", *(f"T{number}" for number in range(1, num_arms))])
    log_days = max(1, int((past.last_ms - past.first_ms + 1) // DAY_MS))
    values = [_values(past, settings.primary, day) for day in range(1, log_days + 1)]
    users = np.array([len(one) for one in values])
    variances = np.array([one.var(ddof=1) if len(one) > 1 else 0.0 for one in values])
    mean = float(values[-1].mean()) if users[-1] else 0.0
    if users[-1] < 4 or not mean * variances[-1] > 0:
        raise InputError(
            f"the log has {users[-1]} users with a completed session, or {settings.primary} is the same for all of "
            "them; a plan needs a log of the past with users who differ"
        )
    growth, slope = np.nan, 0.0
    if log_days > 1:
        middle = (log_days - 1) // 2
        growth = float(users[-1] - users[middle]) / (log_days - 1 - middle)
        slope = max(np.polyfit(1 / np.arange(1, log_days + 1), variances, 1)[0], 0.0)
    later = np.arange(log_days + 1, LONGEST_DAYS + 1)
    of_later = np.maximum(variances[-1] - slope * (1 / log_days - 1 / later), 0.1 * variances[-1])
    expected_users = np.append(users, users[-1] + growth * (later - log_days))[:LONGEST_DAYS]
    expected_variances = np.append(variances, of_later)[:LONGEST_DAYS]
    # with arms of their shares, the detectable effect falls with the root of the number of users
    one, other = (GroupSummary(num=1, mean=mean, variance=1 / float(share)) for share in (shares[0], shares[1:].min()))
    detectable = minimal_detectable_effect(one, other, settings.alpha / (num_arms - 1), POWER)
    needs = []
    for effect in sorted({plan, *map(float, EFFECTS)}):
        needed = expected_variances * (detectable / effect) ** 2
        enough = np.flatnonzero(expected_users >= needed)  # NaN, of a log of one day, is not enough
        days = int(enough[0]) + 1 if len(enough) else None
        needs.append(Need(effect, int(np.ceil(needed[(days or log_days) - 1])), days))
    return Plan(
        metric=settings.primary,
        effect_percent=plan,
        alpha=settings.alpha,
        shares=shares.tolist(),
        users_by_day=users.tolist(),
        new_users_a_day=growth,
        needs=needs,
    )


def _values(past: Users, metric: str, days: int) -> Values:
    """The values of the users in the first days of a log."""
    sessions = past.counted
    return metric_values(past.of(sessions.where(sessions.started_ms < past.first_ms + days * DAY_MS)), metric)


def plan_table(plan: Plan) -> Table:
    """How many users and days each effect needs, and what the plan assumes."""
    metric, users, growth = words(plan.metric), plan.users_by_day, plan.new_users_a_day
    [asked] = [one for one in plan.needs if one.effect_percent == plan.effect_percent]
    return Table(
        title=f"Plan for {metric}",
        columns=["effect in %", "users in all arms", "days"],
        rows=[[f"{one.effect_percent:g}", f"{one.users:,}", str(one.days or "–")] for one in plan.needs],
        align="rrr",
        notes=[
            f"To detect an effect of {asked.effect_percent:g} % on {metric} with probability {POWER:g} (alpha "
            f"{plan.alpha:g}), the test needs {asked.users:,} users in {len(plan.shares)} arms: {_days(plan, asked)}.",
            f"The log covers {len(users)} days: {users[0]:,} users on the first day, {users[-1]:,} until the end; then "
            f"{number(growth, ',.0f')} new users a day.",
            f"Shares of the arms: {', '.join(f'{share:.1%}' for share in plan.shares)}. If weekdays differ, the test "
            "must run for whole weeks.",
        ],
    )


def _days(plan: Plan, need: Need) -> str:
    log_days = len(plan.users_by_day)
    if need.days is None:
        return "the log covers one day" if log_days == 1 else f"{LONGEST_DAYS} days of the log's traffic are not enough"
    beyond = f", extrapolated from a log of {log_days} days" if need.days > log_days else ""
    return f"{need.days} days with the traffic of the log{beyond}"
