"""The A/B analysis compares every treatment with the control, metric by metric.

The unit is the user: each metric has one value per user. The intervals and tests are in `src/statistics`, the wording
of the verdict is in `verdict.py`.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from segue.errors import InputError
from segue.statistics.cuped import cuped
from segue.statistics.design import minimal_detectable_effect, sample_ratio
from segue.statistics.intervals import GroupSummary, PercentDifference, always_valid, fieller, welch
from segue.verdicts.abtest.families import Decision, decide, p_value_of
from segue.verdicts.abtest.known_before import compare_known
from segue.verdicts.abtest.metrics import (
    IN_POINTS,
    LOWER_IS_BETTER,
    METRICS,
    Pair,
    difference,
    is_better,
    metric_values,
    metrics_of,
    parts,
    samples,
    summary,
    unit_of,
)
from segue.verdicts.abtest.result import Analysis, Effect
from segue.verdicts.abtest.settings import POWER, AnalysisSettings
from segue.verdicts.abtest.slices import compare_unfinished, count_unfinished, slices
from segue.verdicts.abtest.users import Users
from segue.verdicts.abtest.verdict import verdict


def analyse(users: Users, settings: AnalysisSettings, pre_period: Users | None = None) -> Analysis:
    """Compare every treatment with the control.

    Args:
        users: what each user did in the experiment; the first arm is the control.
        settings: what is computed.
        pre_period: what each user did before the experiment, for CUPED; the arms in it are ignored.

    Returns:
        One effect for each metric and treatment, and a verdict for each treatment.

    Raises:
        InputError: an arm has fewer than two users, `split` does not fit the arms, the log has no values of the primary
            metric, or `pre_period` overlaps the experiment or has none of its users.
    """
    counts, treatments = np.bincount(users.arm_of, minlength=len(users.arms)), users.arms[1:]
    _check_arms(users, counts.tolist())
    planned = settings.shares(users.arms)
    if pre_period is not None:
        _check_pre_period(users, pre_period)
    if settings.primary not in metrics_of(users):
        raise InputError(
            f"analysis.primary={settings.primary}: the log has no fallbacks; choose another metric, or write them "
            "with log.with_fallback=true of serve.py"
        )
    numbers = {arm: number for number, arm in enumerate(treatments, start=1)}
    tests = {(arm, name): samples(users, name, numbers[arm]) for name in metrics_of(users) for arm in treatments}
    decisions = decide({key: p_value_of(key[1], *pair, settings) for key, pair in tests.items()}, settings)
    effects = []
    for (arm, metric), pair in tests.items():
        decision = decisions[arm, metric]
        effect = _effect(arm, metric, pair, decision, settings)
        if metric not in IN_POINTS:
            smallest = minimal_detectable_effect(*pair, settings.alpha, POWER)
            more = _by_methods(users, metric, numbers[arm], pair, decision.alpha, pre_period)
            effect = replace(effect, minimal_detectable_percent=smallest, **more)
        effects.append(effect)
    levels = {arm: decisions[arm, settings.primary].alpha for arm in treatments}
    analysis = Analysis(
        users=users,
        settings=settings,
        effects=effects,
        sample_ratio_p_value=sample_ratio(counts, planned),
        exposure_p_value=sample_ratio(users.exposed, planned),
        unfinished={
            arm: compare_unfinished(users, settings.primary, numbers[arm], level) for arm, level in levels.items()
        },
        slices=slices(users, settings.primary, settings.alpha),
        discovery=compare_known(users.known, users.arms, settings.alpha),
    )
    return replace(analysis, verdicts={arm: verdict(analysis, arm) for arm in treatments})


def _check_arms(users: Users, counts: list[int]) -> None:
    for arm, count in zip(users.arms, counts, strict=True):
        if count < 2:
            others = ",".join(one for one in users.arms if one != arm)
            raise InputError(
                f"arm {arm} of experiment {users.experiment} has {count} users with a finished session, and a "
                f"comparison needs two; unfinished=keep counts its {count_unfinished(users)[arm]:,} sessions without a "
                f"`last`, arms=[{others}] leaves the arm out"
            )


def _check_pre_period(users: Users, pre_period: Users) -> None:
    if not len(pre_period):
        raise InputError("pre has no completed session; give logs of a period before the experiment")
    if pre_period.last_ms >= users.first_ms:
        raise InputError(
            f"pre overlaps the experiment: its last event is at {pre_period.last_ms} ms, the first event of the "
            f"experiment is at {users.first_ms} ms; give logs that end before the experiment, because CUPED would "
            "remove the effect itself"
        )
    if not np.isin(users.user_keys, pre_period.user_keys).any():
        raise InputError("pre has no user of the experiment; give logs of the same users from before the experiment")


def _effect(treatment: str, metric: str, pair: Pair, decision: Decision, settings: AnalysisSettings) -> Effect:
    margin = settings.guardrails[metric] or np.nan if decision.family == "guardrail" else np.nan
    sheet = welch(*pair, settings.alpha, 1.0 if metric in IN_POINTS else None)
    relative = difference(metric, *pair, decision.alpha)
    return Effect(
        treatment=treatment,
        metric=metric,
        family=decision.family,
        margin=margin,
        unit=unit_of(metric),
        decision=_word(metric, decision, margin, pair, relative),
        significant=bool(sheet.p_value < settings.alpha),
        level=1 - decision.alpha,
        holm_p_value=decision.holm_p_value,
        relative=relative,
        **summary(pair),
        **vars(sheet),
    )


def _word(
    metric: str,
    decision: Decision,
    margin: float,
    pair: Pair,
    effect: PercentDifference,
) -> str:
    sign = -1 if metric in LOWER_IS_BETTER else 1
    if np.isnan(effect.p_value):  # no value varies: a guardrail can still be far beyond its margin
        return "broken" if sign * effect.effect_percent < -margin else "no test"
    if decision.family == "guardrail":
        best = max(sign * effect.lower_percent, sign * effect.upper_percent)
        return "holds" if decision.significant else "broken" if best < -margin else "not shown"
    if np.isnan(decision.holm_p_value):
        return "not tested"
    if not decision.significant:
        return "not significant"
    return "better" if is_better(metric, *(group.mean for group in pair)) else "worse"


def _by_methods(
    users: Users,
    metric: str,
    number: int,
    pair: Pair,
    alpha: float,
    pre_period: Users | None,
) -> dict[str, Any]:
    """The fields of an effect that other methods give."""
    found: dict[str, Any] = {"always_valid": always_valid(*pair, alpha)}
    if METRICS[metric][1]:
        above, below = parts(users, metric)
        groups = (users.arm_of == 0, users.arm_of == number)
        control, treated = (GroupSummary.of_ratio(above[own], below[own]) for own in groups)
        found["ratio"] = fieller(control, treated, alpha)
    if pre_period is not None:
        own = np.isin(users.arm_of, (0, number))
        before = pre_period.look_up(users.user_keys[own], metric_values(pre_period, metric))
        effect, saved_percent = cuped(metric_values(users, metric)[own], before, users.arm_of[own] > 0, alpha)
        found |= {"cuped": effect, "cuped_variance_saved_percent": saved_percent}
    return found
