"""A sample of validation queries that several models rank, to be compared.

Q queries.
"""

from functools import partial

import numpy as np
import torch
from jaxtyping import Float64, Int64

from segue.datamodules.split_datamodule import SplitDataModule
from segue.models.contracts import Ranker, Rated
from segue.statistics import ranking
from segue.statistics.intervals import LEVEL, MeanInterval

_MOST = 10_000


class ValidationQueries:
    """Whole sessions, which do not depend on the seed of a run.

    Args:
        datamodule: the data, set up.

    Attributes:
        session: number of the session of each query.
    """

    def __init__(self, datamodule: SplitDataModule) -> None:
        val, self._rated = datamodule.pairs["val"], partial(rated_pairs, datamodule)
        places = np.flatnonzero(ranking.is_query(val.previous, val.following, val.played_ratio))
        if len(places):
            places = places[ranking.sample_sessions(val.session[places], _MOST)]
        queries = val.where(places)
        self.session, self._following = queries.session, queries.following
        self._histories = datamodule.histories(queries)

    def fit(self, ranker: Ranker) -> None:
        """Fit what a ranker fits to validation queries."""
        ranker.fit_to(self._histories, self._following, None if ranker.listener is None else self._rated())

    def gains(self, ranker: Ranker) -> Float64[np.ndarray, "Q"]:
        """ndcg@10 of each query, in [0, 1]."""
        with torch.inference_mode():
            return ranking.ndcg_at(ranker.ranks(self._histories, self._following, lambda _: None), 10)


def rated_pairs(datamodule: SplitDataModule) -> Rated:
    """Validation pairs whose shares are known, at most 10,000 of them: the same for every model and seed."""
    val = datamodule.pairs["val"]
    [places] = np.nonzero(~np.isnan(val.played_ratio))
    pairs = val.where(np.sort(np.random.default_rng(0).permutation(places)[:_MOST]))
    return Rated(datamodule.histories(pairs), pairs.following, pairs.played_ratio, pairs.listener)


def half_width(values: Float64[np.ndarray, "Q"], session: Int64[np.ndarray, "Q"]) -> float:
    """Half the width of the interval of a mean, over sessions; 0 with one session."""
    interval = MeanInterval.of_clusters(values, session, LEVEL)
    return 0.0 if np.isnan(interval.upper) else interval.upper - interval.mean
