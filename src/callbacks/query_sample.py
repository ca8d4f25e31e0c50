"""A sample of queries that several models rank, to be compared.

Q queries, N tracks of the data.
"""

from functools import partial

import numpy as np
import torch
from jaxtyping import Float64, Int64

from segue.datamodules.pair_datamodule import PairDataModule
from segue.datamodules.pairs.pairs import Pairs
from segue.errors import InputError
from segue.models.contracts import Rated
from segue.models.ranker import Ranker
from segue.statistics import ranking
from segue.statistics.intervals import LEVEL, MeanInterval
from segue.statistics.paired import PairedDifference, QueryScores, paired_difference

_MOST = 10_000


class QuerySample:
    """Whole sessions of validation, or of the test, which do not depend on the seed of a run.

    Args:
        datamodule: the data, set up.
        split: `val` or `test`.

    Attributes:
        session: number of the session of each query.
    """

    def __init__(self, datamodule: PairDataModule, split: str = "val") -> None:
        pairs, self._rated = datamodule.pairs[split], partial(rated_pairs, datamodule)
        places = places_of_queries(pairs)
        if len(places):
            places = places[ranking.sample_sessions(pairs.session[places], _MOST)]
        queries = pairs.where(places)
        self.session, self._following = queries.session, queries.following
        self._histories = datamodule.histories(queries)

    def fit(self, ranker: Ranker) -> None:
        """Fit what a ranker fits to validation queries, which these are."""
        ranker.fit_to(self._histories, self._following, None if ranker.listener is None else self._rated())

    def gains(self, ranker: Ranker) -> Float64[np.ndarray, "Q"]:
        """ndcg@10 of each query, in [0, 1]."""
        with torch.inference_mode():
            return ranking.ndcg_at(ranker.ranks(self._histories, self._following, lambda _: None), 10)

    def gain(self, ranker: Ranker, other: Ranker, rows: Int64[np.ndarray, "N"]) -> PairedDifference:
        """The ndcg@10 of a ranker less that of a ranker of another catalogue.

        The other one has 0 where it does not know the next track, or none before it.

        Args:
            rows: row of each track in the catalogue of the other ranker; -1 where it does not know the track.

        Raises:
            InputError: it can answer no query.
        """
        histories, has_history = self._histories.in_catalogue(rows)
        following = rows[self._following[has_history]]
        is_asked = (following >= 0) & (following != histories.previous)
        if not is_asked.any():
            raise InputError("the other run knows too few of these tracks; compare runs with the same ids")
        with torch.inference_mode():
            ranks = other.ranks(histories.where(is_asked), following[is_asked], lambda _: None)
        theirs, session = np.zeros(len(self.session)), np.unique(self.session, return_inverse=True)[1]
        theirs[np.flatnonzero(has_history)[is_asked]] = ranking.ndcg_at(ranks, 10)
        mine, others = (QueryScores.of(one[None], session) for one in (self.gains(ranker), theirs))
        return paired_difference(mine, others, LEVEL)


def places_of_queries(pairs: Pairs) -> Int64[np.ndarray, "Q"]:
    """Which pairs are queries."""
    return np.flatnonzero(ranking.is_query(pairs.previous, pairs.following, pairs.played_ratio))


def rated_pairs(datamodule: PairDataModule) -> Rated:
    """Validation pairs whose shares are known, at most 10,000 of them: the same for every model and seed."""
    val = datamodule.pairs["val"]
    [places] = np.nonzero(~np.isnan(val.played_ratio))
    pairs = val.where(np.sort(np.random.default_rng(0).permutation(places)[:_MOST]))
    return Rated(datamodule.histories(pairs), pairs.following, pairs.played_ratio, pairs.listener)


def half_width(values: Float64[np.ndarray, "Q"], session: Int64[np.ndarray, "Q"]) -> float:
    """Half the width of the interval of a mean, over sessions; 0 with one session."""
    interval = MeanInterval.of_clusters(values, session, LEVEL)
    return 0.0 if np.isnan(interval.upper) else interval.upper - interval.mean
