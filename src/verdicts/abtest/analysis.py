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
from segue.statistics.intervals import UNKNOWN, GroupSummary, PercentDifference, always_valid, bootstrap, fieller, welch
from segue.verdicts.abtest.families import Decision, decide, p_value_of
from segue.verdicts.abtest.known_before import compare_known
from segue.verdicts.abtest.metrics import (
    IN_POINTS,
    LOWER_IS_BETTER,
    METRICS,
    difference,
    is_better,
    metric_values,
    metrics_of,
    parts,
    unit_of,
)
from segue.verdicts.abtest.result import Analysis, Effect, Method
from segue.verdicts.abtest.settings import AnalysisSettings
from segue.verdicts.abtest.slices import changes, compare_unfinished, count_unfinished, slices
from segue.verdicts.abtest.users import Users
from segue.verdicts.abtest.verdict import verdict

SMALL_EFFECTS = (1, 3, 5)
"""Effects, in percent, for which the number of users needed is reported."""

_Groups = tuple[GroupSummary, GroupSummary]


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
    control, *treatments = users.arms
    counts = np.bincount(users.arm_of, minlength=len(users.arms))
    _check_arms(users, counts.tolist())
    planned = settings.shares(users.arms)
    if pre_period is not None:
        _check_pre_period(users, pre_period)
    metrics = metrics_of(users)
    if settings.primary not in metrics:
        raise InputError(
            f"analysis.primary={settings.primary}: the log has no fallbacks; choose another metric, or write them "
            "with log.with_fallback=true of serve.py"
        )
    values = {metric: metric_values(users, metric) for metric in metrics}
    own = {arm: np.flatnonzero(users.arm_of == number) for number, arm in enumerate(users.arms)}
    groups = {(arm, metric): GroupSummary.of(values[metric][own[arm]]) for arm in users.arms for metric in metrics}
    tests = {(arm, metric): (groups[control, metric], groups[arm, metric]) for metric in metrics for arm in treatments}
    decisions = decide({key: p_value_of(key[1], *pair, settings) for key, pair in tests.items()}, settings)
    rng = np.random.default_rng(settings.seed)
    effects = []
    for (arm, metric), pair in tests.items():
        effect = _effect(arm, metric, pair, decisions[arm, metric], settings)
        more: dict[str, Any] = {}
        if metric not in IN_POINTS:
            alpha, rows = 1 - effect.level, (own[control], own[arm])
            if settings.bootstrap_rounds and metric == settings.primary:
                one, other = (values[metric][row] for row in rows)
                more["bootstrap"] = bootstrap(one, other, alpha, settings.bootstrap_rounds, rng)
            if METRICS[metric][1]:
                above, below = parts(users, metric)
                ratios = [GroupSummary.of_ratio(above[row], below[row]) for row in rows]
                more["ratio"] = fieller(ratios[0], ratios[1], alpha)
            if pre_period is not None:
                before = pre_period.look_up(users.user_keys, metric_values(pre_period, metric))
                compared = np.isin(users.arm_of, (0, users.arms.index(arm)))
                adjusted = cuped(values[metric][compared], before[compared], users.arm_of[compared] > 0)
                more["cuped"] = adjusted.difference(alpha)
                more["cuped_variance_saved_percent"] = adjusted.saved_percent
        effects.append(replace(effect, **more))
    analysis = Analysis(
        users=users,
        settings=settings,
        effects=effects,
        sample_ratio_p_value=sample_ratio(counts, planned),
        exposure_p_value=sample_ratio(users.exposed, planned),
        unfinished={
            arm: compare_unfinished(users, settings.primary, number, decisions[arm, settings.primary].alpha)
            for number, arm in enumerate(treatments, start=1)
        },
        slices=slices(users, settings.primary, settings.alpha, pre_period) if settings.slices else [],
        discovery=compare_known(users.known, users.arms, settings.alpha),
        changes=changes(users, settings.primary, settings.alpha) if settings.slices else {},
    )
    return replace(
        analysis,
        verdicts={arm: verdict(analysis, arm) for arm in treatments},
        methods={arm: methods(analysis, arm) for arm in treatments},
    )


