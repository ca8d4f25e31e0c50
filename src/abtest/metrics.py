"""The metrics of an A/B test. Each gives one value per user, because the test compares users. U users."""

import numpy as np
from jaxtyping import Float64

from src.abtest.users import Users

METRICS = ("mean_time_per_session", "mean_tracks_per_session", "time", "sessions", "mean_request_latency")
"""Names of the metrics, in the order of every report."""

LOWER_IS_BETTER = ("mean_request_latency",)
"""Metrics of which a lower value is better."""

Values = Float64[np.ndarray, "U"]
"""One value for each user."""


def metric_values(users: Users, metric: str) -> Values:
    """One value of a metric for each user.

    Args:
        users: the users (U).
        metric: one of METRICS.

    Returns:
        Shape `[U]`. Time is in tracks played in full, latency in milliseconds.

    Source: the published A/B spreadsheet of 2023.
    """
    values = {
        "mean_time_per_session": users.time / users.sessions,
        "mean_tracks_per_session": users.tracks / users.sessions,
        "time": users.time,
        "sessions": users.sessions,
        "mean_request_latency": users.latency_ms / users.tracks,
    }
    return np.asarray(values[metric], np.float64)
