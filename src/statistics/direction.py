"""The direction of a metric: whether higher or lower is better."""

import re
from collections.abc import Mapping

from segue.statistics.ranking import ACCURACY, EVERY_TARGET

_AT = r"_at_\d+$"
# By the last part of a metric's name, without `warm_`, `cold_…_` and `_at_<k>`. Other metrics have no direction:
# floors, coverage, popularity, and effects of A/B tests and estimates of `abtest.py`, because their controls and logs
# differ.
_BETTER: Mapping[str, str] = {
    **{re.sub(_AT, "", name): "max" for name in (*ACCURACY, *EVERY_TARGET)},
    "mse": "min",
    "mae": "min",
    "loss": "min",
    "fit_seconds": "min",
    "mean_time_per_session": "max",
    "val_mean_time_per_session": "max",
}


def direction(metric: str) -> str | None:
    """Look up whether higher or lower values of a metric are better.

    Args:
        metric: name of the metric, with or without `val/` or `test/`.

    Returns:
        `max`, `min`, or None where neither is better.

    >>> direction("test/ndcg_at_10"), direction("val/mse"), direction("test/coverage_at_10")
    ('max', 'min', None)
    """
    return _BETTER.get(re.sub(rf"^(warm|cold_[a-z]+)_|{_AT}", "", metric.rsplit("/")[-1]))
