"""Exact nearest tracks by inner product of the true embeddings.

N tracks, D width of the true embeddings, Q queries, K neighbours.
"""

from functools import cached_property

import numpy as np
from jaxtyping import Float32, Int, Int32, Int64

from segue.errors import InputError

_GROUP = 64  # size of a group of tracks: the K best tracks are in the K groups with the best maximum

_BLOCK = 16  # tracks whose neighbours are computed together, where not all are needed

_CELLS = 2**20  # affinities that are computed together: few enough for the cache


def nearest(
    embeddings: Float32[np.ndarray, "N D"], queries: Int64[np.ndarray, "Q"], k: int, *, exclude_self: bool = False
) -> Int64[np.ndarray, "Q K"]:
    """The tracks with the largest inner product to the track of each query.

    Args:
        embeddings: true embedding of each track, shape `[N, D]`.
        k: number of neighbours (K), at most N, or at most N-1 with `exclude_self`.
        exclude_self: whether a track is not its own neighbour.

    Returns:
        Rows of tracks, best first, shape `[Q, K]`.
    """
    num_tracks, num_groups = len(embeddings), -(-len(embeddings) // _GROUP)
    neighbours = np.empty((len(queries), k), np.int64)
    candidates = np.ascontiguousarray(embeddings.T)
    chunk = max(1, _CELLS // (num_groups * _GROUP))
    affinity = np.full((min(chunk, len(queries)), num_groups * _GROUP), -np.inf, np.float32)
    for start in range(0, len(queries), chunk):
        rows = queries[start : start + chunk]
        part = affinity[: len(rows)]
        part[:, :num_tracks] = embeddings[rows] @ candidates
        if exclude_self:
            part[np.arange(len(rows)), rows] = -np.inf
        grouped = part.reshape(len(rows), num_groups, _GROUP)
        groups = _best(grouped.max(2), min(k, num_groups))
        members = np.take_along_axis(grouped, groups[:, :, None], 1).reshape(len(rows), -1)
        best = _best(members, k)
        best = np.take_along_axis(best, np.argsort(-np.take_along_axis(members, best, 1), axis=1, kind="stable"), 1)
        neighbours[start : start + chunk] = np.take_along_axis(groups, best // _GROUP, 1) * _GROUP + best % _GROUP
    return neighbours


def _best(values: Float32[np.ndarray, "Q n"], k: int) -> Int64[np.ndarray, "Q k"]:
    """Columns of the `k` largest values of each row, unordered."""
    # models/retrieval/nearest.py does the same in torch, which is not imported here, and orders ties, which is slower
    if k >= values.shape[1]:
        return np.broadcast_to(np.arange(values.shape[1]), values.shape)
    return np.argpartition(values, -k, axis=1)[:, -k:]


class NearestTracks:
    """The nearest other tracks of each track, searched when they are asked for: those of a large world take a minute.

    Args:
        k: number of neighbours (K); fewer, if there are no more tracks.

    Raises:
        InputError: there is one track.
    """

    def __init__(self, embeddings: Float32[np.ndarray, "N D"], k: int) -> None:
        if len(embeddings) < 2:
            raise InputError(
                "true_neighbours needs a world of at least 2 tracks, this one has 1; choose a larger world"
            )
        self._embeddings, self.length = embeddings, min(k, len(embeddings) - 1)

    @cached_property
    def _lists(self) -> Int32[np.ndarray, "N K"]:  # not yet there when it is sent to another process
        return np.full((len(self._embeddings), self.length), -1, np.int32)

    def of(self, rows: Int[np.ndarray, "S"]) -> Int32[np.ndarray, "S K"]:
        """The nearest tracks, best first."""
        # in fixed blocks, because the last digit of a product depends on the tracks that are computed together
        for block in np.unique(rows[self._lists[rows, 0] < 0] // _BLOCK).tolist():
            some = np.arange(block * _BLOCK, min((block + 1) * _BLOCK, len(self._embeddings)))
            self._lists[some] = nearest(self._embeddings, some, self.length, exclude_self=True)
        return np.asarray(self._lists[rows])
