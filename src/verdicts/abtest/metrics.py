"""The metrics of an A/B test. Each gives one value per user, because the test compares users. U users."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from segue.statistics.intervals import GroupSummary, PercentDifference, fieller, welch
from segue.verdicts.abtest.users import Users

METRICS = {
    "mean_time_per_session": ("time", "sessions"),
    "mean_tracks_per_session": ("tracks", "sessions"),
    "time": ("time", None),
    "sessions": ("sessions", None),
    "mean_request_latency": ("latency_ms", "tracks"),
    "fallback_percent": ("fallbacks", "tracks"),
}
"""What each metric divides by what, as fields of `Users`; in the order of every report."""

LOWER_IS_BETTER = ("mean_request_latency", "fallback_percent")
"""Metrics of which a lower value is better."""

IN_POINTS = ("fallback_percent",)
"""Metrics in percent: their values are multiplied by 100, and arms are compared by the difference of the means."""

Values = Float64[np.ndarray, "U"]
"""One value for each user."""

Pair = tuple[GroupSummary, GroupSummary]
"""Summaries of the control and of a treatment."""


@dataclass(frozen=True, kw_only=True)
class Comparison(PercentDifference):
    """A treatment compared with the control.

    Args:
        treatment: name of the arm.
        metric: name of the metric.
        part: of the log: `day 1`, `first session of a user`, or the like; empty for the whole log.
        control_users: number of users of the control.
        treatment_users: number of users of the treatment.
        control_mean: mean over the users of the control.
        treatment_mean: mean over the users of the treatment.
    """

    treatment: str
    metric: str
    part: str = ""
    control_users: int
    treatment_users: int
    control_mean: float
    treatment_mean: float


def summary(pair: Pair) -> dict[str, Any]:
    """The users and the means of a comparison of two groups, as fields of `Comparison`."""
    control, treated = pair
    users = {"control_users": control.num, "treatment_users": treated.num}
    return {**users, "control_mean": control.mean, "treatment_mean": treated.mean}


def is_better(metric: str, control_mean: float, treatment_mean: float) -> bool:
    """Whether the treatment mean is the better one; a relative effect would not say it of a control mean of 0.

    Args:
        metric: one of METRICS.
        control_mean: mean over the users of the control.
        treatment_mean: mean over the users of the treatment.
    """
    return (treatment_mean > control_mean) != (metric in LOWER_IS_BETTER)


def metrics_of(users: Users) -> list[str]:
    """The metrics that a log has: `fallback_percent` only if the log has a fallback."""
    return [metric for metric in METRICS if metric != "fallback_percent" or users.each.fallbacks.any()]


def metric_values(users: Users, metric: str) -> Values:
    """One value of a metric of METRICS for each user.

    Returns:
        Shape `[U]`. Time is in tracks played in full, latency in milliseconds.

    Source: the published A/B spreadsheet of 2023.
    """
    above, below = parts(users, metric)
    return np.asarray(above / below * (100 if metric in IN_POINTS else 1), np.float64)


def difference(metric: str, control: GroupSummary, treatment: GroupSummary, alpha: float) -> PercentDifference:
    """The effect on a metric: Fieller's interval of the relative difference, or Welch's in points for IN_POINTS.

    Args:
        metric: one of METRICS.
        control: summary of the control group.
        treatment: summary of the treatment group.
        alpha: the interval has level 1 − alpha; in (0, 1).
    """
    return welch(control, treatment, alpha, 1.0) if metric in IN_POINTS else fieller(control, treatment, alpha)


def samples(users: Users, metric: str, number: int) -> Pair:
    """Summaries of the control and of a treatment, by its number from 1, each with at least two users."""
    values = metric_values(users, metric)
    return GroupSummary.of(values[users.arm_of == 0]), GroupSummary.of(values[users.arm_of == number])


def unit_of(metric: str) -> str:
    """Unit of the effect on a metric: `%`, or `points` for a metric of IN_POINTS."""
    return "points" if metric in IN_POINTS else "%"


def parts(users: Users, metric: str) -> tuple[Values, Values]:
    """Numerator and denominator of a metric of METRICS, for each user.

    Returns:
        Two arrays of shape `[U]`; the denominator of a metric without one is 1.
    """
    above, below = METRICS[metric]
    return (
        np.asarray(getattr(users, above), np.float64),
        np.ones(len(users)) if below is None else np.asarray(getattr(users, below), np.float64),
    )
