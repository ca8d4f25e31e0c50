"""The verdict of an A/B test: which treatment is better, by how much, how sure, and can it be believed at all.

The unit is the user: every metric gives one value for each, and only users are compared. U users of an arm.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64
from scipy import stats

from src.abtest.log import Users
from src.errors import InputError, check_flag, check_number

METRICS = ("mean_time_per_session", "mean_tracks_per_session", "time", "sessions", "mean_request_latency")
LOWER_IS_BETTER = ("mean_request_latency",)
SRM_ALPHA = 0.001
"""Below this p-value the users do not split as planned, and the verdict is withheld."""

SMALL_EFFECTS = (1, 3, 5)
"""Percent, for which the number of users needed is told."""

Values = Float64[np.ndarray, "U"]


def metric_values(users: Users, metric: str) -> Values:
    """One value for each user, as the sheet defines it; latency in milliseconds."""
    values = {
        "mean_time_per_session": users.time / users.sessions,
        "mean_tracks_per_session": users.tracks / users.sessions,
        "time": users.time,
        "sessions": users.sessions,
        "mean_request_latency": users.latency_ms / users.tracks,
    }
    return np.asarray(values[metric], np.float64)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What a comparison of means needs of an arm: users, mean, and variance over users (ddof 1)."""

    num: int
    mean: float
    variance: float

    @classmethod
    def of(cls, values: Values) -> "Sample":
        """Of the values of an arm, at least two."""
        return cls(num=len(values), mean=float(values.mean()), variance=float(values.var(ddof=1)))

    @property
    def squared_error(self) -> float:
        """Variance of the mean."""
        return self.variance / self.num


def degrees_of_freedom(control: Sample, treatment: Sample) -> float:
    """Of Welch's t test. Source: Welch 1947, Satterthwaite 1946."""
    a, b = control.squared_error, treatment.squared_error
    below = a**2 / (control.num - 1) + b**2 / (treatment.num - 1)
    return (a + b) ** 2 / below if below > 0 else float("nan")


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An effect in percent of the control mean."""

    effect_percent: float
    lower_percent: float
    upper_percent: float
    p_value: float


def sheet(control: Sample, treatment: Sample, alpha: float) -> Interval:
    """The published sheet: Welch's interval of the difference, shown in percent of a control mean held for constant."""
    error = (control.squared_error + treatment.squared_error) ** 0.5
    df = degrees_of_freedom(control, treatment)
    difference = treatment.mean - control.mean
    reach = float(stats.t.ppf(1 - alpha / 2, df)) * error
    p_value = 2 * float(stats.t.sf(abs(difference) / error, df)) if error > 0 else float("nan")
    unit = 100 / control.mean if control.mean else float("nan")
    return Interval(
        effect_percent=difference * unit,
        lower_percent=(difference - reach) * unit,
        upper_percent=(difference + reach) * unit,
        p_value=p_value,
    )


def fieller(control: Sample, treatment: Sample, alpha: float) -> tuple[float, float]:
    """Interval of the relative effect in percent, for which the control mean is as uncertain as it is.

    All ratios r that the data do not reject: (m_t − r·m_c)² ≤ q²·(v_t + r²·v_c). NaN where the control mean could be 0,
    since no ratio can be ruled out then. Source: Fieller 1954.
    """
    q2 = float(stats.t.ppf(1 - alpha / 2, degrees_of_freedom(control, treatment))) ** 2
    a = control.mean**2 - q2 * control.squared_error
    b = treatment.mean * control.mean
    c = treatment.mean**2 - q2 * treatment.squared_error
    if not a > 0:
        return float("nan"), float("nan")
    root = max(b**2 - a * c, 0.0) ** 0.5
    return 100 * ((b - root) / a - 1), 100 * ((b + root) / a - 1)


def minimal_detectable_effect(control: Sample, treatment: Sample, alpha: float, power: float) -> float:
    """The effect, in percent of the control mean, that an experiment like this one finds with this power."""
    error = (control.squared_error + treatment.squared_error) ** 0.5
    reach = float(stats.norm.ppf(1 - alpha / 2) + stats.norm.ppf(power))
    return 100 * reach * error / abs(control.mean) if control.mean else float("nan")


def always_valid(control: Sample, treatment: Sample, alpha: float, expected_percent: float) -> tuple[float, float]:
    """An interval in percent that holds at every moment at once, for people who look before the end.

    The mixture sequential probability ratio test, mixed over effects N(0, τ²) with τ the effect that is expected.
    Source: Johari, Koomen, Pekelis, Walsh, Peeking at A/B Tests, KDD 2017, section 3.
    """
    error2 = control.squared_error + treatment.squared_error
    tau2 = (expected_percent / 100 * control.mean) ** 2
    if not (error2 > 0 and tau2 > 0):
        return float("nan"), float("nan")
    spread = error2 * (error2 + tau2) / tau2
    reach = (spread * (np.log((error2 + tau2) / error2) - 2 * np.log(alpha))) ** 0.5
    difference = treatment.mean - control.mean
    return 100 * float(difference - reach) / control.mean, 100 * float(difference + reach) / control.mean


