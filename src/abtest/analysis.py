"""The A/B analysis compares every treatment with the control, metric by metric.

The unit is the user: each metric has one value per user. The intervals and tests are in `src/statistics`, the wording
of the verdict is in `verdict.py`.
"""

from dataclasses import asdict, replace

import numpy as np

from src.abtest.methods import methods
from src.abtest.metrics import METRICS, Values, metric_values
from src.abtest.result import Analysis, Effect
from src.abtest.settings import AnalysisSettings
from src.abtest.unfinished import compare_unfinished
from src.abtest.users import Users
from src.abtest.verdict import verdict
from src.errors import InputError
from src.statistics.cuped import cuped
from src.statistics.design import minimal_detectable_effect, sample_ratio
from src.statistics.holm import holm
from src.statistics.intervals import GroupSummary, always_valid, bootstrap, fieller, welch

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
        InputError: an arm has fewer than two users, `split` does not fit the arms, or `pre_period` overlaps the
            experiment or has none of its users.
    """
    counts = np.bincount(users.arm_of, minlength=len(users.arms))
    for arm, count in zip(users.arms, counts.tolist(), strict=True):
        if count < 2:
            raise InputError(
                f"arm {arm} of experiment {users.experiment} has {count} user{'s' * (count != 1)}; "
                "a comparison needs at least two users in each arm"
            )
    planned = settings.shares(users.arms)
    if pre_period is not None:
        _check_pre_period(users, pre_period)
    rng = np.random.default_rng(settings.seed)
    effects = []
    for metric in METRICS:
        values = metric_values(users, metric)
        pre_values = None if pre_period is None else _pre_period_values(users, pre_period, metric)
        for number, treatment in enumerate(users.arms[1:], start=1):
            effects.append(_compare(users, settings, metric, values, pre_values, number, treatment, rng))
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
        exposure_p_value=sample_ratio(users.exposed, planned),
        unfinished={
            arm: compare_unfinished(users, settings.primary, number, float(settings.alpha))
            for number, arm in enumerate(users.arms[1:], start=1)
        },
        verdicts={},
        methods={},
    )
    return replace(
        analysis,
        verdicts={arm: verdict(analysis, arm) for arm in users.arms[1:]},
        methods={arm: methods(analysis, arm) for arm in users.arms[1:]},
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
    users: Users,
    settings: AnalysisSettings,
    metric: str,
    values: Values,
    pre_values: Values | None,
    number: int,
    treatment: str,
    rng: np.random.Generator,
) -> Effect:
    of_control, of_treatment = values[users.arm_of == 0], values[users.arm_of == number]
    samples, alpha = (GroupSummary.of(of_control), GroupSummary.of(of_treatment)), float(settings.alpha)
    base = welch(*samples, alpha)
    relative = fieller(*samples, alpha)
    effect = Effect(
        treatment=treatment,
        metric=metric,
        control_users=len(of_control),
        treatment_users=len(of_treatment),
        control_mean=samples[0].mean,
        treatment_mean=samples[1].mean,
        significant=bool(base.p_value < alpha),
        relative_lower_percent=relative.lower_percent,
        relative_upper_percent=relative.upper_percent,
        **asdict(base),
    )
    if settings.sizing:
        smallest = minimal_detectable_effect(*samples, alpha, float(settings.power))
        needed = {
            f"{percent}": int(np.ceil((len(of_control) + len(of_treatment)) * (smallest / percent) ** 2))
            for percent in SMALL_EFFECTS
            if np.isfinite(smallest)
        }
        effect = replace(effect, minimal_detectable_percent=smallest, users_needed=needed)
    if settings.always_valid_percent is not None:
        lower, upper = always_valid(*samples, alpha, float(settings.always_valid_percent))
        effect = replace(effect, always_valid_lower_percent=lower, always_valid_upper_percent=upper)
    if settings.bootstrap_rounds and metric == settings.primary:
        lower, upper = bootstrap(of_control, of_treatment, alpha, settings.bootstrap_rounds, rng)
        effect = replace(effect, bootstrap_lower_percent=lower, bootstrap_upper_percent=upper)
    if pre_values is not None:
        compared = np.isin(users.arm_of, (0, number))
        adjusted = cuped(values[compared], pre_values[compared], users.arm_of[compared] == number)
        difference = adjusted.difference(alpha)
        effect = replace(
            effect,
            cuped_effect_percent=difference.effect_percent,
            cuped_lower_percent=difference.lower_percent,
            cuped_upper_percent=difference.upper_percent,
            cuped_p_value=difference.p_value,
            cuped_variance_saved_percent=adjusted.saved_percent,
        )
    return effect
