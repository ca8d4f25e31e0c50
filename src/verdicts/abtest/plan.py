"""The plan of an A/B test: how many users and days it needs, from a log of the past. D days."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from segue.errors import InputError, check_number
from segue.reports.markdown import bullets
from segue.reports.numbers import words
from segue.reports.result_table import Table
from segue.reports.writing import write_report
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


@dataclass(frozen=True, kw_only=True)
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


def make_plan(past: Users, settings: AnalysisSettings, effect_percent: Any) -> Plan:
    """Plan a test on the traffic of a log of the past.

    The spread of the user means falls with the days, because each user has more sessions; the number of users grows.
    Within the log both are counted. After it, the users grow as in the second half of the log, and the variance v(d)
    after d days is a + b/d, fitted to the days of the log.

    Args:
        past: what users did, whatever their arm.
        settings: primary metric, alpha, power and split; two arms of equal shares if there is no split.
        effect_percent: the effect that the test must detect.

    Returns:
        The plan.

    Raises:
        InputError: the effect is out of range, or the log has too few users or no values.
    """
    check_number("effect", effect_percent, above=0, most=1000, hint="5 plans a test that detects an effect of 5 %")
    if settings.primary in IN_POINTS:
        raise InputError(f"analysis.primary={settings.primary}: a plan needs a metric whose mean is not near 0")
    num_arms = len(settings.split) if settings.split else 2
    shares = settings.shares(["C", *(f"T{number}" for number in range(1, num_arms))])
    log_days = max(1, int((past.last_ms - past.first_ms + 1) // DAY_MS))
    means, variances, users = _by_day(past, settings.primary, log_days)
    if users[-1] < 4 or not means[-1] * variances[-1] > 0:
        raise InputError(
            f"the log has {int(users[-1])} users with a completed session, or {settings.primary} is the same for all "
            "of them; a plan needs a log of the past with users who differ"
        )
    growth = _growth(users)
    days = np.arange(1, LONGEST_DAYS + 1)
    expected_users = np.append(users, users[-1] + growth * (days[log_days:] - log_days))[:LONGEST_DAYS]
    expected_variance = np.append(variances, _variance(variances, days[log_days:]))[:LONGEST_DAYS]
    alpha = float(settings.alpha) / (num_arms - 1)

    def users_needed(variance: float, effect: float) -> float:
        """With arms of their shares, the detectable effect falls with the root of the number of users."""
        control, treatment = (
            GroupSummary(num=1, mean=float(means[-1]), variance=variance / share)
            for share in (shares[0], shares[1:].min())
        )
        return (minimal_detectable_effect(control, treatment, alpha, float(settings.power)) / effect) ** 2

    needs = []
    for effect in sorted({float(effect_percent), *map(float, EFFECTS)}):
        needed = np.array([users_needed(float(variance), effect) for variance in expected_variance])
        enough = np.flatnonzero(expected_users >= needed)  # NaN, of a log of one day, is not enough
        first = int(enough[0]) if len(enough) else None
        needs.append(
            Need(
                effect_percent=effect,
                users=int(np.ceil(needed[log_days - 1 if first is None else first])),
                days=None if first is None else first + 1,
                is_extrapolated=first is None or first >= log_days,
            )
        )
    return Plan(
        metric=settings.primary,
        effect_percent=float(effect_percent),
        alpha=float(settings.alpha),
        power=float(settings.power),
        shares=shares.tolist(),
        log_days=log_days,
        users_by_day=users.astype(int).tolist(),
        new_users_a_day=growth,
        needs=needs,
    )


def _by_day(
    past: Users, metric: str, log_days: int
) -> tuple[Float64[np.ndarray, "D"], Float64[np.ndarray, "D"], Float64[np.ndarray, "D"]]:
    """Mean and variance of the user values, and number of users, until the end of each day."""
    sessions = past.counted
    numbers = []
    for day in range(1, log_days + 1):
        values = metric_values(past.of(sessions.where(sessions.started_ms < past.first_ms + day * DAY_MS)), metric)
        spread = float(values.var(ddof=1)) if len(values) > 1 else 0.0
        numbers.append((float(values.mean()) if len(values) else 0.0, spread, float(len(values))))
    means, variances, users = np.array(numbers).T
    return means, variances, users


def _growth(users: Float64[np.ndarray, "D"]) -> float:
    """New users a day in the second half of the log; NaN for a log of one day."""
    if len(users) < 2:
        return float("nan")
    middle = (len(users) - 1) // 2
    return float(users[-1] - users[middle]) / (len(users) - 1 - middle)


def _variance(variances: Float64[np.ndarray, "D"], days: Any) -> Any:
    """Variance of the user values after more days than the log has."""
    if len(variances) < 2:
        return np.full(len(days), variances[-1])
    slope, _ = np.polyfit(1 / np.arange(1, len(variances) + 1), variances, 1)
    last = 1 / len(variances)
    return np.maximum(variances[-1] - max(slope, 0.0) * (last - 1 / days), 0.1 * variances[-1])


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
    rows = [
        [f"{one.effect_percent:g}", f"{one.users:,}", "–" if one.days is None else f"{one.days}"] for one in plan.needs
    ]
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
    days = f"{plan.log_days} day{'s' * (plan.log_days != 1)}"
    return [
        f"The log covers {days}: {traffic}{growth}.",
        f"Shares of the arms: {', '.join(f'{share:.1%}' for share in plan.shares)}.",
        "–: the log does not say when there are so many users, or it takes more than a year.",
        "The test must run for whole weeks if weekdays differ.",
    ]
