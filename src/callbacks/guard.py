"""The guard of a night: whether the model that was served predicts the new plays as well as those before."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64

from segue.statistics.control_chart import limits
from segue.statistics.intervals import LEVEL, MeanInterval

RANKED = ("recall_at_10", "ndcg_at_10")
"""Metrics of the test that are guarded."""
TIME = "mean_time_per_session"
"""Mean sum of the shares played in a session of the log."""
FALL = "fall"
"""The verdict of a night that is worse than those before it."""
_WIDER = 0.2
_SAME, _BETTER = "as before", "better"


def intervals_of(metrics: Mapping[str, float], shares: Float64[np.ndarray, "S"]) -> dict[str, dict[str, float]]:
    """The mean of each guarded metric with its interval.

    Args:
        metrics: of the test.
        shares: sum of the shares played of each new session; empty where none is known.

    Returns:
        By name, `mean`, `lower` and `upper`; the bounds are NaN with one session.
    """
    found = {}
    for name in RANKED:
        if (mean := metrics.get(f"test/{name}")) is not None:
            half = float(np.nan if (given := metrics.get(f"test/{name}_half_width")) is None else given)
            found[name] = {"mean": mean, "lower": mean - half, "upper": mean + half}
    if len(shares):
        of_time = MeanInterval.of(shares, LEVEL)
        found[TIME] = {"mean": of_time.mean, "lower": of_time.lower, "upper": of_time.upper}
    return found


def judged(
    now: Mapping[str, Mapping[str, float]],
    nights: Sequence[Mapping[str, Mapping[str, float]]],
    first: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    """Compare a night with those before it.

    With enough nights before, their control chart has the limits. Otherwise the interval of the night is compared with
    that of the test of the run that the nights began from, widened by a fifth: one test does not say how much days
    differ.

    Args:
        now: what `intervals_of` returns.
        nights: the same of the nights before, oldest first.
        first: the same of the test of the run that they began from.

    Returns:
        `limits` by metric, `verdict` (`fall` if one metric has fallen, otherwise `better` if one is better, or
            `as before`), and `fallen`, the names of the metrics that have fallen.
    """
    bounds, found = {}, {}
    for name, of_now in now.items():
        chart = limits([one[name]["mean"] for one in nights if name in one])
        if chart is not None:
            lower, upper, low, high = *chart, of_now["mean"], of_now["mean"]
        elif first.get(name, {}).get("lower") is not None:
            lower, upper = first[name]["lower"] * (1 - _WIDER), first[name]["upper"] * (1 + _WIDER)
            low, high = of_now["lower"], of_now["upper"]
        else:
            continue
        bounds[name] = {"lower": lower, "upper": upper, "of": "nights" if chart is not None else "test"}
        found[name] = FALL if high < lower else _BETTER if low > upper else _SAME
    fallen = [name for name, verdict in found.items() if verdict == FALL]
    verdict = FALL if fallen else _BETTER if _BETTER in found.values() else _SAME
    return {"limits": bounds, "verdict": verdict, "fallen": fallen}
