"""The A/B analysis: every treatment is compared with the control, metric by metric.

The unit is the user: every metric gives one value for each, and only users are compared. The intervals and tests are
in `src/statistics`, the wording of the verdict in `verdict.py`. U users of an arm.
"""

from dataclasses import asdict, replace

import numpy as np

from src.abtest.log import Users
from src.abtest.metrics import METRICS, Values, metric_values
from src.abtest.result import Analysis, Effect
from src.abtest.settings import AnalysisSettings
from src.abtest.verdict import verdict
from src.errors import InputError
from src.statistics.cuped import cuped
from src.statistics.design import minimal_detectable_effect, sample_ratio
from src.statistics.holm import holm
from src.statistics.intervals import GroupSummary, always_valid, bootstrap, fieller, welch

SMALL_EFFECTS = (1, 3, 5)
"""Percent, for which the number of users needed is reported."""


def analyse(users: Users, settings: AnalysisSettings, earlier: Users | None = None) -> Analysis:
    """Compare every treatment with the control.

    Args:
        users: what each user did; the first arm is the control.
        settings: what is computed.
        earlier: the same of a period before the experiment, whose arms do not matter.

    Raises:
        InputError: an arm has a single user, or `split` does not fit the arms.
    """
    counts = np.bincount(users.arm_of, minlength=len(users.arms))
    for arm, count in zip(users.arms, counts.tolist(), strict=True):
        if count < 2:
            raise InputError(
                f"arm {arm} of experiment {users.experiment} has {count} user{'s' * (count != 1)}; "
                "a comparison needs at least two an arm"
            )
    planned = settings.shares(users.arms)
    if earlier is not None:
        _check_earlier(users, earlier)
    rng = np.random.default_rng(settings.seed)
    effects = []
    for metric in METRICS:
        values = metric_values(users, metric)
        before = None if earlier is None else _of_earlier(users, earlier, metric)
        for number, treatment in enumerate(users.arms[1:], start=1):
            effects.append(_compare(users, settings, metric, values, before, number, treatment, rng))
    if settings.correction:
        corrected = holm([effect.p_value for effect in effects])
        effects = [
            replace(effect, holm_p_value=p_value, holm_significant=bool(p_value < settings.alpha))
            for effect, p_value in zip(effects, corrected, strict=True)
        ]
    analysis = Analysis(
        users=users,
        settings=settings,
        effects=effects,
        sample_ratio_p_value=sample_ratio(counts, planned),
        verdicts={},
    )
    return replace(analysis, verdicts={arm: verdict(analysis, arm) for arm in users.arms[1:]})


def _check_earlier(users: Users, earlier: Users) -> None:
    if not len(earlier):
        raise InputError("pre has no session that ended; give the logs of a period before the experiment")
    if earlier.last_ms >= users.first_ms:
        raise InputError(
            f"pre overlaps the experiment: its last event is at {earlier.last_ms} ms, the experiment's first at "
            f"{users.first_ms} ms; give logs of the time before, or the effect itself is taken off"
        )
    if not np.isin(users.user_ids, earlier.user_ids).any():
        raise InputError("pre has none of the experiment's users; give logs of the same users from before")


def _of_earlier(users: Users, earlier: Users, metric: str) -> Values:
    """Each user's value in the earlier period, NaN for those who were not there."""
    place = np.searchsorted(earlier.user_ids, users.user_ids).clip(max=len(earlier) - 1)
    return np.where(earlier.user_ids[place] == users.user_ids, metric_values(earlier, metric)[place], np.nan)


def _compare(
    users: Users,
    settings: AnalysisSettings,
    metric: str,
    values: Values,
    before: Values | None,
    number: int,
    treatment: str,
    rng: np.random.Generator,
) -> Effect:
    one, other = values[users.arm_of == 0], values[users.arm_of == number]
    samples, alpha = (GroupSummary.of(one), GroupSummary.of(other)), float(settings.alpha)
    base = welch(*samples, alpha)
    effect = Effect(
        treatment=treatment,
        metric=metric,
        control_users=len(one),
        treatment_users=len(other),
        control_mean=samples[0].mean,
        treatment_mean=samples[1].mean,
        significant=bool(base.p_value < alpha),
        **asdict(base),
    )
    if settings.relative:
        lower, upper = fieller(*samples, alpha)
        effect = replace(effect, relative_lower_percent=lower, relative_upper_percent=upper)
    if settings.sizing:
        smallest = minimal_detectable_effect(*samples, alpha, float(settings.power))
        needed = {
            f"{wanted}": int(np.ceil((len(one) + len(other)) * (smallest / wanted) ** 2))
            for wanted in SMALL_EFFECTS
            if np.isfinite(smallest)
        }
        effect = replace(effect, minimal_detectable_percent=smallest, users_needed=needed)
    if settings.always_valid_percent is not None:
        lower, upper = always_valid(*samples, alpha, float(settings.always_valid_percent))
        effect = replace(effect, always_valid_lower_percent=lower, always_valid_upper_percent=upper)
    if settings.bootstrap_rounds and metric == settings.primary:
        lower, upper = bootstrap(one, other, alpha, settings.bootstrap_rounds, rng)
        effect = replace(effect, bootstrap_lower_percent=lower, bootstrap_upper_percent=upper)
    if before is not None:
        chosen = np.isin(users.arm_of, (0, number))
        reduced, saved = cuped(values[chosen], before[chosen], users.arm_of[chosen])
        arms = users.arm_of[chosen]
        after = welch(GroupSummary.of(reduced[arms == 0]), GroupSummary.of(reduced[arms == number]), alpha)
        effect = replace(
            effect,
            cuped_effect_percent=after.effect_percent,
            cuped_lower_percent=after.lower_percent,
            cuped_upper_percent=after.upper_percent,
            cuped_p_value=after.p_value,
            cuped_variance_saved_percent=saved,
        )
    return effect
