"""The score of a candidate for a session: a search is for the best ones, and an explanation is of one.

A score is the inner product of the query of the session and the item vector of the candidate, plus what was counted,
what the listener's own past says, and what a candidate gets whose artist the session has heard. What it gets for having
been heard itself comes last, after the share of what is known was set (`SessionSearch.best`). `HeadRanker.scoring` is
the same for training, over the whole catalogue.

faiss computes the inner products: it reads the vectors of scattered rows where they are. numpy copies them first, which
makes a step of the simulator 1.4 to 1.6 times as long (docs/dependencies.md); it is the plain form, on systems without
faiss, and its test.

S sessions, H tracks of a session, C candidates, N tracks in the catalogue, V width of a vector, E the session and the
same without each track.
"""

import sys
from dataclasses import replace
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
from jaxtyping import Float32, Int, Int64

from segue.picking.counted_scores import CountedScores
from segue.picking.listener_scores import ListenerScores, Pasts
from segue.picking.places import Candidates, Heard, Scores, Shares
from segue.picking.session_query import SessionQuery, artist_boosts_of, boosts_of
from segue.runs.session_vectors import SessionVectors


class SessionScores:
    """The scores of candidates for sessions.

    Args:
        vectors: of all tracks.
        artist_of: row of the artist of each track.
    """

    def __init__(self, vectors: SessionVectors, artist_of: Int[np.ndarray, "N"]) -> None:
        self._vectors, self._artist_of, self._query = vectors, artist_of, SessionQuery(vectors)
        self.counted = None if vectors.counted is None else CountedScores(vectors.counted)
        """The counted part, if the run has one."""
        self._of_listener = None if vectors.listener is None else ListenerScores(vectors.listener, artist_of)

    def of(self, rows: Heard, shares: Shares, candidates: Candidates, past: Pasts | None = None) -> Scores:
        """Compute the scores of candidates, without what those get that the session has heard (`boosts_of`).

        Args:
            rows: rows of all tracks that each session has heard, newest first; -1 where there is none.
            shares: share of each that was played, NaN where it is unknown; at least of those that are looked at.
            candidates: rows; negative ones get any number.
            past: of the listener of each session; None where it is not known.
        """
        newest = rows[:, : shares.shape[1]].astype(np.int64)
        scores = inner_products(self._vectors.items, self._query.of(newest, shares), candidates)
        if self.counted is not None:
            self.counted.add(scores, newest, shares, candidates)
        if self._of_listener is not None and past is not None:
            self._of_listener.add(scores, candidates, past)
        if len(self._vectors.artist_boosts):
            scores += artist_boosts_of(self._vectors, self._artist_of, candidates, rows)
        return scores

    def explain(
        self, rows: Int64[np.ndarray, "H"], shares: Float32[np.ndarray, "H"], item: int
    ) -> dict[str, Float32[np.ndarray, "E"]]:
        """Divide a score into parts, of the session and of the session without each of its tracks.

        The difference is what a track adds. The ages of the other tracks stay as they are. In the parts of the vectors
        the tracks add up to the whole; what is counted, the order and the repeats are of several tracks together.

        Args:
            rows: rows of the tracks, newest first; -1 for tracks that are not in the catalogue.
            shares: share of each that was played; NaN where unknown.
            item: row of the candidate.

        Returns:
            By the name of each part of the vectors, and of what else adds something: `bias`, what the candidate has by
            itself, `order`, `counted`, and `repeats`, what it gets because it or its artist was heard (0 where it may
            not be proposed again). First what it adds to the score, and then what it would add without each track, the
            newest first. The sum over the parts is the score, without the listener's own past.
        """
        vectors, num = self._vectors, min(len(rows), self._vectors.num_newest)
        heard = np.where(np.eye(1 + num, len(rows), -1, dtype=bool), -1, rows)
        played, asked = np.tile(shares, (1 + num, 1)), np.full((1 + num, 1), item)
        unordered, of_item = SessionQuery(replace(vectors, orders=())).of(heard, played), vectors.items[item]
        starts = [first for first in (0, *vectors.ends.tolist()) if first < len(of_item)]
        products = np.add.reduceat(unordered * of_item, starts, axis=1).T
        parts = dict(zip((*vectors.parts, "bias"), products, strict=False))
        counted = np.zeros((1 + num, 1), np.float32)
        if self.counted is not None:
            self.counted.add(counted, heard, played, asked)
        repeats = boosts_of(vectors.boosts, asked, heard) + artist_boosts_of(vectors, self._artist_of, asked, heard)
        parts |= {
            "order": (self._query.of(heard, played) - unordered) @ of_item,
            "counted": counted[:, 0],
            "repeats": np.where(np.isfinite(repeats), repeats, np.float32(0))[:, 0],
        }
        return {name: part for name, part in parts.items() if name in vectors.parts or part.any()}


@cache
def import_faiss() -> Any | None:
    """faiss; None on other systems than Linux.

    On macOS a process that has the OpenMP of faiss and that of torch is known to crash.
    """
    return import_module("faiss") if sys.platform == "linux" else None


def inner_products(
    items: Float32[np.ndarray, "N V"], queries: Float32[np.ndarray, "S V"], candidates: Candidates
) -> Scores:
    """Compute the scores of given candidates. A score depends on its query and its item alone, to the last digit.

    Args:
        items: item vector of each track, in C order.
        queries: the query of each session.
        candidates: rows; negative ones get any number.

    Returns:
        The inner products.
    """
    if (faiss := import_faiss()) is None:
        return np.asarray(np.vecdot(items.take(candidates, axis=0, mode="clip"), queries[:, None]))
    rows = np.minimum(candidates, len(items) - 1, dtype=np.int64, order="C")  # faiss does not check them
    found, num_threads = np.empty(candidates.shape, np.float32), faiss.omp_get_max_threads()
    pointers = [faiss.swig_ptr(array) for array in (found, np.ascontiguousarray(queries), items, rows)]
    faiss.omp_set_num_threads(1)  # too few candidates for several; torch may have the same setting
    try:
        faiss.fvec_inner_products_by_idx(*pointers, queries.shape[1], *candidates.shape)
    finally:
        faiss.omp_set_num_threads(num_threads)
    return found
