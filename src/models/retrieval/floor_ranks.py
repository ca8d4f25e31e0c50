"""Ranks by rules without learning: what every model is compared with.

N tracks in the catalogue, Q queries.
"""

from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
from jaxtyping import Float64, Int64
from scipy.sparse import csr_array

from segue.catalog import Vocabulary
from segue.models.retrieval.sparse import mean_ranks

_PAIRS_AT_ONCE = 1 << 22
"""Training pairs that are counted together, about."""

Columns = tuple[Int64[np.ndarray, "P"], Int64[np.ndarray, "P"]]
"""Rows of the previous and of the following track of some pairs."""


def ranks_by_plays(
    plays: Int64[np.ndarray, "N"], previous: Int64[np.ndarray, "Q"], following: Int64[np.ndarray, "Q"]
) -> Float64[np.ndarray, "Q"]:
    """Rank by plays alone.

    Args:
        plays: popularity of every track.
        previous: row of the track before, which is no candidate.
        following: row of the track that is ranked.
    """
    none: csr_array = csr_array((len(plays), len(plays)), dtype=np.float32)
    return mean_ranks(scores=partial(_rows_of, none), plays=plays, previous=previous, following=following)


def ranks_by_counts(
    vocabulary: Vocabulary,
    pairs: Callable[[], Iterable[Columns]],
    previous: Int64[np.ndarray, "Q"],
    following: Int64[np.ndarray, "Q"],
) -> Float64[np.ndarray, "Q"]:
    """Rank by how often the training pairs had the one track after the other.

    Args:
        vocabulary: the catalogue, and how many training pairs each track has.
        pairs: reads the training pairs, some at a time. Few are in memory at once.
        previous: row of the track before, which is no candidate.
        following: row of the track that is ranked.
    """
    num_tracks = len(vocabulary.plays)
    ranks, nothing = np.empty(len(previous)), np.zeros(num_tracks, np.int64)
    rows, group = np.unique(previous), np.full(num_tracks, -1)
    group[rows] = np.cumsum(vocabulary.previous_counts[rows]) // _PAIRS_AT_ONCE
    for number in np.unique(group[rows]):
        is_in = group == number
        chosen = [(before[kept], after[kept]) for before, after in pairs() for kept in [is_in[before]]]
        columns = tuple(np.concatenate(column) for column in zip(*chosen, strict=True))
        once = np.ones(len(columns[0]), np.float32)
        counts: csr_array = csr_array((once, columns), shape=(num_tracks, num_tracks))
        of = np.flatnonzero(is_in[previous])
        ranks[of] = mean_ranks(
            scores=partial(_rows_of, counts), plays=nothing, previous=previous[of], following=following[of]
        )
    return ranks


def _rows_of(scores: csr_array, rows: Int64[np.ndarray, "B"]) -> csr_array:
    return csr_array(scores[rows])