def _check_arms(users: Users, counts: list[int]) -> None:
    others = [arm for arm, count in zip(users.arms, counts, strict=True) if count > 1]
    for arm in (one for one in users.arms if one not in others):
        count = counts[users.arms.index(arm)]
        num_cut_off = count_unfinished(users)[arm]
        finished = f" with a finished session ({num_cut_off:,} have no `last`; unfinished=keep counts them)"
        without = f"; arms=[{','.join(others)}] compares the others" if users.arms[0] in others[:-1] else ""
        raise InputError(
            f"arm {arm} of experiment {users.experiment} has {count} user{'s' * (count != 1)}"
            f"{finished * (num_cut_off > 0 and not users.keeps_unfinished)}; a comparison needs at least two "
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
    if not np.isin(users.user_keys, pre_period.user_keys).any():
        raise InputError("pre has no user of the experiment; give logs of the same users from before the experiment")


def _effect(treatment: str, metric: str, groups: _Groups, decision: Decision, settings: AnalysisSettings) -> Effect:
    control, treated = groups
    sheet = welch(control, treated, settings.alpha, 1.0 if metric in IN_POINTS else None)
    relative = difference(metric, control, treated, decision.alpha)
    more: dict[str, Any] = {}
    if metric not in IN_POINTS:
        smallest = minimal_detectable_effect(control, treated, settings.alpha, settings.power)
        more["minimal_detectable_percent"] = smallest
        more["users_needed"] = {
            f"{percent}": int(np.ceil((control.num + treated.num) * (smallest / percent) ** 2))
            for percent in SMALL_EFFECTS
            if np.isfinite(smallest)
        }
        if settings.always_valid_percent is not None:
            more["always_valid"] = always_valid(control, treated, decision.alpha, settings.always_valid_percent)
    return Effect(
        treatment=treatment,
        metric=metric,
        unit=unit_of(metric),
        decision=_word(metric, decision, groups, relative),
        control_users=control.num,
        treatment_users=treated.num,
        control_mean=control.mean,
        treatment_mean=treated.mean,
        significant=bool(sheet.p_value < settings.alpha),
        level=1 - decision.alpha,
        holm_significant=decision.significant,
        relative=relative,
        **{name: getattr(decision, name) for name in ("family", "margin", "tested", "holm_p_value")},
        **vars(sheet),
        **more,
    )


def _word(metric: str, decision: Decision, groups: _Groups, effect: PercentDifference) -> str:
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
    return "better" if is_better(metric, *(group.mean for group in groups)) else "worse"


def methods(analysis: Analysis, treatment: str) -> list[Method]:
    """The effect on the primary metric by every method: the one of the verdict, and others to check it against.

    Args:
        analysis: the result; its `methods` are not read.
        treatment: name of the arm.

    Returns:
        A row for each method, the one of the verdict first; other methods that gave no number are left out. Each
        interval excludes 0 exactly if the p-value of its row is below alpha.
    """
    settings, unfinished = analysis.settings, analysis.unfinished[treatment]
    effect = analysis.effect(treatment, settings.primary)
    factor = settings.alpha / (1 - effect.level)  # p-values agree with the intervals, if there are several arms

    def corrected(one: PercentDifference) -> PercentDifference:
        return replace(one, p_value=float(np.minimum(factor * one.p_value, 1.0)))

    value, p_value = effect.effect_percent, effect.p_value if np.isnan(effect.holm_p_value) else effect.holm_p_value
    uncorrected = ", and it has no correction for several treatments" * (len(analysis.users.arms) > 2)
    first, *others = (
        (
            "mean of users",
            replace(effect.relative, effect_percent=value, p_value=p_value),
            "the verdict: the difference of the user means with Fieller's interval, which accounts for the "
            "uncertainty of the control mean",
        ),
        (
            "the sheet",
            PercentDifference(value, effect.lower_percent, effect.upper_percent, effect.p_value),
            "the interval of the sheet of 2023 (Welch), which treats the control mean as a constant: it is too "
            f"narrow if there is an effect{uncorrected}",
        ),
        (
            "ratio of sums",
            corrected(effect.ratio),
            "all time over all sessions, or the like (delta method): users with many sessions count more. It "
            "differs from the mean of users if these users react differently",
        ),
        (
            "CUPED",
            corrected(effect.cuped),
            "subtracts what each user's behaviour before the experiment predicts; it removes "
            f"{effect.cuped_variance_saved_percent:.0f} % of the variance",
        ),
        (
            "bootstrap",
            replace(effect.bootstrap, effect_percent=value),
            f"{settings.bootstrap_rounds:,} rounds over users; it makes no assumption about the distribution of the "
            "values",
        ),
        (
            "always valid",
            replace(effect.always_valid, effect_percent=value),
            "stays valid if the test is analysed repeatedly while it runs (mixture sequential test)",
        ),
        (
            "unfinished kept",
            corrected(unfinished.kept or UNKNOWN),
            "sessions without a `last` count with the length that they have in the log",
        ),
        (
            "unfinished, bounds",
            PercentDifference(lower_percent=unfinished.lower_percent, upper_percent=unfinished.upper_percent),
            "the same, if those of one arm had become as long as the longest session of the log: those of one arm "
            "for the lower bound (of time the control), those of the other for the upper bound",
        ),
    )
    shown = [first, *(row for row in others if np.isfinite(row[1].lower_percent))]
    return [Method(method=name, meaning=meaning, **vars(one)) for name, one, meaning in shown]
