"""The rules by which a place of a list is picked: the weight of each place.

S sessions, K places of a list, C candidates, T tracks of a session, h of them whose shares matter.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int, Int64

_TINY = np.finfo(np.float64).tiny  # a divisor for the weights of a list without an open place
_MANY = 2**13  # comparisons of a session that take more time than to look its rows up in a table

Heard = Int[np.ndarray, "S T"]
"""Rows of the tracks that each session has heard, the last one first; -1 for tracks that are not in the catalogue, and
after the first one."""
Each = Int64[np.ndarray, "S"]
"""A whole number for each session, such as the row of a track, or the key of a user."""
Shares = Float[np.ndarray, "S h"]
"""Share of each of them that was played; NaN where it is unknown. An arm of one's own gets float64, others float32."""
Candidates = Int[np.ndarray, "S C"]
"""Rows of tracks for each session, such as its list, best first; -1 fills up."""
Scores = Float32[np.ndarray, "S C"]
"""Scores of the candidates of each session."""
Chances = Float64[np.ndarray, "S C"]
"""The probability of each of them; of a session they add up to 1, or are all 0."""
Rule = Callable[[Bool[np.ndarray, "S K"]], Float64[np.ndarray, "S K"]]
"""Gives each place a weight of at least 0: its share of all weights of its list is its probability. It gets whether
each place of each list may be picked, the best of a list first; the others weigh 0. The first line of a rule's
docstring says it to listeners, as a sentence."""


def uniform(is_open: Bool[np.ndarray, "S K"]) -> Float64[np.ndarray, "S K"]:
    """Each place is drawn with the same probability, as in the service of 2023."""
    return is_open.astype(np.float64)


def weighted(is_open: Bool[np.ndarray, "S K"]) -> Float64[np.ndarray, "S K"]:
    """Better places are drawn more often, in proportion to 1 / rank."""
    return is_open / np.arange(1, is_open.shape[1] + 1)


def ranked(is_open: Bool[np.ndarray, "S K"]) -> Float64[np.ndarray, "S K"]:
    """The best is taken."""
    found = np.zeros(is_open.shape)
    if is_open.shape[1]:
        found[np.arange(len(is_open)), is_open.argmax(1)] = is_open.any(1)
    return found


PICKS: dict[str, Rule] = {"uniform": uniform, "ranked": ranked, "weighted": weighted}
"""The rules by which a place of a list is picked. Another one is a function like these."""


def shares_of(weights: Float64[np.ndarray, "S K"]) -> Float64[np.ndarray, "S K"]:
    """The weights of each list divided by their sum; all 0 where that is 0.

    Args:
        weights: at least 0.
    """
    return np.asarray(weights / np.maximum(weights.sum(1), _TINY)[:, None])


def uniform_place(draws: Float64[np.ndarray, "S"], num: Int[np.ndarray, "S"] | int) -> Each:
    """Pick one of the places 0..num-1 for each session, each with the same probability.

    Args:
        draws: one random number for each session, uniform in [0, 1).
        num: number of places.
    """
    return (draws * num).astype(np.int64)


def are_in(rows: Candidates, others: Heard) -> Bool[np.ndarray, "S C"]:
    """Which rows of each session are among others of it.

    Args:
        rows: of each session, at least -1.
        others: of each session, at least -1.
    """
    if rows.shape[1] * others.shape[1] > _MANY:
        table = np.zeros(2 + max(rows.max(initial=-1), others.max(initial=-1)), bool)  # the last one is for -1
        return np.asarray(looked_up(table, others, rows, [True] * len(rows)))
    found = np.zeros(rows.shape, bool)
    others = others.astype(rows.dtype, copy=False)  # numbers of two kinds take longer
    if len(others) < others.shape[1]:  # few sessions at once: all in one comparison
        return np.asarray((rows[:, None] == others[:, :, None]).any(1))
    for column in others.T:
        found |= rows == column[:, None]
    return found


def looked_up(table: Any, rows: Any, keys: Candidates, values: Any, put: Any = np.ndarray.__setitem__) -> Any:
    """Look keys of each session up in a table of its own values.

    Args:
        table: of zeros, which it is again afterwards.
        rows: places of the table for each session.
        keys: the places that are looked up, S × C.
        values: what is put into the places.
        put: how; `np.add.at` adds where a place occurs several times.

    Returns:
        What the table has at the keys, S × C.
    """
    found = np.empty(keys.shape, table.dtype)
    for own, asked, of_session, out in zip(rows, keys, values, found, strict=True):
        put(table, own, of_session)
        table.take(asked, out=out, mode="wrap")
        table[own] = 0
    return found


def smallest(
    values: Int[np.ndarray, "S C"], k: int, places: Int[np.ndarray, "S C"] | None = None
) -> tuple[Int[np.ndarray, "S K"], Int[np.ndarray, "S K"]]:
    """The K smallest values of each line in ascending order; of equal values the first place comes first.

    Args:
        values: of each line, of 32 bits.
        k: how many are kept (K); all values, if there are fewer.
        places: the place of each value in a line as long; None where they are in the order of the places.

    Returns:
        The values, and the place of each.
    """
    bits = max(1, values.shape[1] - 1).bit_length()
    largest = 1 + max(int(values.max(initial=0)), -int(values.min(initial=0)))
    # one sort of whole numbers takes a tenth of the time of a stable one, and one of 32 bits half of that of 64
    keys: Int[np.ndarray, "S C"] = values.astype(np.int32 if largest << bits <= 2**31 else np.int64)
    keys <<= bits
    keys |= np.arange(values.shape[1], dtype=keys.dtype) if places is None else places.astype(keys.dtype, copy=False)
    if 4 * k < values.shape[1]:
        keys = np.partition(keys, k, axis=1)[:, :k]
    keys.sort(axis=1)
    return keys[:, :k] >> bits, keys[:, :k] & (2**bits - 1)
