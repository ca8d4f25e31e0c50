"""The test set before anything is trained: what is new in it, and what a rule without learning scores.

P pairs, B queries.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from segue.datamodules.describing.material import Splits
from segue.datamodules.pairs.pairs import Pairs
from segue.models.retrieval.ranks import ranks_by_plays
from segue.statistics import ranking


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The test set before training.

    Args:
        cold_tracks: share of its tracks that no training session plays.
        cold_pairs: share of its pairs with such a track.
        mean_mse: squared error of the mean share of training, for every pair; None where no share is known.
        mean_bce: cross-entropy of the same, in nats; None where no share is known, or it is infinite.
        popular_recall_at_10: recall@10 of the most played tracks; None without queries.
        popular_ndcg_at_10: ndcg@10 of the same; None without queries.
        num_queries: number of pairs that were ranked for this.
    """

    cold_tracks: float
    cold_pairs: float
    mean_mse: float | None
    mean_bce: float | None
    popular_recall_at_10: float | None
    popular_ndcg_at_10: float | None
    num_queries: int


def measure_test(splits: Splits, *, max_queries: int | None) -> HeldOut:
    """Measure the test set.

    Args:
        splits: the pairs of each split.
        max_queries: rank a sample of sessions with at most this many queries, as a run does; None for all.

    Returns:
        What is new in it, and the scores of rules without learning.
    """
    test, vocabulary = splits.pairs["test"], splits.vocabulary
    is_cold = vocabulary.plays == 0
    tracks = np.unique(np.concatenate([test.previous, test.following]))
    known = test.played_ratio[~np.isnan(test.played_ratio)]
    mean = vocabulary.mean_played_ratio
    has_shares = mean is not None and len(known) > 0
    queries, metrics = _popular(splits, max_queries)
    return HeldOut(
        cold_tracks=float(is_cold[tracks].mean()),
        cold_pairs=float((is_cold[test.previous] | is_cold[test.following]).mean()),
        mean_mse=constant_mse(mean, known) if has_shares and mean is not None else None,
        mean_bce=constant_bce(mean, known) if has_shares and mean is not None else None,
        popular_recall_at_10=metrics.get("recall_at_10"),
        popular_ndcg_at_10=metrics.get("ndcg_at_10"),
        num_queries=len(queries),
    )


def constant_mse(predicted: float, shares: Float32[np.ndarray, "P"]) -> float:
    """Squared error of one prediction for all shares.

    >>> constant_mse(0.5, np.array([0.0, 1.0], np.float32))
    0.25
    """
    return float(((shares.astype(np.float64) - predicted) ** 2).mean())


def constant_bce(predicted: float, shares: Float32[np.ndarray, "P"]) -> float | None:
    """Cross-entropy of one prediction for all shares, in nats; None where it is infinite, since it excludes a share.

    >>> round(constant_bce(0.5, np.array([0.0, 1.0], np.float32)), 4)
    0.6931
    """
    mean = float(shares.mean(dtype=np.float64))
    terms = ((mean, predicted), (1 - mean, 1 - predicted))
    if any(probability == 0 for weight, probability in terms if weight > 0):
        return None
    return float(sum(-weight * np.log(probability) for weight, probability in terms if weight > 0))


def _popular(splits: Splits, max_queries: int | None) -> tuple[Pairs, dict[str, float]]:
    """The queries of the test set, and the means of each metric of a ranking by plays in training."""
    test, plays = splits.pairs["test"], splits.vocabulary.plays
    queries = test.where(ranking.is_query(test.previous, test.following, test.played_ratio))
    if max_queries is not None and len(queries):
        queries = queries.where(ranking.sample_sessions(queries.session, max_queries))
    if not len(queries):
        return queries, {}
    ranks = ranks_by_plays(plays, queries.previous, queries.following)
    return queries, {str(name): float(mean) for name, mean in ranking.accuracy(ranks).mean().items()}
