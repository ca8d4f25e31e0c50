"""The best tracks for a session, among the lists of its last tracks.

S sessions, H tracks of a session, C candidates, N tracks in the catalogue, L tracks of a list, K tracks that are kept.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int, Int32

from segue.picking.arm import Arm
from segue.picking.listener_scores import Pasts, favourites, is_known
from segue.picking.places import Heard, Scores, Shares, are_in, smallest
from segue.picking.session_query import boosts_of
from segue.picking.session_scores import SessionScores
from segue.runs.session_vectors import SessionVectors

NUM_FAVOURITES = 3
"""Favourites of a listener whose lists are searched."""
OF_SESSION, OF_FAVOURITES = 200, 50
"""Candidates from the lists of the session's tracks, and from those of favourites, at most, with a listener's past. Of
each list the first ones are taken."""
_INFINITY = 0x7F800000  # ∞ as an integer


@dataclass(eq=False)
class SessionSearch:
    """Finds the best tracks for sessions.

    Args:
        arm: has `context=session` or `listener`. Tracks already heard may be proposed unless it avoids them, where the
            rule of the training run lets them.
        vectors: of all tracks.
        lists: rows of the list of each track; -1 fills up.
        artist_of: row of the artist of each track.
    """

    arm: Arm
    vectors: SessionVectors
    lists: Int32[np.ndarray, "N L"]
    artist_of: Int[np.ndarray, "N"]

    def __post_init__(self) -> None:
        self.scores = SessionScores(self.vectors, self.artist_of)
        """The scores of any candidates."""
        self.knows_listeners = self.arm.context == "listener" and self.vectors.listener is not None
        """Whether `best` needs the profiles of listeners."""
        self.length = max(self.vectors.num_newest, self.arm.num_lists)
        """Number of last tracks that are looked at."""

    def best(
        self, rows: Heard, shares: Shares, k: int, past: Pasts | None = None, familiar: float | None = None
    ) -> Int32[np.ndarray, "S K"]:
        """The best tracks of the lists of the last tracks, for each session, and of those of the listener's own past.

        Args:
            rows: rows of all tracks that each session has heard, newest first; -1 for tracks that are not in the
                catalogue, and after the oldest one.
            shares: share of each that was played, NaN where it is unknown; at least of those that the query looks at.
            k: how many are kept (K).
            past: of the listener of each session (`listener_scores.past_of`); only if `knows_listeners`.
            familiar: share of what is played that listeners may know. Below 1, the scores of tracks that a listener
                knows (`listener_scores.is_known`) are lowered, in a session all by the same: √((1 − familiar) /
                familiar) times what their mean score is above that of the others. 0 puts known tracks after all others.
                None for that of the arm.

        Returns:
            Rows, best first; -1 fills up. Those of a session do not depend on the other sessions. Of equal scores the
            earlier candidate comes first, and a row that occurs several times counts once. The newest track is never
            proposed.
        """
        familiar = self.arm.familiar if familiar is None else familiar
        candidates, heard, may_repeat = self._candidates(rows, past), rows.astype(np.int32), not self.arm.avoids_heard
        ordered, places, k = candidates, None, min(k, candidates.shape[1])
        if k > 1:  # in the order of rows, in which those that occur again follow one another
            ordered, places = smallest(candidates, candidates.shape[1])
            np.putmask(ordered[:, 1:], ordered[:, 1:] == ordered[:, :-1], -1)
        scores = self.scores.of(rows, shares, ordered, past)
        is_open = (ordered >= 0) & ~are_in(ordered, heard[:, :1] if may_repeat else heard)
        if familiar < 1 and past is not None:
            known = is_known(past, ordered)
            scores -= self._penalty(familiar, np.where(is_open, scores, 0), known & is_open, is_open & ~known) * known
        if may_repeat and len(self.vectors.boosts):
            scores += boosts_of(self.vectors.boosts, ordered, heard)
        np.putmask(scores, ~is_open, -np.inf)
        lines = np.arange(0, candidates.size, candidates.shape[1])[:, None]
        if k == 1:  # without the sorting, which takes ten times as long
            flat = scores.argmax(1)[:, None] + lines
            is_none = scores.ravel().take(flat) == -np.inf
        else:
            whole = (np.float32(0) - scores).view(np.int32)  # without −0; as integers, positive ones keep their order
            values, place = smallest(whole ^ ((whole >> 31) & np.int32(0x7FFFFFFF)), k, places)  # and now negative ones
            flat, is_none = place + lines, values >= _INFINITY
        return np.where(is_none, np.int32(-1), candidates.ravel().take(flat))

    def _penalty(self, familiar: float, scores: Scores, known: Any, others: Any) -> Any:
        """What is subtracted from the scores of the tracks that listeners know, S × 1."""
        if not familiar:
            lowest = self.vectors.boosts.min(initial=0, where=np.isfinite(self.vectors.boosts))  # added to others later
            return (1 + np.ptp(scores, axis=1, keepdims=True) - lowest).astype(np.float32)
        of_known, of_others = (
            (scores * some).sum(1, keepdims=True) / some.sum(1, keepdims=True).clip(1) for some in (known, others)
        )
        return (of_known - of_others).clip(0).astype(np.float32) * np.float32((1 / familiar - 1) ** 0.5)

    def _candidates(self, rows: Heard, past: Pasts | None) -> Int32[np.ndarray, "S C"]:
        """Rows of the candidates of each session; -1 for none."""
        found, num_lists = union(self.lists, rows[:, : self.arm.num_lists]), self.arm.num_lists
        if past is None:
            return found
        of_lists, has_past = found.reshape(len(rows), -1, self.lists.shape[1]), (past.rows >= 0).any(1)
        of_lists[has_past, :, OF_SESSION // num_lists :] = -1  # as many places are left for what the listener knows
        own = favourites(past)
        others = union(self.lists, own[:, :NUM_FAVOURITES], OF_FAVOURITES // NUM_FAVOURITES)
        return np.concatenate([found, own, others], 1)


def union(lists: Int32[np.ndarray, "N L"], recent: Heard, most: int | None = None) -> Int32[np.ndarray, "S C"]:
    """The lists of the last tracks, one after another.

    Args:
        lists: rows of the list of each track; -1 fills up.
        recent: rows of the last tracks of each session, newest first; -1 for none.
        most: how many of each list, at most; None for all.

    Returns:
        Rows of the candidates; -1 for none.
    """
    found = lists.take(recent, axis=0, mode="clip")[:, :, :most]
    found[recent < 0] = -1
    return found.reshape(len(recent), found.shape[1] * found.shape[2])
