"""The result of an A/B analysis: effects, and what becomes `abtest.json`."""

from dataclasses import asdict, dataclass
from typing import Any

from src.abtest.log import Users
from src.abtest.metrics import LOWER_IS_BETTER
from src.abtest.settings import AnalysisSettings

SRM_ALPHA = 0.001
"""Below this p-value the users do not split as planned, and the verdict is withheld."""


@dataclass(frozen=True, kw_only=True)
class Effect:
    """One metric of one treatment against the control. Percent are of the control mean; NaN where not computed.

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
        """Whether the treatment does better by this metric, significantly or not."""
        return (self.effect_percent > 0) != (self.metric in LOWER_IS_BETTER)

    @property
    def is_sure(self) -> bool:
        """Significant, by the stricter of the tests that were asked for."""
        return self.significant if self.holm_significant is None else self.holm_significant


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """The result of an A/B test: effects, users per arm, guards and the verdict on each treatment."""

    users: Users
    settings: AnalysisSettings
    effects: list[Effect]
    sample_ratio_p_value: float
    verdicts: dict[str, str]

    @property
    def is_withheld(self) -> bool:
        """Whether users split so differently from the plan that no result is valid."""
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
