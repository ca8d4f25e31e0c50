"""The metrics of an A/B test: each gives one value per user, since users are what is compared. U users."""

import numpy as np
from jaxtyping import Float64

from src.abtest.log import Users

METRICS = ("mean_time_per_session", "mean_tracks_per_session", "time", "sessions", "mean_request_latency")
LOWER_IS_BETTER = ("mean_request_latency",)

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
