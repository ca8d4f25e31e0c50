"""The control of the course's experiment of 2026, as an arm of one's own: `policy: "control_2026:Control"`.

1. The last ten plays of a user are remembered, across sessions and days, this one included.
2. Their distinct tracks are the *anchors*, the newest first. An anchor weighs the sum of the shares that were played of
   its plays. Its *candidate* is the first track of its list that is none of the ten.
3. One of the anchors that have a candidate is drawn in proportion to the weights, and its candidate is next. Where they
   all weigh 0, it is that of the oldest of these anchors.
4. Without a candidate, any track of the catalogue is drawn.

S users, T of their last plays, N tracks of the catalogue, K tracks of a list. The folder of this file must be on
Python's path, as `PYTHONPATH=examples/course_2026`.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Int, Int64

LIST_LENGTH = 10
"""Tracks of a list that are looked at: the lists of 2026 had so many."""


class Control:
    """The probabilities of the next tracks of users.

    Args:
        lists: rows of the list of each track, best first; -1 fills up.
        others: what it does not look at.
    """

    num_plays = 10

    def __init__(self, *, lists: Int[np.ndarray, "N K"], **others: Any) -> None:  # noqa: ARG002
        self._lists = lists[:, :LIST_LENGTH]

    def probabilities(
        self, rows: Int[np.ndarray, "S T"], shares: Float[np.ndarray, "S T"]
    ) -> tuple[Int64[np.ndarray, "S T"], Float64[np.ndarray, "S T"]]:
        """The candidate of each anchor and its probability; -1 and 0 for the other plays.

        Args:
            rows: of the last plays, newest first; -1 for tracks that are not in the catalogue, and after the oldest.
            shares: share of each that was played; anything after the oldest.
        """
        shares = shares.astype(np.float64)
        is_same = (rows[:, :, None] == rows[:, None, :]) & (rows >= 0)[:, :, None]
        is_anchor = (rows >= 0) & (is_same.argmax(2) == np.arange(rows.shape[1]))
        candidates = np.full(rows.shape, -1, np.int64)
        for place, column in enumerate(rows.T if self._lists.shape[1] else ()):
            of_list = self._lists[column]
            is_heard = (of_list[:, :, None] == rows[:, None, :]).any(2)
            is_open = (of_list >= 0) & ~is_heard & is_anchor[:, place, None]
            first = of_list[np.arange(len(rows)), is_open.argmax(1)]
            candidates[:, place] = np.where(is_open.any(1), first, -1)
        has_candidate = candidates >= 0
        weights = np.where(has_candidate, np.where(is_same, shares[:, None], 0.0).sum(2), 0.0)
        oldest = rows.shape[1] - 1 - has_candidate[:, ::-1].argmax(1)
        is_oldest = has_candidate & (np.arange(rows.shape[1]) == oldest[:, None])
        weights = np.where((weights > 0).any(1, keepdims=True), weights, is_oldest.astype(np.float64))
        return candidates, weights / np.maximum(weights.sum(1), np.finfo(np.float64).tiny)[:, None]
