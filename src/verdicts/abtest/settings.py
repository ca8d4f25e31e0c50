"""The settings of an A/B analysis: `analysis:` in `conf/abtest.yaml`. A arms."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from segue.errors import InputError, check_flag, check_number
from segue.verdicts.abtest.metrics import METRICS


@dataclass(frozen=True, kw_only=True)
class AnalysisSettings:
    """What is computed, and when an effect counts as significant.

    Args:
        alpha: accepted rate of false alarms, in (0, 0.5]; intervals have level 1 − alpha.
        power: probability of detecting the minimal detectable effect, in [0.5, 0.9999].
        primary: the metric that the verdict is about, one of `METRICS`.
        guardrails: how much worse a metric may become, above 0, by its name: in percent of the control mean, for
            `fallback_percent` in percentage points; null for a metric that is no guardrail. The primary metric is none.
        split: planned shares of the arms in their order, above 0; None for equal shares.
        correction: whether secondary metrics are tested only after a significant primary effect, and p-values are
            corrected within each family (Holm).
        sample_ratio: whether the verdict is withheld if the split of the users differs from the plan.
        slices: whether the effect is computed by day and by segment.
        sizing: whether the minimal detectable effect and the users needed are computed.
        always_valid_percent: expected effect in percent, above 0, for the interval that allows continuous monitoring;
            None for no such interval.
        bootstrap_rounds: rounds of the bootstrap interval; 0 for no such interval.
        seed: of the bootstrap.

    Raises:
        InputError: a setting is out of range.
    """

    alpha: int | float
    power: int | float
    primary: str
    guardrails: dict[str, int | float | None]
    split: list[int | float] | None
    correction: bool
    sample_ratio: bool
    slices: bool
    sizing: bool
    always_valid_percent: int | float | None
    bootstrap_rounds: int
    seed: int

    def __post_init__(self) -> None:
        for name in ("correction", "sample_ratio", "slices", "sizing"):
            check_flag(f"analysis.{name}", getattr(self, name))
        if not isinstance(self.split, list | None):
            raise InputError(f"analysis.split must be a list with a share for each arm, or null, got {self.split!r}")
        check_number("analysis.alpha", self.alpha, above=0, most=0.5)
        check_number("analysis.power", self.power, least=0.5, most=0.9999)
        check_number("analysis.bootstrap_rounds", self.bootstrap_rounds, whole=True, least=0, most=100_000)
        check_number("analysis.seed", self.seed, whole=True, least=0)
        if self.always_valid_percent is not None:
            check_number("analysis.always_valid_percent", self.always_valid_percent, above=0, most=1000)
        if not isinstance(self.guardrails, dict) or not set(self.guardrails) <= set(METRICS):
            raise InputError(
                "analysis.guardrails must have a margin for some of the metrics "
                f"{', '.join(METRICS)}, got {self.guardrails!r}"
            )
        for metric, margin in self.guardrails.items():
            if margin is not None:
                check_number(f"analysis.guardrails.{metric}", margin, above=0, most=1000)
        for share in self.split or []:
            check_number("analysis.split", share, above=0)
        if self.primary not in METRICS:
            raise InputError(f"analysis.primary must be one of {', '.join(METRICS)}, got {self.primary!r}")

    def shares(self, arms: Sequence[str]) -> Float64[np.ndarray, "A"]:
        """Planned share of each arm.

        Args:
            arms: names of the arms.

        Returns:
            Shape `[A]`, with sum 1.

        Raises:
            InputError: `split` does not have one share for each arm.
        """
        planned = np.array(self.split if self.split else np.ones(len(arms)), np.float64)
        if len(planned) != len(arms):
            raise InputError(
                f"analysis.split has {len(planned)} shares for the {len(arms)} arms {', '.join(arms)}; "
                "give one share for each arm"
            )
        return np.asarray(planned / planned.sum())
