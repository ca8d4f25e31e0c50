"""The result of an A/B analysis: the effects, and the content of `abtest.json`."""

from dataclasses import asdict, dataclass, field
from math import nan
from typing import Any

from segue.statistics.intervals import UNKNOWN, PercentDifference
from segue.verdicts.abtest.metrics import Comparison, is_better
from segue.verdicts.abtest.settings import AnalysisSettings
from segue.verdicts.abtest.slices import Unfinished, count_unfinished
from segue.verdicts.abtest.users import Users

SRM_ALPHA = 0.001
"""If the p-value of the sample-ratio test is below this level, the verdict is withheld."""

METHODS = ("mean of users", "ratio of sums", "CUPED", "always valid", "unfinished, bounds")
"""Ways to compute the effect on the primary metric, that of the verdict first."""


@dataclass(frozen=True, kw_only=True)
class Effect(Comparison):
    """One metric of one treatment, compared with the control.

    Each name that ends in `_percent` is in percent of the control mean; for `fallback_percent`, which is in percent
    itself, it is a difference in percentage points. A number that was not computed is NaN. Effect, bounds and p-value
    of the effect itself are Welch's, without a correction.

    Args:
        family: `primary`, `secondary` or `guardrail`; the tests of a family are corrected together.
        margin: how much worse a guardrail may become, in the unit of the effect; NaN for other metrics.
        unit: of the effect: `%`, or `points` for a metric that is in percent itself.
        decision: `better`, `worse`, `not significant` or `not tested`; of a guardrail `holds` (the interval is
            better than the margin), `broken` (it is worse) or `not shown`; `no test` if no value varies.
        significant: whether `p_value` is below alpha, without correction for the number of tests.
        level: of the intervals other than Welch's. It is the level of the test, which Holm's correction decides: an
            interval excludes 0 exactly if the effect is significant.
        holm_p_value: p-value with Holm's correction over the tests of the family; NaN without a test: a secondary
            metric is not tested if the primary effect is not significant. The test of a guardrail is that of
            non-inferiority; its p-value is twice the one-sided one.
        relative: Fieller's interval, which the verdict uses; its bounds are NaN if the control mean could be 0.
        always_valid: the bounds for continuous monitoring.
        ratio: the effect on the ratio of sums, such as all time over all sessions of an arm, with its Fieller interval
            (delta method) and p-value, not corrected; NaN for metrics that are no ratio.
        cuped: the effect with CUPED, with its Fieller interval and p-value.
        cuped_variance_saved_percent: share of the variance that CUPED removes, in percent.
        minimal_detectable_percent: effect that is detected with probability `settings.POWER`.

    Source: `effect_percent`, `lower_percent`, `upper_percent`, `p_value` and `significant` follow the published A/B
    spreadsheet of 2023.
    """

    family: str
    margin: float
    unit: str
    decision: str
    significant: bool
    level: float
    holm_p_value: float
    relative: PercentDifference
    always_valid: PercentDifference = UNKNOWN
    ratio: PercentDifference = UNKNOWN
    cuped: PercentDifference = UNKNOWN
    cuped_variance_saved_percent: float = nan
    minimal_detectable_percent: float = nan

    @property
    def is_clear(self) -> bool:
        """Whether the decision is for the treatment or against it."""
        return self.decision in ("better", "holds", "worse", "broken")

    def record(self) -> dict[str, Any]:
        """The effect as plain values, as in `abtest.json`: names of an interval begin with that of its method."""
        found: dict[str, Any] = {"better": is_better(self.metric, self.control_mean, self.treatment_mean)}
        for name, value in vars(self).items():
            if isinstance(value, PercentDifference):
                found |= {f"{name}_{key}": number for key, number in vars(value).items()}
            else:
                found[name] = value
        return found


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """The result of an A/B test.

    Args:
        users: what each user did.
        settings: what was computed.
        effects: one for each metric and treatment.
        sample_ratio_p_value: of the chi-square test of the users that are compared against the planned split, in
            [0, 1].
        exposure_p_value: of the same test of all users in the log, before anything is left out.
        unfinished: the sessions without a `last` of each treatment, compared with those of the control, by its name.
        slices: the effect on the primary metric in parts of the log.
        verdicts: one sentence for each treatment, by its name.
        recommenders: what each arm is, by its name; empty for a log, which does not say it.
        discovery: how much of what is played was known before; empty where too few users have an earlier session.
    """

    users: Users
    settings: AnalysisSettings
    effects: list[Effect]
    sample_ratio_p_value: float
    exposure_p_value: float
    unfinished: dict[str, Unfinished]
    slices: list[Comparison]
    discovery: list[Comparison]
    verdicts: dict[str, str] = field(default_factory=dict)
    recommenders: dict[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Title of every report."""
        return f"A/B test {self.users.experiment}"

    @property
    def is_withheld(self) -> bool:
        """Whether the split of the users differs so much from the plan that no result is valid.

        Both splits count: of all users in the log, and of those that are left after the exclusions.
        """
        return min(self.sample_ratio_p_value, self.exposure_p_value) < SRM_ALPHA

    def depends_on_unfinished(self, treatment: str) -> bool:
        """Whether the arms differ in their share of unfinished sessions, and these could change the verdict."""
        one, effect = self.unfinished[treatment], self.primary(treatment)
        if not one.p_value < SRM_ALPHA:
            return False
        worst = one.lower_percent if effect.effect_percent > 0 else -one.upper_percent
        return not (effect.decision in ("better", "worse") and worst > 0)

    def withholds(self, treatment: str) -> bool:
        """Whether the verdict on a treatment is withheld."""
        return self.is_withheld or self.depends_on_unfinished(treatment)

    def effect(self, treatment: str, metric: str) -> Effect:
        """The effect of one treatment on one metric."""
        return next(one for one in self.effects if (one.treatment, one.metric) == (treatment, metric))

    def primary(self, treatment: str) -> Effect:
        """The effect of one treatment on the primary metric."""
        return self.effect(treatment, self.settings.primary)

    def methods(self, treatment: str) -> dict[str, PercentDifference]:
        """The effect on the primary metric by each of `METHODS` that gave an interval, that of the verdict first.

        The intervals have the level of the test.
        """
        effect, unfinished = self.primary(treatment), self.unfinished[treatment]
        bounds = PercentDifference(lower_percent=unfinished.lower_percent, upper_percent=unfinished.upper_percent)
        found = (effect.relative, effect.ratio, effect.cuped, effect.always_valid, bounds)
        named = dict(zip(METHODS, found, strict=True))
        return {name: one for name, one in named.items() if one.lower_percent == one.lower_percent}

    def record(self) -> dict[str, Any]:
        """The result as plain values, as in `abtest.json`."""
        users = self.users
        return {
            "experiment": users.experiment,
            "recommenders": self.recommenders,
            "primary": self.settings.primary,
            "verdicts": self.verdicts,
            "withheld": any(self.withholds(arm) for arm in users.arms[1:]),
            "users": {arm: int((users.arm_of == number).sum()) for number, arm in enumerate(users.arms)},
            "sessions": {arm: int(users.sessions[users.arm_of == n].sum()) for n, arm in enumerate(users.arms)},
            "events": users.num_events,
            "sample_ratio_p_value": self.sample_ratio_p_value,
            "exposed": dict(zip(users.arms, users.exposed.tolist(), strict=True)),
            "exposure_p_value": self.exposure_p_value,
            "unfinished_sessions": count_unfinished(users),
            "unfinished": {arm: asdict(one) for arm, one in self.unfinished.items()},
            "guards": users.guards,
            "effects": [effect.record() for effect in self.effects],
            "slices": [asdict(one) for one in self.slices],
            "discovery": [asdict(one) for one in self.discovery],
            "settings": asdict(self.settings),
        }
