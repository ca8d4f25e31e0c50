"""The counted part of a run: what most often follows each track, and how much it adds to the scores of the head.

N tracks, n neighbours of a track, L ages. The formula is in `picking/counted_scores.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int, Int32, Int64

# For each field its kind and its number of dimensions.
_ARRAYS = {
    "rows": ("int32", 2),
    "shares": ("float32", 2),
    "age_weights": ("float32", 1),
    "strength": ("float64", 0),
    "uncounted": ("float64", 0),
}


@dataclass(frozen=True, eq=False, kw_only=True)
class CountedPart:
    """Item-to-item shares, and how much they add.

    Args:
        rows: rows of the neighbours of each track; -1 fills up.
        shares: share of each neighbour, in [0, 1]; those of a track have the sum 1 at most.
        age_weights: weight of each age, the newest track first; older tracks have none.
        strength: what is multiplied by the logarithm; in the unit of the scores of the head, at least 0.
        uncounted: share of a track of which nothing was counted, of the sum of `shares`; in [0, 1].
    """

    rows: Int32[np.ndarray, "N n"]
    shares: Float32[np.ndarray, "N n"]
    age_weights: Float32[np.ndarray, "L"]
    strength: float
    uncounted: float = 0.0

    @cached_property
    def is_uncounted(self) -> Bool[np.ndarray, "N"]:
        """Whether nothing was counted of a track, neither before it nor after it, as of a new one."""
        is_counted = np.zeros(len(self.rows) + 1, bool)  # the last one is for -1
        for column in self.rows.T:  # all at once would be copied as indices of another kind
            is_counted[:-1] |= column >= 0
            is_counted[column] = True
        return ~is_counted[:-1]

    @cached_property
    def table(self) -> Any:
        """The shares as a sparse matrix, N × N, for training."""
        from scipy.sparse import csr_array  # a service does without it

        line, place = (self.rows >= 0).nonzero()
        places = line, self.rows[line, place]
        return csr_array((self.shares[line, place], places), shape=(len(self.rows), len(self.rows)))

    @cached_property
    def shares_of_uncounted(self) -> Float32[np.ndarray, "N"]:
        """The share of each track that was not counted among those that follow a track."""
        return np.asarray(self.shares.sum(1) * np.float32(self.uncounted))

    def in_order(self, order: Int64[np.ndarray, "N"]) -> "CountedPart":
        """The same in another order of the tracks.

        Args:
            order: row of each track in the present order.
        """
        return self._with(np.argsort(order)[self.rows[order]], self.rows[order] >= 0, self.shares[order])

    def at_rows(self, rows: Int[np.ndarray, "N"], num_tracks: int) -> "CountedPart":
        """The same among more tracks, of which nothing was counted.

        Args:
            rows: row of each track among all.
        """
        columns, shares = np.full((num_tracks, self.rows.shape[1]), -1), np.zeros((num_tracks, self.rows.shape[1]))
        columns[rows], shares[rows] = np.where(self.rows < 0, -1, rows[self.rows]), self.shares
        return self._with(columns, columns >= 0, shares)

    def _with(self, rows: Any, is_there: Any, shares: Any) -> "CountedPart":
        return replace(self, rows=np.where(is_there, rows, -1).astype(np.int32), shares=np.asarray(shares, np.float32))

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything as arrays by name, for `of_arrays`."""
        return {f"counted_{name}": np.asarray(getattr(self, name)) for name in _ARRAYS}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray], *, num_tracks: int, max_length: int) -> "CountedPart | None":
        """Build it from arrays, which are checked; None where they have no counted part.

        Args:
            arrays: what `arrays` returned, among others.
            max_length: largest number of tracks of a session that may count.

        Raises:
            ValueError: an array is missing, or has another type, shape or range.
        """
        found = {name: arrays.get(f"counted_{name}") for name in _ARRAYS}
        if all(one is None for one in found.values()):
            return None
        for name, (kind, dimensions) in _ARRAYS.items():
            if (one := found[name]) is None or one.dtype.name != kind or one.ndim != dimensions:
                raise ValueError(f"counted_{name} must be an array of {kind} with {dimensions} dimensions")
        rows, shares, ages, strength, uncounted = (np.asarray(one) for one in found.values())
        is_right = {
            f"counted_rows must be rows of {num_tracks} tracks": len(rows) == num_tracks
            and bool(((rows >= -1) & (rows < num_tracks)).all()),
            "counted_shares must be numbers in [0, 1], one for each of counted_rows": shares.shape == rows.shape
            and bool(((shares >= 0) & (shares <= 1 + 1e-5)).all()),
            f"counted_age_weights must be 1 to {max_length} finite numbers of at least 0": 1 <= len(ages) <= max_length
            and bool(((ages >= 0) & np.isfinite(ages)).all()),
            "counted_strength must be a finite number of at least 0": bool(0 <= strength < np.inf),
            "counted_uncounted must be a number in [0, 1]": bool(0 <= uncounted <= 1),
        }
        if failed := [rule for rule, holds in is_right.items() if not holds]:
            raise ValueError(failed[0])
        numbers = {"strength": float(strength), "uncounted": float(uncounted)}
        return cls(rows=rows, shares=shares, age_weights=ages, **numbers)
