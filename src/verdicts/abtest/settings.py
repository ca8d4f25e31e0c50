"""The settings of an A/B analysis: `analysis.…` on the command line. A arms."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from jaxtyping import Float64

from segue.errors import InputError
from segue.settings import Setting, settings
from segue.verdicts.abtest.metrics import METRICS

POWER = 0.8
"""Probability of detecting the minimal detectable effect."""


@settings("analysis")
@dataclass(frozen=True, kw_only=True)
class AnalysisSettings:
    """When an effect counts as significant."""

    primary: Annotated[
        str, Setting("metric that the verdict is about; choose it before the experiment", choices=tuple(METRICS))
    ] = "mean_time_per_session"
    guardrails: Annotated[
        dict[str, float | None],
        Setting(
            "how much worse a metric may become, by its name: in percent of the control mean, `fallback_percent` in "
            "percentage points; null: it is no guardrail",
            above=0,
            most=1000,
        ),
    ]
    alpha: Annotated[
        float, Setting("accepted rate of false alarms; intervals have level 1 − alpha", above=0, most=0.5)
    ] = 0.05
    split: Annotated[
        list[float] | None,
        Setting("planned shares of the arms in their order, such as [0.9, 0.1]; null for equal shares", above=0),
    ] = None

    def __post_init__(self) -> None:
        if unknown := [name for name in self.guardrails if name not in METRICS]:
            raise InputError(
                f"analysis.guardrails.{unknown[0]} is no metric; a guardrail is one of {', '.join(METRICS)}"
            )

    def shares(self, arms: Sequence[str]) -> Float64[np.ndarray, "A"]:
        """Planned share of each arm.

        Returns:
            Shape `[A]`, with sum 1.

        Raises:
            InputError: `split` does not have one share for each arm.
        """
        planned = np.array(self.split or [1] * len(arms), np.float64)
        if len(planned) != len(arms):
            raise InputError(
                f"analysis.split has {len(planned)} shares for the {len(arms)} arms {', '.join(arms)}; "
                "give one share for each arm"
            )
        return np.asarray(planned / planned.sum())
