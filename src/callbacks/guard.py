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
_FEWEST = 20  # sessions below which an interval says too little: two sessions without a hit have one without a width
_SAME, _BETTER = "as before", "better"


def intervals_of(metrics: Mapping[str, float], shares: Float64[np.ndarray, "S"]) -> dict[str, dict[str, float]]:
    """The mean of each guarded metric with its interval.

    Args:
        metrics: of the test.
        shares: sum of the shares played of each new session; empty where none is known.

    Returns:
        By name, `mean`, `lower` and `upper`; the bounds are NaN with fewer than 20 sessions.
    """
    found = {}
    has_many = metrics.get("test/num_sessions", _FEWEST) >= _FEWEST
    for name in RANKED:
        if (mean := metrics.get(f"test/{name}")) is not None:
            given = metrics.get(f"test/{name}_half_width")
            half = float(given) if has_many and given is not None else np.nan
            found[name] = {"mean": mean, "lower": mean - half, "upper": mean + half}
    if len(shares):
        of_time = MeanInterval.of(shares, LEVEL)
        bounds = (of_time.lower, of_time.upper) if len(shares) >= _FEWEST else (np.nan, np.nan)
        found[TIME] = {"mean": of_time.mean, "lower": bounds[0], "upper": bounds[1]}
    return found


def judged(
    now: Mapping[str, Mapping[str, float]],
    nights: Sequence[Mapping[str, Mapping[str, float]]],
    first: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    """Compare a night with those before it.

    The interval of the night is compared with limits: with enough nights before, those of their control chart,
    otherwise the interval of the test of the run that the nights began from, widened by a fifth, because one test does
    not say how much days differ. A night whose interval is unknown has neither fallen nor is it in the chart.

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
        if (chart := limits([one[name]["mean"] for one in nights if _is_known(one.get(name))])) is not None:
            lower, upper = chart
        elif _is_known(first.get(name)):
            lower, upper = first[name]["lower"] * (1 - _WIDER), first[name]["upper"] * (1 + _WIDER)
        else:
            continue
        bounds[name] = {"lower": lower, "upper": upper, "of": "nights" if chart is not None else "test"}
        found[name] = FALL if of_now["upper"] < lower else _BETTER if of_now["lower"] > upper else _SAME
    fallen = [name for name, verdict in found.items() if verdict == FALL]
    verdict = FALL if fallen else _BETTER if _BETTER in found.values() else _SAME
    return {"limits": bounds, "verdict": verdict, "fallen": fallen}


def _is_known(measured: Mapping[str, float | None] | None) -> bool:
    """Whether a mean has an interval; a file has null for NaN."""
    return measured is not None and (lower := measured["lower"]) is not None and not np.isnan(lower)
