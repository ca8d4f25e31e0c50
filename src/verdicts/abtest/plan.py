"""The plan of an A/B test: how many users and days it needs, from a log of the past. D days."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from jaxtyping import Float64

from segue.errors import InputError
from segue.reports.markdown import bullets
from segue.reports.numbers import words
from segue.reports.result_table import Table
from segue.reports.writing import write_report
from segue.settings import Setting, settings
from segue.statistics.design import minimal_detectable_effect
from segue.statistics.intervals import GroupSummary
from segue.verdicts.abtest.metrics import IN_POINTS, metric_values
from segue.verdicts.abtest.settings import AnalysisSettings
from segue.verdicts.abtest.slices import DAY_MS
from segue.verdicts.abtest.users import Users

LONGEST_DAYS = 365
"""Longer tests are not planned."""

EFFECTS = (1, 2, 5, 10, 20)
"""Effects, in percent, that every plan has beside the one that is asked for."""

_Days = Float64[np.ndarray, "D"]
_HINT = "5 plans a test that detects an effect of 5 %"


@dataclass(frozen=True)
class Need:
    """What a test needs to detect an effect.

    Args:
        effect_percent: the effect, in percent of the control mean.
        users: number of users in all arms together.
        days: number of days; None if the log does not say when there are so many users, or after more than a year.
        is_extrapolated: whether the test is longer than the log.
    """

    effect_percent: float
    users: int
    days: int | None
    is_extrapolated: bool


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The plan of a test.

    Args:
        metric: name of the primary metric.
        effect_percent: the effect that is asked for.
        alpha: of the test.
        power: probability of detecting the effect.
        shares: planned share of each arm, the control first.
        log_days: number of whole days of the log, at least 1.
        users_by_day: number of users in the log until the end of each of its days.
        new_users_a_day: new users on a day after the log; NaN for a log of one day.
        needs: users and days for several effects, ascending, the one that is asked for among them.
    """

    metric: str
    effect_percent: float
    alpha: float
    power: float
    shares: list[float]
    log_days: int
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
        settings: primary metric, alpha, power and split; two arms of equal shares if there is no split.

    Raises:
        InputError: the effect is out of range, or the log has too few users or no values.
    """
    if settings.primary in IN_POINTS:
        raise InputError(f"analysis.primary={settings.primary}: a plan needs a metric whose mean is not near 0")
    num_arms = len(settings.split or (1, 1))
    shares = settings.shares(["C", *(f"T{number}" for number in range(1, num_arms))])
    log_days = max(1, int((past.last_ms - past.first_ms + 1) // DAY_MS))
    mean, variances, users = _by_day(past, settings.primary, log_days)
    if users[-1] < 4 or not mean * variances[-1] > 0:
        raise InputError(
            f"the log has {int(users[-1])} users with a completed session, or {settings.primary} is the same for all "
            "of them; a plan needs a log of the past with users who differ"
        )
    middle = (log_days - 1) // 2
    growth = float(users[-1] - users[middle]) / (log_days - 1 - middle) if log_days > 1 else np.nan
    later = np.arange(log_days + 1, LONGEST_DAYS + 1)
    # the variance is a line over 1 / days
    slope = max(np.polyfit(1 / np.arange(1, log_days + 1), variances, 1)[0], 0.0) if log_days > 1 else 0.0
    of_later = np.maximum(variances[-1] - slope * (1 / log_days - 1 / later), 0.1 * variances[-1])
    expected_users = np.append(users, users[-1] + growth * (later - log_days))[:LONGEST_DAYS]
    expected_variance = np.append(variances, of_later)[:LONGEST_DAYS]
    # with arms of their shares, the detectable effect falls with the root of the number of users
    one, other = (GroupSummary(num=1, mean=mean, variance=1 / float(share)) for share in (shares[0], shares[1:].min()))
    detectable = minimal_detectable_effect(one, other, settings.alpha / (num_arms - 1), settings.power)
    needs = []
    for effect in sorted({plan, *map(float, EFFECTS)}):
        needed = expected_variance * (detectable / effect) ** 2
        enough = np.flatnonzero(expected_users >= needed)  # NaN, of a log of one day, is not enough
        days = int(enough[0]) + 1 if len(enough) else None
        num_users = int(np.ceil(needed[(days or log_days) - 1]))
        needs.append(Need(effect, num_users, days, is_extrapolated=days is None or days > log_days))
    return Plan(
        metric=settings.primary,
        effect_percent=plan,
        alpha=settings.alpha,
        power=settings.power,
        shares=shares.tolist(),
        log_days=log_days,
        users_by_day=users.astype(int).tolist(),
        new_users_a_day=growth,
        needs=needs,
    )


def _by_day(past: Users, metric: str, log_days: int) -> tuple[float, _Days, _Days]:
    """Mean of the user values, their variance until the end of each day, and the number of users until then."""
    sessions, variances, users, mean = past.counted, np.zeros(log_days), np.zeros(log_days), 0.0
    for day in range(log_days):
        until = sessions.where(sessions.started_ms < past.first_ms + (day + 1) * DAY_MS)
        values = metric_values(past.of(until), metric)
        users[day] = len(values)
        if len(values) > 1:
            variances[day], mean = values.var(ddof=1), float(values.mean())
    return mean, variances, users


def sentence(plan: Plan) -> str:
    """What the test needs, in one sentence."""
    need = next(one for one in plan.needs if one.effect_percent == plan.effect_percent)
    head = (
        f"To detect an effect of {need.effect_percent:g} % on {words(plan.metric)} with probability {plan.power:g} "
        f"(alpha {plan.alpha:g}), the test needs {need.users:,} users in {len(plan.shares)} arms"
    )
    if need.days is None and plan.log_days == 1:
        return f"{head}; the log covers one day, therefore it does not say how many users more days bring."
    if need.days is None:
        return f"{head}; with the traffic of the log, {LONGEST_DAYS} days are not enough."
    beyond = f", extrapolated from a log of {plan.log_days} days" if need.is_extrapolated else ""
    return f"{head}: {need.days} day{'s' * (need.days != 1)} with the traffic of the log{beyond}."


def plan_table(plan: Plan) -> Table:
    """How many users and days each effect needs."""
    rows = [[f"{one.effect_percent:g}", f"{one.users:,}", str(one.days or "–")] for one in plan.needs]
    columns = ["effect in %", "users in all arms", "days"]
    return Table(title=f"Plan for {words(plan.metric)}", columns=columns, rows=rows, align="rrr")


def write_plan(plan: Plan, folder: Path, provenance: dict[str, str]) -> None:
    """Write `plan.md` and `plan.json`.

    Args:
        plan: the plan.
        folder: where the files go; created if missing.
        provenance: command, commit and versions, by name.
    """
    blocks = ["# Plan of an A/B test", sentence(plan), plan_table(plan).markdown(), bullets(explain(plan))]
    write_report(folder, "plan", asdict(plan), provenance, blocks=blocks)


def explain(plan: Plan) -> list[str]:
    """What the plan assumes, a line each."""
    traffic = f"{plan.users_by_day[0]:,} users on the first day, {plan.users_by_day[-1]:,} until the end"
    growth = "" if np.isnan(plan.new_users_a_day) else f"; {plan.new_users_a_day:,.0f} new users a day after it"
    return [
        f"The log covers {plan.log_days} day{'s' * (plan.log_days != 1)}: {traffic}{growth}.",
        f"Shares of the arms: {', '.join(f'{share:.1%}' for share in plan.shares)}.",
        "–: the log does not say when there are so many users, or it takes more than a year.",
        "The test must run for whole weeks if weekdays differ.",
    ]
