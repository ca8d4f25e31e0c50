"""Which way a metric is better."""

import re
from collections.abc import Mapping

from src.errors import InputError

_BETTER: Mapping[str, str] = {
    "recall": "max",
    "ndcg": "max",
    "mrr": "max",
    "mse": "min",
    "mae": "min",
    "loss": "min",
    "fit_seconds": "min",
}
"""By the last part of a metric's name, without its `_at_<k>`. Others have no better: a floor, coverage, popularity, and
the effects of A/B tests, whose controls differ."""


def direction(metric: str) -> str | None:
    """Whether higher ("max") or lower ("min") is better, or neither.

    >>> direction("test/ndcg_at_10"), direction("val/mse"), direction("test/coverage_at_10")
    ('max', 'min', None)
    """
    return _BETTER.get(re.sub(r"_at_\d+$", "", metric.rsplit("/")[-1]))


def check_monitor_mode(metric: str, mode: str) -> None:
    """Refuse a mode under which the worst epoch would be kept.

    Args:
        metric: the metric that chooses the best epoch.
        mode: `max` or `min`.

    Raises:
        InputError: the mode is neither, or contradicts the metric.
    """
    if mode not in ("max", "min"):
        raise InputError(f"monitor.mode must be max or min, got {mode}")
    if (better := direction(metric)) and mode != better:
        best = {"max": "highest", "min": "lowest"}[better]
        raise InputError(
            f"monitor.mode={mode} would keep the worst epoch: the {best} {metric} is the best; "
            f"use monitor.mode={better}"
        )
