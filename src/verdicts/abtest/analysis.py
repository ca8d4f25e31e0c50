"""The A/B analysis compares every treatment with the control, metric by metric.

The unit is the user: each metric has one value per user. The intervals and tests are in `src/statistics`, the wording
of the verdict is in `verdict.py`.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from segue.errors import InputError
from segue.statistics.cuped import cuped
from segue.statistics.design import minimal_detectable_effect, sample_ratio
from segue.statistics.intervals import GroupSummary, PercentDifference, always_valid, bootstrap, fieller, welch
from segue.verdicts.abtest.families import Decision, decide, p_value_of
from segue.verdicts.abtest.methods import methods
from segue.verdicts.abtest.metrics import (
    IN_POINTS,
    LOWER_IS_BETTER,
    METRICS,
    Values,
    difference,
    is_better,
    metric_values,
    metrics_of,
    parts,
    unit_of,
)
from segue.verdicts.abtest.result import Analysis, Effect
from segue.verdicts.abtest.settings import AnalysisSettings
from segue.verdicts.abtest.slices import changes, slices
from segue.verdicts.abtest.unfinished import compare_unfinished, count_unfinished
from segue.verdicts.abtest.users import Users
from segue.verdicts.abtest.verdict import verdict

SMALL_EFFECTS = (1, 3, 5)
"""Effects, in percent, for which the number of users needed is reported."""


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
    counts = np.bincount(users.arm_of, minlength=len(users.arms))
    _check_arms(users, dict(zip(users.arms, counts.tolist(), strict=True)))
    planned = settings.shares(users.arms)
    if pre_period is not None:
        _check_pre_period(users, pre_period)
    treatments = list(enumerate(users.arms[1:], start=1))
    metrics = metrics_of(users)
    if settings.primary not in metrics:
        raise InputError(
            f"analysis.primary={settings.primary}: the log has no fallbacks; choose another metric, or write them "
            "with log.with_fallback=true of serve.py"
        )
    values = {metric: metric_values(users, metric) for metric in metrics}
    own = {arm: np.flatnonzero(users.arm_of == number) for number, arm in enumerate(users.arms)}
    groups = {(arm, metric): GroupSummary.of(values[metric][own[arm]]) for arm in users.arms for metric in metrics}
    decisions = decide(
        {
            (arm, metric): p_value_of(metric, groups[users.arms[0], metric], groups[arm, metric], settings)
            for metric in metrics
            for _, arm in treatments
        },
        settings,
    )
    rng = np.random.default_rng(settings.seed)
    effects = []
    for metric in metrics:
        pre_values = None if pre_period is None else _pre_period_values(users, pre_period, metric)
        for number, arm in treatments:
            samples, decision = (groups[users.arms[0], metric], groups[arm, metric]), decisions[arm, metric]
            effect = _compare(arm, metric, samples, decision, settings)
            if settings.bootstrap_rounds and metric == settings.primary and metric not in IN_POINTS:
                effect = _with_bootstrap(effect, users, values[metric], number, settings, rng)
            if METRICS[metric][1] and metric not in IN_POINTS:
                effect = _with_ratio(effect, users, number)
            if pre_values is not None and metric not in IN_POINTS:
                effect = _with_cuped(effect, users, values[metric], pre_values, number)
            effects.append(effect)
    analysis = Analysis(
        users=users,
        settings=settings,
        effects=effects,
        sample_ratio_p_value=sample_ratio(counts, planned),
        exposure_p_value=sample_ratio(users.exposed, planned),
        unfinished={
            arm: compare_unfinished(users, settings.primary, number, decisions[arm, settings.primary].alpha)
            for number, arm in treatments
        },
        slices=slices(users, settings.primary, float(settings.alpha), pre_period) if settings.slices else [],
        changes=changes(users, settings.primary, float(settings.alpha)) if settings.slices else {},
        verdicts={},
        methods={},
    )
    return replace(
        analysis,
        verdicts={arm: verdict(analysis, arm) for arm in users.arms[1:]},
        methods={arm: methods(analysis, arm) for arm in users.arms[1:]},
    )


def _check_arms(users: Users, counts: Mapping[str, int]) -> None:
    """Refuse an arm with fewer than two users."""
    for arm in (arm for arm, count in counts.items() if count < 2):
        num_cut_off = count_unfinished(users)[arm]
        finished = f" with a finished session ({num_cut_off:,} have no `last`; unfinished=keep counts them)"
        first = f", the first line of the arm is {users.first_lines[arm]}" if arm in users.first_lines else ""
        others = [other for other, count in counts.items() if count > 1]
        without = f"; arms=[{','.join(others)}] compares the others" if users.arms[0] in others[:-1] else ""
        raise InputError(
            f"arm {arm} of experiment {users.experiment} has {counts[arm]} user{'s' * (counts[arm] != 1)}"
            f"{finished * (num_cut_off > 0 and not users.keeps_unfinished)}{first}; a comparison needs at least two "
            f"users in each arm{without}"
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
    if not np.isin(users.user_ids, pre_period.user_ids).any():
        raise InputError("pre has no user of the experiment; give logs of the same users from before the experiment")


def _pre_period_values(users: Users, pre_period: Users, metric: str) -> Values:
    """Value of each user in the pre-period; NaN for users who are not in it."""
    place = np.searchsorted(pre_period.user_ids, users.user_ids).clip(max=len(pre_period) - 1)
    return np.where(pre_period.user_ids[place] == users.user_ids, metric_values(pre_period, metric)[place], np.nan)


def _compare(
    treatment: str,
    metric: str,
    samples: tuple[GroupSummary, GroupSummary],
    decision: Decision,
    settings: AnalysisSettings,
) -> Effect:
    unit = 1.0 if metric in IN_POINTS else None
    sheet = welch(*samples, float(settings.alpha), unit)
    relative = difference(metric, *samples, decision.alpha)
    effect = Effect(
        treatment=treatment,
        metric=metric,
        family=decision.family,
        margin=decision.margin,
        unit=unit_of(metric),
        decision=_word(metric, decision, samples, relative),
        control_users=samples[0].num,
        treatment_users=samples[1].num,
        control_mean=samples[0].mean,
        treatment_mean=samples[1].mean,
        significant=bool(sheet.p_value < settings.alpha),
        level=1 - decision.alpha,
        relative_lower_percent=relative.lower_percent,
        relative_upper_percent=relative.upper_percent,
        tested=decision.tested,
        holm_p_value=decision.holm_p_value,
        holm_significant=decision.significant if settings.correction else None,
        **vars(sheet),
    )
    if unit:
        return effect
    if settings.sizing:
        smallest = minimal_detectable_effect(*samples, float(settings.alpha), float(settings.power))
        needed = {
            f"{percent}": int(np.ceil((samples[0].num + samples[1].num) * (smallest / percent) ** 2))
            for percent in SMALL_EFFECTS
            if np.isfinite(smallest)
        }
        effect = replace(effect, minimal_detectable_percent=smallest, users_needed=needed)
    if settings.always_valid_percent is not None:
        lower, upper = always_valid(*samples, decision.alpha, float(settings.always_valid_percent))
        effect = replace(effect, always_valid_lower_percent=lower, always_valid_upper_percent=upper)
    return effect


def _word(
    metric: str, decision: Decision, samples: tuple[GroupSummary, GroupSummary], effect: PercentDifference
) -> str:
    sign = -1 if metric in LOWER_IS_BETTER else 1
    if np.isnan(effect.p_value):  # no value varies: a guardrail can still be far beyond its margin
        is_broken = decision.family == "guardrail" and sign * effect.effect_percent < -decision.margin
        return "broken" if is_broken else "no test"
    if decision.family == "guardrail":
        best = max(sign * effect.lower_percent, sign * effect.upper_percent)
        return "holds" if decision.significant else "broken" if best < -decision.margin else "not shown"
    if not decision.tested:
        return "not tested"
    if not decision.significant:
        return "not significant"
    return "better" if is_better(metric, samples[0].mean, samples[1].mean) else "worse"


def _with_bootstrap(
    effect: Effect, users: Users, values: Values, number: int, settings: AnalysisSettings, rng: np.random.Generator
) -> Effect:
    of_control, of_treatment = values[users.arm_of == 0], values[users.arm_of == number]
    lower, upper = bootstrap(of_control, of_treatment, 1 - effect.level, settings.bootstrap_rounds, rng)
    return replace(effect, bootstrap_lower_percent=lower, bootstrap_upper_percent=upper)


def _with_ratio(effect: Effect, users: Users, number: int) -> Effect:
    above, below = parts(users, effect.metric)
    control, treatment = (
        GroupSummary.of_ratio(above[users.arm_of == arm], below[users.arm_of == arm]) for arm in (0, number)
    )
    difference = fieller(control, treatment, 1 - effect.level)
    return replace(
        effect,
        ratio_effect_percent=difference.effect_percent,
        ratio_lower_percent=difference.lower_percent,
        ratio_upper_percent=difference.upper_percent,
        ratio_p_value=difference.p_value,
    )


def _with_cuped(effect: Effect, users: Users, values: Values, pre_values: Values, number: int) -> Effect:
    compared = np.isin(users.arm_of, (0, number))
    adjusted = cuped(values[compared], pre_values[compared], users.arm_of[compared] == number)
    difference = adjusted.difference(1 - effect.level)
    return replace(
        effect,
        cuped_effect_percent=difference.effect_percent,
        cuped_lower_percent=difference.lower_percent,
        cuped_upper_percent=difference.upper_percent,
        cuped_p_value=difference.p_value,
        cuped_variance_saved_percent=adjusted.saved_percent,
    )
