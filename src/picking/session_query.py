"""The query vector of a session: a weighted sum of the query vectors of its tracks, each part with weights of its own.

`q = Σ_k age_weight_k · share_weight_k · query(track_k)`, k = 0 the newest track. A part with a length is then divided
by (its length / the length for one track)^power, and what a model of the order has read is added: its network is an
ONNX model (`models/order.py`). The three formulas run on arrays of numpy and on tensors of torch, in training; what
they need of a library is in both under the same name, `xp`.

S sessions, h tracks of a session, N tracks in the catalogue, V width of a vector, W of all parts together, P parts.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int, Int64

from segue.errors import InputError
from segue.picking.counted_scores import CountedScores, added
from segue.runs.libraries import line_of_missing
from segue.runs.session_vectors import OrderPart, SessionVectors

SHORTEST = 2
"""Number of tracks that have an order."""
_TINY = 1e-6


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


def length_factor(squared: Any, power: Any) -> Any:
    """What a part of the sum is multiplied by, (length + a little)^−power. Tracks that cancel do not divide by 0.

    Args:
        squared: square of the length of each sum, relative to that of one track.
        power: power of the length, in [0, 1].
    """
    return (squared + _TINY) ** (-power / 2)


class SessionQuery:
    """The query vectors of sessions, from the vectors of a run, without torch.

    Args:
        vectors: of all tracks, and the numbers of the context.
    """

    def __init__(self, vectors: SessionVectors) -> None:
        self._vectors = vectors
        ends, lengths, powers = vectors.ends, vectors.lengths, vectors.powers
        part_of = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0))
        self._part_of, self._starts, self._width = part_of, np.append(0, ends[:-1]), len(part_of)
        self._weights = vectors.age_weights[part_of].T.copy()
        is_divided = vectors.is_divided
        self._by_square = (1 / np.where(is_divided, lengths, 1) ** 2).astype(np.float32)
        self._powers = np.where(is_divided, powers, 0).astype(np.float32) if is_divided.any() else None
        self._skipped = np.float32(vectors.skipped)
        self._orders = [(one.columns, _network(one)) for one in vectors.orders]

    def __reduce__(self) -> tuple[Any, ...]:
        return SessionQuery, (self._vectors,)  # networks are not sent to another process

    def of(self, rows: Int64[np.ndarray, "S h"], shares: Float32[np.ndarray, "S h"]) -> Float32[np.ndarray, "S V"]:
        """Compute the query vector of each session.

        Args:
            rows: rows of the tracks, newest first, of which there is at least one; -1 where there is none.
            shares: share of each that was played; NaN where unknown.
        """
        length = self._vectors.max_length
        rows, shares = rows[:, :length], shares[:, :length]
        made, factors = self._sums(rows, shares)
        if factors is not None:
            made[:, : self._width] *= factors.take(self._part_of, axis=1)
        if self._orders:
            for columns, added_by_order in self._by_order(rows, self._by_share(rows, shares)):
                made[:, columns] += added_by_order
        return made

    def _by_order(
        self, rows: Int64[np.ndarray, "S h"], weights: Float32[np.ndarray, "S h"]
    ) -> Iterator[tuple[slice, Float32[np.ndarray, "S W"]]]:
        """For each encoder, its columns and what it adds there. Tracks that are not in the catalogue are left out."""
        is_known = rows >= 0
        newer = is_known.cumsum(1)  # how many of a session are at least as new
        length = newer[:, -1]
        line, column = is_known.nonzero()
        place = line, length[line] - newer[line, column]
        vectors = self._vectors.queries.take(rows[line, column], axis=0) * weights[line, column][:, None]
        tracks = np.zeros((len(rows), max(int(length.max(initial=0)), 1), vectors.shape[1]), np.float32)
        tracks[place] = vectors
        last = (length - 1).clip(0)
        for columns, network in self._orders:
            [added_by_order] = network.run(None, {"tracks": tracks[..., columns], "last": last})
            yield columns, np.where((length < SHORTEST)[:, None], np.float32(0), added_by_order)

    def _by_share(
        self, rows: Int64[np.ndarray, "S h"], shares: Float32[np.ndarray, "S h"]
    ) -> Float32[np.ndarray, "S h"]:
        """Weights by the shares; 0 where there is no track."""
        return np.where(rows < 0, np.float32(0), share_weight(shares, self._skipped))

    def _sums(
        self, rows: Int64[np.ndarray, "S h"], shares: Float32[np.ndarray, "S h"]
    ) -> tuple[Float32[np.ndarray, "S V"], Float32[np.ndarray, "S P"] | None]:
        """The weighted sums, and what each part is multiplied by; None where nothing is divided."""
        vectors = self._vectors.queries.take(rows, axis=0, mode="clip")
        made = vectors[:, 0].copy()  # columns after the last part are those of the newest track
        weighted = vectors[:, :, : self._width] * self._weights[: rows.shape[1]]
        # unlike a matrix product, the same to the last digit where tracks are missing at the end
        sums = np.einsum("sh,shw->sw", self._by_share(rows, shares), weighted)
        made[:, : self._width] = sums
        if self._powers is None:
            return made, None
        return made, length_factor(np.add.reduceat(sums * sums, self._starts, axis=1) * self._by_square, self._powers)

    def products(
        self, rows: Int64[np.ndarray, "h"], shares: Float32[np.ndarray, "h"], item: int
    ) -> tuple[Float32[np.ndarray, "P m"], Float32[np.ndarray, "P m"], float]:
        """Explain a score: what each track of a session adds to each part of it.

        Args:
            rows: rows of the tracks, newest first.
            shares: share of each that was played; NaN where unknown.
            item: row of the candidate.

        Returns:
            The weight of each track in each part, after the division by the length; the products of the query vector of
            each track and the item vector in each part; and what the columns after the last part add. The score is the
            sum of weights · products, of the last number, and of `boost`, `counted` and `order`.
        """
        given = self._vectors
        rows, shares = rows[: given.max_length], shares[: given.max_length]
        weights = given.age_weights[:, : len(rows)] * self._by_share(rows[None], shares[None])
        if (factors := self._sums(rows[None], shares[None])[1]) is not None:
            weights = weights * factors.T
        both, starts = given.queries.take(rows, axis=0, mode="clip") * given.items[item], [0, *given.ends.tolist()]
        products = [both[:, first:end].sum(1) for first, end in pairwise(starts)]
        return weights, np.where(rows >= 0, products, np.float32(0)), float(both[0, starts[-1] :].sum())

    def boost(self, rows: Int64[np.ndarray, "h"], item: int, artist_of: Int[np.ndarray, "N"] | None = None) -> float:
        """What is added to the score of a track because it was heard and may be proposed, or because its artist was.

        Args:
            rows: rows of the tracks, newest first.
            item: row of the candidate.
            artist_of: row of the artist of each track; None for scores of a list, which have no boosts of artists.
        """
        given = self._vectors
        own = given.boosts[: len(rows)][rows[: len(given.boosts)] == item]
        if not len(own) and artist_of is not None:
            newest = rows[: len(given.artist_boosts)]
            is_same = (newest >= 0) & (artist_of.take(newest, mode="clip") == artist_of[item])
            own = given.artist_boosts[: len(rows)][is_same]
        boost = next(iter(own), np.float32(0))
        return float(boost) if np.isfinite(boost) else 0.0

    def order(
        self, rows: Int64[np.ndarray, "h"], shares: Float32[np.ndarray, "h"], item: int
    ) -> tuple[np.float32, Float32[np.ndarray, "m"]]:
        """Explain what the order of a session adds to a score.

        Args:
            rows: rows of the tracks, newest first.
            shares: share of each that was played; NaN where unknown.
            item: row of the candidate.

        Returns:
            What the order adds; and for each track how much less it would add without this track, which need not sum to
            it. All 0 where the model reads no order.
        """
        length, of_item = self._vectors.max_length, self._vectors.items[item]
        rows, weights = rows[None, :length], self._by_share(rows[None, :length], shares[None, :length])
        without = np.where(np.eye(1 + rows.shape[1], rows.shape[1], -1, dtype=bool), -1, rows)
        scores = np.zeros(len(without), np.float32)
        for columns, added_by_order in self._by_order(without, np.repeat(weights, len(without), axis=0)):
            scores += added_by_order @ of_item[columns]
        return scores[0], scores[0] - scores[1:]

    def counted(self, rows: Int64[np.ndarray, "h"], shares: Float32[np.ndarray, "h"], item: int) -> "CountedScore":
        """The counted part of a score.

        Args:
            rows: rows of the tracks, newest first.
            shares: share of each that was played; NaN where unknown.
            item: row of the candidate.
        """
        if (part := self._vectors.counted) is None:
            return CountedScore(0.0, 0.0, is_new=False)
        found = CountedScores(part).of(rows[None], shares[None], np.array([[item]]))
        is_new = bool(part.uncounted and part.is_uncounted[item])
        return CountedScore(float(found[0, 0]), float(added(found[0, 0], part.strength)), is_new)


def _network(order: OrderPart) -> Any:
    """An encoder that runs.

    Raises:
        InputError: onnxruntime is not installed, or the model is damaged.
    """
    try:
        import onnxruntime
    except ImportError:
        raise InputError(str(line_of_missing("onnxruntime"))) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # a process has one thread, as for other models
    try:
        return onnxruntime.InferenceSession(order.network, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common class
        why = str(error).splitlines()[0]
        raise InputError(
            f"the encoder of the order is damaged: {why}; train again, or load the release again"
        ) from None


class CountedScore(NamedTuple):
    """The counted part of a score.

    Attributes:
        share: of the candidate among the tracks that followed those of the session, in [0, 1].
        added: to the score of the head, at least 0.
        is_new: whether nothing was counted of it, so that the share is that of all such tracks.
    """

    share: float
    added: float
    is_new: bool
