"""Ranking metrics: one value for each query, from the rank of the track that followed.

N tracks in the catalogue, Q queries, K candidates of a list, L lists, P pairs.

A query is the previous track of a test pair. Its one relevant candidate is the track that followed. The candidates are
all tracks of the catalogue except the query. Ranks start at 1. Candidates that tie share the mean of the ranks they
occupy, therefore a rank may end in ½.
"""

from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float64, Int64
from scipy.stats import rankdata

from segue.statistics.intervals import LEVEL, MeanInterval

POSITIONS = {"1": (1, 1), "2_to_4": (2, 4), "5_or_more": (5, np.inf)}
"""Groups of queries by the number of tracks heard before the next one."""
NEWNESS = ("warm", "cold_previous", "cold_next", "cold_among")
"""Groups of queries by whether training knows both tracks: it does; the previous one is new; the next one is new,
ranked among all candidates, and among the new ones. A query whose two tracks are new is in the last three."""
BY_NEWNESS = tuple(f"{group}_{name}_at_{k}" for group in NEWNESS for name, k in product(("recall", "ndcg"), (10, 100)))
"""Names of the metrics by newness."""
LIKED = 0.8
"""A test pair is a query if at least this share of its next track was played, or if the share is unknown."""


def is_query(
    previous: Int64[np.ndarray, "P"], following: Int64[np.ndarray, "P"], played_ratio: Float[np.ndarray, "P"]
) -> Bool[np.ndarray, "P"]:
    """Select the pairs that are queries: the next track was liked or its share is unknown, and it is another track.

    Args:
        previous: row of the previous track of each pair.
        following: row of the next track of each pair.
        played_ratio: share of `following` that was played, in [0, 1]; NaN where unknown.
    """
    return np.asarray(is_liked(played_ratio) & (previous != following))


def is_liked(played_ratio: Float[np.ndarray, "P"]) -> Bool[np.ndarray, "P"]:
    """Select the tracks that were liked, or whose share is unknown.

    Args:
        played_ratio: share of each that was played, in [0, 1]; NaN where unknown.
    """
    return np.asarray(np.isnan(played_ratio) | (played_ratio >= np.float32(LIKED)))


def sample_sessions(session: Int64[np.ndarray, "Q"], max_queries: int) -> Bool[np.ndarray, "Q"]:
    """Select the queries of a random sample of whole sessions.

    The sessions are put into a random order that depends on nothing but their numbers. The sample is the longest
    beginning of this order that has at most `max_queries` queries, and at least one session.

    Args:
        session: number of the session of each query.
        max_queries: largest number of queries, at least 1.
    """
    _, of_query, num_queries = np.unique(session, return_inverse=True, return_counts=True)
    order = np.random.default_rng(0).permutation(len(num_queries))
    is_chosen = np.zeros(len(num_queries), bool)
    is_chosen[order[num_queries[order].cumsum() <= max_queries]] = True
    is_chosen[order[:1]] = True
    return is_chosen[of_query]


def recall_at(ranks: Float64[np.ndarray, "Q"], k: int) -> Float64[np.ndarray, "Q"]:
    """Compute recall@k: 1 if the relevant candidate is among the first k, else 0.

    Args:
        ranks: rank of the relevant candidate of each query, at least 1.
        k: length of the list, at least 1.

    >>> recall_at(np.array([1.0, 10.0, 10.5]), 10)
    array([1., 1., 0.])
    """
    return (ranks <= k).astype(np.float64)


def ndcg_at(ranks: Float64[np.ndarray, "Q"], k: int) -> Float64[np.ndarray, "Q"]:
    """Compute NDCG@k: `1 / log2(1 + rank)` if the relevant candidate is among the first k, else 0.

    Args:
        ranks: rank of the relevant candidate of each query, at least 1.
        k: length of the list, at least 1.

    Source:
        Järvelin and Kekäläinen, Cumulated gain-based evaluation of IR techniques, TOIS 2002, with one relevant
        candidate.

    >>> ndcg_at(np.array([1.0, 3.0, 11.0]), 10)
    array([1. , 0.5, 0. ])
    """
    return np.where(ranks <= k, 1 / np.log2(1 + ranks), 0.0)


def reciprocal_rank(ranks: Float64[np.ndarray, "Q"], k: int | float = np.inf) -> Float64[np.ndarray, "Q"]:
    """Compute `1 / rank` if the relevant candidate is among the first k, else 0. Its mean is the MRR, or MRR@k.

    Args:
        ranks: rank of the relevant candidate of each query, at least 1.
        k: length of the list, at least 1; without it, every rank counts.

    >>> reciprocal_rank(np.array([1.0, 2.5])), reciprocal_rank(np.array([1.0, 20.0, 20.5]), 20)
    (array([1. , 0.4]), array([1.  , 0.05, 0.  ]))
    """
    return np.where(ranks <= k, 1 / ranks, 0.0)


class Metric(NamedTuple):
    """An accuracy metric. Higher is better.

    Attributes:
        of: from the ranks to a value of each query, in [0, 1].
        meaning: of the mean of these values, in a few words, for the table of a run.
    """

    of: Callable[[Float64[np.ndarray, "Q"]], Float64[np.ndarray, "Q"]]
    meaning: str


ACCURACY: Mapping[str, Metric] = {
    "recall_at_1": Metric(partial(recall_at, k=1), "next in the top 1"),
    "recall_at_10": Metric(partial(recall_at, k=10), "next in the top 10"),
    "recall_at_50": Metric(partial(recall_at, k=50), "next in the top 50"),
    "ndcg_at_10": Metric(partial(ndcg_at, k=10), "gain in the top 10"),
    "mrr": Metric(reciprocal_rank, "mean of 1 / rank"),
}
"""The accuracy metrics, by their names in MLflow. They are logged in validation and in test, with floors and intervals;
set-ups are tested on them."""


