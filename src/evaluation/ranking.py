"""Ranking metrics: one value for each query, from the rank of the track that really followed.

N tracks in the catalogue, Q queries, K candidates in a list, P pairs.

A query is the previous track of a test pair, its one relevant candidate is the track that followed; the candidates are
the whole catalogue but the query itself. Ranks start at 1; candidates that tie share the mean of the ranks they take
up, so a rank may end in ½.
"""

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float64, Int64
from scipy.stats import rankdata

LIKED = 0.8
"""A test pair is a query if this share or more of its next track was played, or if the share is unknown."""


def is_query(
    previous: Int64[np.ndarray, "P"], following: Int64[np.ndarray, "P"], played_ratio: Float[np.ndarray, "P"]
) -> Bool[np.ndarray, "P"]:
    """Which pairs are queries: liked or unknown, and not a track after itself, which is no candidate."""
    liked = np.isnan(played_ratio) | (played_ratio >= np.float32(LIKED))
    return np.asarray(liked & (previous != following))


def recall_at(ranks: Float64[np.ndarray, "Q"], k: int) -> Float64[np.ndarray, "Q"]:
    """1 where the relevant candidate stands among the first k, else 0.

    >>> recall_at(np.array([1.0, 10.0, 10.5]), 10)
    array([1., 1., 0.])
    """
    return (ranks <= k).astype(np.float64)


def ndcg_at(ranks: Float64[np.ndarray, "Q"], k: int) -> Float64[np.ndarray, "Q"]:
    """`1 / log2(1 + rank)` where the relevant candidate stands among the first k, else 0.

    >>> ndcg_at(np.array([1.0, 3.0, 11.0]), 10)
    array([1. , 0.5, 0. ])
    """
    return np.where(ranks <= k, 1 / np.log2(1 + ranks), 0.0)


def reciprocal_rank(ranks: Float64[np.ndarray, "Q"]) -> Float64[np.ndarray, "Q"]:
    """`1 / rank`; its mean over queries is the MRR.

    >>> reciprocal_rank(np.array([1.0, 2.5]))
    array([1. , 0.4])
    """
    return 1 / ranks


def accuracy(ranks: Float64[np.ndarray, "Q"]) -> pd.DataFrame:
    """Every accuracy metric of every query: a line a query, a column a metric, named as in MLflow."""
    return pd.DataFrame(
        {
            "recall_at_1": recall_at(ranks, 1),
            "recall_at_10": recall_at(ranks, 10),
            "recall_at_50": recall_at(ranks, 50),
            "ndcg_at_10": ndcg_at(ranks, 10),
            "mrr": reciprocal_rank(ranks),
        }
    )


def coverage(lists: Int64[np.ndarray, "L K"], num_tracks: int) -> float:
    """Share of the catalogue that stands in at least one list, 0 to 1."""
    return len(np.unique(lists)) / num_tracks


def same_artist(
    queries: Int64[np.ndarray, "Q"], lists: Int64[np.ndarray, "Q K"], artist_of: Int64[np.ndarray, "N"]
) -> Float64[np.ndarray, "Q"]:
    """Share of each list that is by the artist of the query, 0 to 1."""
    return np.asarray((artist_of[lists] == artist_of[queries][:, None]).mean(1))


def popularity_rank(lists: Int64[np.ndarray, "Q K"], plays: Int64[np.ndarray, "N"]) -> Float64[np.ndarray, "Q"]:
    """Mean popularity rank of each list: 1 is the track played most in training; ties share their mean rank."""
    return np.asarray(rankdata(-plays)[lists].mean(1))