def bootstrap(
    control: Values, treatment: Float64[np.ndarray, "V"], alpha: float, rounds: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Percentile interval of the relative effect in percent, users drawn anew with replacement."""
    means = []
    for values in (control, treatment):
        block = max(1, 2_000_000 // len(values))
        drawn = [
            values[rng.integers(len(values), size=(min(block, rounds - start), len(values)))].mean(1)
            for start in range(0, rounds, block)
        ]
        means.append(np.concatenate(drawn))
    with np.errstate(divide="ignore", invalid="ignore"):
        effects = 100 * (means[1] / means[0] - 1)
    lower, upper = np.quantile(effects, [alpha / 2, 1 - alpha / 2])
    return float(lower), float(upper)


def adjusted(values: Values, earlier: Values, arm_of: Int64[np.ndarray, "U"]) -> tuple[Values, float]:
    """CUPED: what an earlier period foretells of each user is taken off their value.

    `earlier` is NaN for users who were not there; they are given the mean of the others, which changes nothing.
    Returns the values and the share of the variance that is gone, in percent. The slope is pooled within arms, so that
    an effect does not leak into it. Source: Deng, Xu, Kohavi, Walker, WSDM 2013.
    """
    known = ~np.isnan(earlier)
    centred = np.where(known, earlier - (earlier[known].mean() if known.any() else 0.0), 0.0)
    own, before = values.astype(np.float64), centred.copy()
    for arm in np.unique(arm_of):
        own[arm_of == arm] -= own[arm_of == arm].mean()
        before[arm_of == arm] -= before[arm_of == arm].mean()
    spread = float(before @ before)
    slope = float(own @ before) / spread if spread > 0 else 0.0
    left = own - slope * before
    total = float(own @ own)
    return values - slope * centred, 100 * (1 - float(left @ left) / total) if total > 0 else 0.0


def sample_ratio(counts: Int64[np.ndarray, "A"], planned: Float64[np.ndarray, "A"]) -> float:
    """P-value of the chi-square test of users per arm against the planned shares."""
    return float(stats.chisquare(counts, counts.sum() * planned / planned.sum()).pvalue)


def holm(p_values: list[float]) -> list[float]:
    """Holm's step-down correction; what is NaN was no test and stays so. Source: Holm 1979.

    statsmodels has it too, and collects all garbage of the process at each call: 0.2 s, a hundred times the rest.
    """
    given = np.array(p_values, np.float64)
    order = np.argsort(given, kind="stable")[: int((~np.isnan(given)).sum())]  # NaN are last
    left = np.arange(len(order), 0, -1)  # tests that are not rejected yet
    given[order] = np.minimum(np.maximum.accumulate(given[order] * left), 1)
    return [float(value) for value in given]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is asked for.

    Args:
        alpha: false alarms that are accepted; intervals hold at 1 − alpha.
        power: with which the minimal detectable effect would be found.
        primary: the metric that the verdict is about.
        split: planned shares of the arms in their order; None for equal ones.
        relative: Fieller's interval beside the sheet's.
        correction: Holm's, over arms and metrics.
        sample_ratio: withhold the verdict where users do not split as planned.
        sizing: minimal detectable effect and users needed.
        always_valid_percent: effect expected, for the interval of people who peek; None for no such interval.
        bootstrap_rounds: of the cross-check; 0 for none.
        seed: decides the bootstrap.
    """

    alpha: int | float
    power: int | float
    primary: str
    split: list[int | float] | None
    relative: bool
    correction: bool
    sample_ratio: bool
    sizing: bool
    always_valid_percent: int | float | None
    bootstrap_rounds: int
    seed: int

    def __post_init__(self) -> None:
        for name in ("relative", "correction", "sample_ratio", "sizing"):
            check_flag(f"analysis.{name}", getattr(self, name))
        if not isinstance(self.split, list | None):
            raise InputError(f"analysis.split must be a list with a share for each arm, or null, got {self.split!r}")
        check_number("analysis.alpha", self.alpha, above=0, most=0.5)
        check_number("analysis.power", self.power, least=0.5, most=0.9999)
        check_number("analysis.bootstrap_rounds", self.bootstrap_rounds, whole=True, least=0, most=100_000)
        check_number("analysis.seed", self.seed, whole=True, least=0)
        if self.always_valid_percent is not None:
            check_number("analysis.always_valid_percent", self.always_valid_percent, above=0, most=1000)
        for share in self.split or []:
            check_number("analysis.split", share, above=0)
        if self.primary not in METRICS:
            raise InputError(f"analysis.primary must be one of {', '.join(METRICS)}, got {self.primary!r}")

    def shares(self, arms: Sequence[str]) -> Float64[np.ndarray, "A"]:
        """Planned share of each arm.

        Raises:
            InputError: `split` does not fit the arms.
        """
        planned = np.array(self.split if self.split else np.ones(len(arms)), np.float64)
        if len(planned) != len(arms):
            raise InputError(
                f"analysis.split has {len(planned)} shares for the {len(arms)} arms {', '.join(arms)}; "
                "give each one share"
            )
        return np.asarray(planned / planned.sum())


@dataclass(frozen=True, kw_only=True)
class Effect:
    """One metric of one treatment against the control. Percent are of the control mean; NaN where it was not asked.

    `effect_percent`, `lower_percent`, `upper_percent`, `p_value` and `significant` are the published sheet's.
    """

    treatment: str
    metric: str
    control_users: int
    treatment_users: int
    control_mean: float
    treatment_mean: float
    effect_percent: float
    lower_percent: float
    upper_percent: float
    p_value: float
    significant: bool
    relative_lower_percent: float = float("nan")
    relative_upper_percent: float = float("nan")
    holm_p_value: float = float("nan")
    holm_significant: bool | None = None
    minimal_detectable_percent: float = float("nan")
    users_needed: dict[str, int] | None = None
    always_valid_lower_percent: float = float("nan")
    always_valid_upper_percent: float = float("nan")
    bootstrap_lower_percent: float = float("nan")
    bootstrap_upper_percent: float = float("nan")
    cuped_effect_percent: float = float("nan")
    cuped_lower_percent: float = float("nan")
    cuped_upper_percent: float = float("nan")
    cuped_p_value: float = float("nan")
    cuped_variance_saved_percent: float = float("nan")

    @property
    def is_better(self) -> bool:
        """Whether the treatment does better by this metric, sure or not."""
        return (self.effect_percent > 0) != (self.metric in LOWER_IS_BETTER)

    @property
    def is_sure(self) -> bool:
        """Significant, by the stricter of the tests that were asked for."""
        return self.significant if self.holm_significant is None else self.holm_significant


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """Everything an A/B test says: effects, users per arm, guards and the verdict of each treatment."""

    users: Users
    settings: Settings
    effects: list[Effect]
    sample_ratio_p_value: float
    verdicts: dict[str, str]

    @property
    def is_withheld(self) -> bool:
        """Whether users split so differently from the plan that nothing can be believed."""
        return self.settings.sample_ratio and self.sample_ratio_p_value < SRM_ALPHA

    def effect(self, treatment: str, metric: str) -> Effect:
        """The one of a treatment and a metric."""
        return next(one for one in self.effects if (one.treatment, one.metric) == (treatment, metric))

    def record(self) -> dict[str, Any]:
        """As plain values, for `abtest.json`."""
        users = self.users
        return {
            "experiment": users.experiment,
            "primary": self.settings.primary,
            "verdicts": self.verdicts,
            "withheld": self.is_withheld,
            "users": {arm: int((users.arm_of == number).sum()) for number, arm in enumerate(users.arms)},
            "sessions": {arm: int(users.sessions[users.arm_of == n].sum()) for n, arm in enumerate(users.arms)},
            "events": users.num_events,
            "sample_ratio_p_value": self.sample_ratio_p_value,
            "guards": users.guards,
            "effects": [{**asdict(effect), "better": effect.is_better} for effect in self.effects],
            "settings": asdict(self.settings),
        }


def analyse(users: Users, settings: Settings, earlier: Users | None = None) -> Analysis:
    """Compare every treatment with the control.

    Args:
        users: what each user did; the first arm is the control.
        settings: what is asked for.
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
    return replace(analysis, verdicts={arm: _verdict(analysis, arm) for arm in users.arms[1:]})


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
    settings: Settings,
    metric: str,
    values: Values,
    before: Values | None,
    number: int,
    treatment: str,
    rng: np.random.Generator,
) -> Effect:
    one, other = values[users.arm_of == 0], values[users.arm_of == number]
    samples, alpha = (Sample.of(one), Sample.of(other)), float(settings.alpha)
    base = sheet(*samples, alpha)
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
        taken_off, saved = adjusted(values[chosen], before[chosen], users.arm_of[chosen])
        arms = users.arm_of[chosen]
        cuped = sheet(Sample.of(taken_off[arms == 0]), Sample.of(taken_off[arms == number]), alpha)
        effect = replace(
            effect,
            cuped_effect_percent=cuped.effect_percent,
            cuped_lower_percent=cuped.lower_percent,
            cuped_upper_percent=cuped.upper_percent,
            cuped_p_value=cuped.p_value,
            cuped_variance_saved_percent=saved,
        )
    return effect


def _verdict(analysis: Analysis, treatment: str) -> str:
    """One sentence about the primary metric."""
    effect, settings = analysis.effect(treatment, analysis.settings.primary), analysis.settings
    control = analysis.users.arms[0]
    size = f"{effect.effect_percent:+.1f} % [{effect.lower_percent:+.1f}, {effect.upper_percent:+.1f}]"
    if analysis.is_withheld:
        return (
            f"withheld: users do not split over the arms as planned (p = {analysis.sample_ratio_p_value:.2g}), "
            f"so {settings.primary} {size} cannot be believed"
        )
    if effect.is_sure:
        word = "better" if effect.is_better else "worse"
        return f"{word} than {control}: {settings.primary} {size}"
    found = f"; an effect of {effect.minimal_detectable_percent:.1f} % would probably have been found"
    return f"no difference from {control} is shown: {settings.primary} {size}" + (
        found if settings.sizing and np.isfinite(effect.minimal_detectable_percent) else ""
    )
