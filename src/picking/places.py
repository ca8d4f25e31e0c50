"""The rules by which a place of a list is picked: the weight of each place.

S sessions, K places of a list, T tracks of a session.
"""

from abc import ABC, abstractmethod

import numpy as np
from jaxtyping import Bool, Float64, Int, Int64

_TINY = np.finfo(np.float64).tiny  # a divisor for the weights of a list without an open place


class Rule(ABC):
    """How a place of a list is picked. The first line of a rule's docstring says it to listeners, as a sentence."""

    may_repeat = False
    """Whether a track that the session has heard is picked again."""

    @abstractmethod
    def weights(self, is_open: Bool[np.ndarray, "S K"]) -> Float64[np.ndarray, "S K"]:
        """The weight of each place, at least 0; its share of all weights of its list is its probability.

        Args:
            is_open: whether each place of each list may be picked, the best of a list first. The others weigh 0.
        """


class Uniform(Rule):
    """Each place is drawn with the same probability, as in the service of 2023."""

    may_repeat = True

    def weights(self, is_open: Bool[np.ndarray, "S K"]) -> Float64[np.ndarray, "S K"]:
        """1 for each open place."""
        return is_open.astype(np.float64)


class Weighted(Rule):
    """Better places are drawn more often, in proportion to 1 / rank."""

    def weights(self, is_open: Bool[np.ndarray, "S K"]) -> Float64[np.ndarray, "S K"]:
        """1 / rank of each open place."""
        return is_open / np.arange(1, is_open.shape[1] + 1)


class Ranked(Rule):
    """The best is taken."""

    def weights(self, is_open: Bool[np.ndarray, "S K"]) -> Float64[np.ndarray, "S K"]:
        """1 for the first open place."""
        found = np.zeros(is_open.shape)
        if is_open.shape[1]:
            first = np.arange(len(is_open)), is_open.argmax(1)
            found[first] = is_open[first]
        return found


PICKS: dict[str, Rule] = {"uniform": Uniform(), "ranked": Ranked(), "weighted": Weighted()}
"""The rules by which a place of a list is picked. Another one is a class with other `weights`."""


def shares_of(weights: Float64[np.ndarray, "S K"]) -> Float64[np.ndarray, "S K"]:
    """The weights of each list divided by their sum; all 0 where that is 0.

    Args:
        weights: at least 0.
    """
    return np.asarray(weights / np.maximum(weights.sum(1), _TINY)[:, None])


def uniform_place(draws: Float64[np.ndarray, "S"], num: Int[np.ndarray, "S"] | int) -> Int64[np.ndarray, "S"]:
    """Pick one of the places 0..num-1 for each session, each with the same probability.

    Args:
        draws: one random number for each session, uniform in [0, 1).
        num: number of places.
    """
    return (draws * num).astype(np.int64)


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