EVERY_TARGET: Mapping[str, Metric] = {
    "every_target_p_at_20": Metric(partial(recall_at, k=20), "next in the top 20"),
    "every_target_mrr_at_20": Metric(partial(reciprocal_rank, k=20), "1 / rank, top 20"),
}
"""The metrics of the second protocol, P@20 and MRR@20 of published tables: every event after the first of a test
session is a target, and every track is a candidate, tracks heard and the last one too. They are logged in test."""


def accuracy(ranks: Float64[np.ndarray, "Q"]) -> pd.DataFrame:
    """Compute every accuracy metric of every query.

    Args:
        ranks: rank of the relevant candidate of each query, at least 1.

    Returns:
        One line for each query and one column for each metric of ACCURACY.
    """
    return _values(ranks, ACCURACY)


def every_target(ranks: Float64[np.ndarray, "Q"]) -> pd.DataFrame:
    """Compute the metrics of the second protocol.

    Args:
        ranks: rank of each target among all tracks, at least 1.

    Returns:
        One line for each target and one column for each metric of EVERY_TARGET.
    """
    return _values(ranks, EVERY_TARGET)


def _values(ranks: Float64[np.ndarray, "Q"], metrics: Mapping[str, Metric]) -> pd.DataFrame:
    return pd.DataFrame({name: metric.of(ranks) for name, metric in metrics.items()})


def half_widths(per_query: pd.DataFrame, session: Int64[np.ndarray, "Q"]) -> dict[str, float]:
    """Half the width of the interval of each mean, over sessions.

    Args:
        per_query: a column for each metric; NaN where a query has no value.
        session: number of the session of each query.

    Returns:
        By `<name>_half_width`, of the metrics that at least two sessions have.
    """
    found = {}
    for name, column in per_query.items():
        counts = np.isfinite(values := column.to_numpy())
        if len(np.unique(session[counts])) > 1:
            interval = MeanInterval.of_clusters(values[counts], session[counts], LEVEL)
            found[f"{name}_half_width"] = interval.upper - interval.mean
    return found


def by_position(metrics: pd.DataFrame, position: Int64[np.ndarray, "Q"]) -> dict[str, float]:
    """Compute the means of recall@10 and NDCG@10 by the number of tracks heard before.

    Args:
        metrics: what `accuracy` returned.
        position: number of tracks of the session before the next track, at least 1.

    Returns:
        Means by name, such as `recall_at_10_position_1`, for each group of POSITIONS that has queries.
    """
    return {
        f"{name}_position_{group}": float(metrics[name].to_numpy()[chosen].mean())
        for group, (least, most) in POSITIONS.items()
        if (chosen := (position >= least) & (position <= most)).any()
        for name in ("recall_at_10", "ndcg_at_10")
    }


def by_newness(
    ranks: Float64[np.ndarray, "Q"],
    ranks_among_new: Float64[np.ndarray, "C"],
    *,
    previous_is_new: Bool[np.ndarray, "Q"],
    next_is_new: Bool[np.ndarray, "Q"],
) -> pd.DataFrame:
    """Compute recall and NDCG at 10 and at 100 of the queries with new tracks, and of the others.

    Args:
        ranks: rank of the relevant candidate of each query among all candidates, at least 1.
        ranks_among_new: its rank among the new candidates, of the C queries whose relevant candidate is new.
        previous_is_new: whether the previous track of each query is new.
        next_is_new: whether its relevant candidate is.

    Returns:
        One line for each query and a column for each name of BY_NEWNESS; NaN where a query is not in the group.
    """
    among = np.full(len(ranks), np.nan)
    among[next_is_new] = ranks_among_new
    groups = (~(previous_is_new | next_is_new), previous_is_new, next_is_new, next_is_new)
    columns = [
        np.where(chosen, metric(np.where(chosen, own, 1.0), k), np.nan)
        for chosen, own in zip(groups, (ranks, ranks, ranks, among), strict=True)
        for metric, k in product((recall_at, ndcg_at), (10, 100))
    ]
    return pd.DataFrame(dict(zip(BY_NEWNESS, columns, strict=True)))


def coverage(lists: Int64[np.ndarray, "L K"], num_tracks: int) -> float:
    """Compute the share of the catalogue that is in at least one list.

    Args:
        lists: rows of the candidates of each list.
        num_tracks: number of tracks in the catalogue (N).
    """
    return len(np.unique(lists)) / num_tracks


def same_artist(
    queries: Int64[np.ndarray, "Q"], lists: Int64[np.ndarray, "Q K"], artist_of: Int64[np.ndarray, "N"]
) -> Float64[np.ndarray, "Q"]:
    """Compute the share of each list that is by the artist of its query.

    Args:
        queries: row of each query.
        lists: rows of the candidates of each query.
        artist_of: row of the artist of each track.
    """
    return np.asarray((artist_of[lists] == artist_of[queries][:, None]).mean(1))


def popularity_rank(lists: Int64[np.ndarray, "Q K"], plays: Int64[np.ndarray, "N"]) -> Float64[np.ndarray, "Q"]:
    """Compute the mean popularity rank of each list.

    The track with most plays has the rank 1. Tracks with equal plays share the mean of their ranks.

    Args:
        lists: rows of the candidates of each query.
        plays: number of plays of each track in training.

    Returns:
        Mean popularity rank of each list, in [1, N].
    """
    return np.asarray(rankdata(-plays)[lists].mean(1))
