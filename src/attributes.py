"""Attributes: what is known of tracks besides who made them. Tags, an album, a year, an embedding of the audio.

N tracks in the catalogue, K values, M assignments of a value to a track, W width of a vector, R vectors.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64, Shaped


@dataclass(frozen=True, eq=False, kw_only=True)
class Values:
    """An attribute of which a track has some values out of many: no, one or several.

    Args:
        names: the values, in the order in which they first occur in the catalogue.
        offsets: track n has the assignments `offsets[n]` to `offsets[n + 1] - 1`. The first is 0, the last M.
        values: row of the value of each assignment, in 0..K-1; a track has each value once.
    """

    names: Shaped[np.ndarray, "K"]
    offsets: Int64[np.ndarray, "offsets"]
    values: Int64[np.ndarray, "M"]

    @classmethod
    def from_lists(cls, lists: Sequence[Sequence[str] | None]) -> "Values":
        """Build it from the values of each track.

        Args:
            lists: the values of each track; None or nothing where they are unknown. Repeated values count once.
        """
        rows: dict[str, int] = {}
        of_track = [[rows.setdefault(name, len(rows)) for name in dict.fromkeys(values or ())] for values in lists]
        return cls(
            names=np.array(list(rows), object),
            offsets=np.cumsum([0, *map(len, of_track)]),
            values=np.array([row for values in of_track for row in values], np.int64),
        )

    @property
    def counts(self) -> Int64[np.ndarray, "N"]:
        """Number of values of each track."""
        return np.diff(self.offsets)

    @property
    def known(self) -> Bool[np.ndarray, "N"]:
        """Whether a track has a value."""
        return self.counts > 0

    def tracks_of_values(self) -> Int64[np.ndarray, "K"]:
        """Number of tracks that have each value."""
        return np.bincount(self.values, minlength=len(self.names))

    def lists(self) -> list[list[str]]:
        """The values of each track, as `from_lists` takes them."""
        return [list(part) for part in np.split(self.names[self.values], self.offsets[1:-1])]


@dataclass(frozen=True, eq=False, kw_only=True)
class Vectors:
    """An attribute that is a vector of numbers: an embedding of the audio, or a single number such as the year.

    Args:
        data: the vectors; 32 or 16 bits, possibly memory-mapped.
        places: which of them each track has; -1 where it is unknown.
        is_scaled: whether its columns have units, such as years. A model then standardises them on training tracks.
    """

    data: Float[np.ndarray, "R W"]
    places: Int64[np.ndarray, "N"]
    is_scaled: bool

    @classmethod
    def from_numbers(cls, numbers: Sequence[float | None]) -> "Vectors":
        """Build it from one number for each track.

        Args:
            numbers: finite numbers; None where unknown.

        Returns:
            The attribute, of width 1.
        """
        known = np.array([number is not None for number in numbers], bool)
        data = np.array([number for number in numbers if number is not None], np.float32)[:, None]
        return cls(data=data, places=np.where(known, np.cumsum(known) - 1, -1), is_scaled=True)

    @property
    def known(self) -> Bool[np.ndarray, "N"]:
        """Whether a track has a vector."""
        return self.places >= 0

    def take(self, rows: Int64[np.ndarray, "B"]) -> Float[np.ndarray, "B W"]:
        """Look up vectors.

        Returns:
            Their vectors with 32 bits; zero where unknown.
        """
        places = self.places[rows]
        if not len(self.data):
            return np.zeros((len(rows), self.data.shape[1]), np.float32)
        found = np.asarray(self.data[np.maximum(places, 0)], np.float32)
        return np.where((places >= 0)[:, None], found, np.float32(0))


Attribute = Values | Vectors
