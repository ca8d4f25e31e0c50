"""The query vector of a session: a weighted sum of the query vectors of its tracks, each part with weights of its own.

`q = Σ_k age_weight_k · share_weight_k · query(track_k)`, k = 0 the newest track. What a model of the order has read is
added: its network is an ONNX model (`models/order.py`). Columns after the last part, such as that of an item bias, are
those of the newest track. The formulas of the weights run on arrays of numpy and, in training (`models/contexts.py`),
on tensors of torch: what they need of a library is in both under the same name, `xp`.

S sessions, h tracks of a session, N tracks in the catalogue, V width of a vector, W of all parts together, P parts, L
ages that are boosted.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float32, Int, Int64

from segue.picking.places import Candidates, Heard, Scores, Shares, are_in
from segue.runs.session_vectors import OrderPart, SessionVectors

SHORTEST = 2
"""Number of tracks that have an order."""


def age_weight(age: Any, decay: Any, earlier: Any, xp: Any = np) -> Any:
    """The weight of a track by its age: 1 for the newest one, `earlier · decay^age` further back.

    Args:
        age: how many tracks each is back, 0 for the newest.
        decay: factor for each track further back, in [0, 1].
        earlier: factor for all tracks but the newest, at least 0.
        xp: numpy or torch.
    """
    return decay**age * xp.where(age == 0, 1.0, earlier)


def share_weight(share: Any, skipped: Any, xp: Any = np) -> Any:
    """The weight of a track by its share, `skipped + (1 − skipped)·share`, and 1 where that is unknown.

    Args:
        share: share of each that was played; NaN where unknown.
        skipped: weight of a track of which nothing was played, in [-1, 1].
        xp: numpy or torch.
    """
    unknown = xp.isnan(share)  # a gradient of 0 · NaN would be NaN
    return xp.where(unknown, 1.0, skipped + (1 - skipped) * xp.where(unknown, 1.0, share))


def boosts_of(boosts: Float32[np.ndarray, "L"], rows: Candidates, heard: Heard) -> Scores:
    """What is added to the scores of candidates because a session has heard them.

    Args:
        boosts: by age.
        rows: the candidates of each session.
        heard: rows of the tracks that each session has heard, newest first; -1 for none.
    """
    found, boosts = np.zeros(rows.shape, np.float32), boosts[: heard.shape[1]]
    starts = np.flatnonzero(np.append(True, boosts[1:] != boosts[:-1])[: len(boosts)])  # of ages with the same boost
    for first, end in reversed([*pairwise([*starts.tolist(), len(boosts)])]):  # what was heard last decides
        np.putmask(found, are_in(rows, heard[:, first:end]), boosts[first])
    return found


def artist_boosts_of(given: SessionVectors, artist_of: Int[np.ndarray, "N"], rows: Candidates, heard: Heard) -> Scores:
    """What is added to the scores of candidates because a session has heard their artists.

    Args:
        given: has the boosts. A track with a boost of its own gets none for its artist.
        artist_of: row of the artist of each track.
        rows: the candidates of each session.
        heard: rows of the tracks that each session has heard, newest first; -1 for none.
    """
    newest = heard[:, : len(given.artist_boosts)]
    asked, artists = (np.where(some >= 0, artist_of.take(some, mode="clip"), -1) for some in (rows, newest))
    found = boosts_of(given.artist_boosts, asked, artists)
    np.putmask(found, are_in(rows, heard[:, : len(given.boosts)]), 0)
    return found


class SessionQuery:
    """The query vectors of sessions, from the vectors of a run, without torch.

    Args:
        vectors: of all tracks, and the numbers of the context.
    """

    def __init__(self, vectors: SessionVectors) -> None:
        self._vectors, widths = vectors, np.diff(vectors.ends, prepend=0)
        self._age_weights = np.repeat(vectors.age_weights, widths, axis=0).T.copy()
        self._orders = [(one.columns, _network(one)) for one in vectors.orders]

    def __reduce__(self) -> tuple[Any, ...]:
        return SessionQuery, (self._vectors,)  # networks are not sent to another process

    def of(self, rows: Int64[np.ndarray, "S h"], shares: Shares) -> Float32[np.ndarray, "S V"]:
        """Compute the query vector of each session.

        Args:
            rows: rows of the tracks, newest first, of which there is at least one; -1 where there is none.
            shares: share of each that was played; NaN where unknown.
        """
        rows, shares = rows[:, : self._vectors.max_length], shares[:, : self._vectors.max_length]
        by_share = np.where(rows < 0, np.float32(0), share_weight(shares, np.float32(self._vectors.skipped)))
        vectors, weights = self._vectors.queries.take(rows, axis=0, mode="clip"), self._age_weights[: rows.shape[1]]
        made, end = vectors[:, 0].copy(), weights.shape[1]  # columns after the last part are those of the newest track
        # unlike a matrix product, the same to the last digit where tracks are missing at the end
        made[:, :end] = np.einsum("sh,shw->sw", by_share, vectors[:, :, :end] * weights)
        for columns, of_order in self._by_order(rows, by_share):
            made[:, columns] += of_order
        return made

    def _by_order(self, rows: Heard, weights: Shares) -> Iterator[tuple[slice, Float32[np.ndarray, "S W"]]]:
        """For each encoder, its columns and what it adds there. Tracks that are not in the catalogue are left out."""
        if not self._orders:
            return
        length = (rows >= 0).sum(1)
        oldest_first = np.argsort(rows[:, ::-1] < 0, axis=1, kind="stable")[:, : max(1, length.max(initial=0))]
        rows, weights = (np.take_along_axis(some[:, ::-1], oldest_first, 1) for some in (rows, weights))
        tracks = self._vectors.queries.take(rows, axis=0, mode="clip") * weights[:, :, None]
        for columns, network in self._orders:
            given = {"tracks": tracks[..., columns], "last": (length - 1).clip(0)}
            yield columns, np.where((length < SHORTEST)[:, None], np.float32(0), network.run(None, given)[0])


def _network(order: OrderPart) -> Any:
    """An encoder that runs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # a process has one thread, as for other models
    return onnxruntime.InferenceSession(order.network, options, providers=["CPUExecutionProvider"])
