"""A place of each list: how it is picked, and with which probability.

S sessions, K places of a list, T tracks of a session.
"""

import numpy as np
from jaxtyping import Bool, Float64, Int, Int64

PICKS = ("uniform", "ranked", "weighted")
"""The ways to pick a track from a list; see `pick`."""

_TINY = np.finfo(np.float64).tiny
"""A divisor for the weights of a list without an open place."""


def pick(how: str, open_places: Bool[np.ndarray, "S K"], draws: Float64[np.ndarray, "S"]) -> Int64[np.ndarray, "S"]:
    """Pick a place of each list.

    Args:
        how: `uniform` picks one of the open places at random, all with the same probability (as botify does); `ranked`
            picks the best open place; `weighted` picks at random with probabilities in proportion to 1 / rank.
        open_places: True for each place of each list that may be picked.
        draws: one random number for each session, uniform in [0, 1). `ranked` ignores it.

    Returns:
        The picked place in the list of each session, in 0..K-1; -1 where no place is open.
    """
    num_kept = open_places.shape[1]
    if not num_kept:
        return np.full(len(open_places), -1)
    if how == "ranked":
        return np.where(open_places.any(1), open_places.argmax(1), -1)
    reached = _weights(how, open_places).cumsum(1)
    return np.where(
        open_places.any(1), np.minimum((reached <= (draws * reached[:, -1])[:, None]).sum(1), num_kept - 1), -1
    )


def pick_probabilities(how: str, open_places: Bool[np.ndarray, "S K"]) -> Float64[np.ndarray, "S K"]:
    """Compute the probability with which `pick` picks each place of each list.

    Args:
        how: as for `pick`.
        open_places: as for `pick`.

    Returns:
        In [0, 1]; 0 for places that are not open. A list with an open place adds up to 1.
    """
    weights = _weights(how, open_places)
    return np.asarray(weights / np.maximum(weights.sum(1), _TINY)[:, None])


def _weights(how: str, open_places: Bool[np.ndarray, "S K"]) -> Float64[np.ndarray, "S K"]:
    if how == "ranked":
        return np.asarray(open_places & (open_places.cumsum(1) == 1), np.float64)
    return open_places / np.arange(1, open_places.shape[1] + 1) if how == "weighted" else open_places.astype(np.float64)


def at(values: np.ndarray, places: Int64[np.ndarray, "S"], otherwise: int | float) -> np.ndarray:
    """The value at a place of each list.

    Args:
        values: of each place of each list.
        places: a place of each list; -1 for none.
        otherwise: the value where there is none.
    """
    if not values.shape[1]:
        return np.full(len(places), otherwise)
    return np.where(places < 0, otherwise, values[np.arange(len(places)), places])


def are_in(rows: Int[np.ndarray, "S K"], others: Int[np.ndarray, "S T"]) -> Bool[np.ndarray, "S K"]:
    """Which rows of each session are among others of it.

    Args:
        rows: of each session.
        others: of each session.
    """
    if len(others) < others.shape[1]:  # few sessions at once: all in one comparison
        return np.asarray((rows[:, None] == others[:, :, None]).any(1))
    found = np.zeros(rows.shape, bool)
    for column in others.T:
        found |= rows == column[:, None]
    return found
