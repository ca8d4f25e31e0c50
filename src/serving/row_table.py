"""Rows of many tracks at once, by their keys.

N tracks. A binary search reads the keys in 16 places for one of 50,000 tracks; this table reads them in one, and where
the keys are numbers that are not much larger than N, they are the places.
"""

import numpy as np
from jaxtyping import Int32, Int64

_MIX = np.uint64(0x9E3779B97F4A7C15)  # spreads keys over places (Knuth's multiplicative hash)
_PLACES = 8  # for each track; few keys then share a place


class RowTable:
    """Finds rows by keys.

    Args:
        keys: of the tracks, ascending.
    """

    def __init__(self, keys: Int64[np.ndarray, "N"]) -> None:
        self._keys, self._row_of, num_bits = keys, None, (_PLACES * len(keys)).bit_length()
        if keys[0] >= 0 and keys[-1] < 1 << num_bits:
            self._row_of = np.full(keys[-1] + 2, -1, np.int32)  # the last one is that of all other keys
            self._row_of[keys] = np.arange(len(keys))
            return
        self._shift = np.uint64(64 - num_bits)
        self._row_at = np.zeros(1 << num_bits, np.int32)
        self._row_at[self._place_of(keys)] = np.arange(len(keys))  # the last of those that share a place

    def of(self, keys: Int64[np.ndarray, "*n"]) -> Int32[np.ndarray, "*n"]:
        """Rows of tracks; -1 for one that is not there.

        Args:
            keys: any keys.
        """
        if self._row_of is not None:
            return self._row_of.take(np.minimum(keys.view(np.uint64), len(self._row_of) - 1).view(np.int64))
        flat = keys.ravel()
        rows = self._row_at.take(self._place_of(flat))
        if len(others := np.flatnonzero(self._keys.take(rows) != flat)):
            wanted = flat[others]
            found = self._keys.searchsorted(wanted)
            rows[others] = np.where(self._keys.take(found, mode="clip") == wanted, found, -1)
        return rows.reshape(keys.shape)

    def _place_of(self, keys: Int64[np.ndarray, "n"]) -> Int64[np.ndarray, "n"]:
        return ((keys.view(np.uint64) * _MIX) >> self._shift).view(np.int64)
