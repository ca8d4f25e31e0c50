"""The best tracks for a session, among the lists of its last tracks.

S sessions, H tracks of a session, C candidates, N tracks in the catalogue, L tracks of a list, K tracks that are kept.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int, Int32

from segue.picking.arm import Arm
from segue.picking.listener_scores import Pasts, favourites, is_known, past_of
from segue.picking.places import Heard, Scores, Shares, are_in, smallest
from segue.picking.session_query import boosts_of
from segue.picking.session_scores import SessionScores
from segue.runs.profiles import DAY_MS, Profiles
from segue.runs.session_vectors import SessionVectors

NUM_FAVOURITES = 3
"""Favourites of a listener whose lists are searched."""
OF_SESSION, OF_FAVOURITES = 200, 50
"""Candidates from the lists of the session's tracks, and from those of favourites, at most, with a listener's past. Of
each list the first ones are taken."""
_INFINITY = 0x7F800000  # ∞ as an integer
_MOST_GAPS, _MOST_NEWEST = 500, 20


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
                knows (`listener_scores.is_known`) are lowered, all by the same: √((1 − familiar) / familiar) times the
                `known_gap` of the vectors. 0 puts known tracks after all others, and so does any number below 1 where
                there is no such gap. None for that of the arm.

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
        if familiar < 1 and past is not None:
            scores -= self._penalty(familiar, np.where(ordered >= 0, scores, 0)) * is_known(past, ordered)
        if may_repeat and len(self.vectors.boosts):
            scores += boosts_of(self.vectors.boosts, ordered, heard)
        is_heard = are_in(ordered, heard[:, :1] if may_repeat else heard)
        np.putmask(scores, (ordered < 0) | is_heard, -np.inf)
        lines = np.arange(0, candidates.size, candidates.shape[1])[:, None]
        if k == 1:  # without the sorting, which takes ten times as long
            flat = scores.argmax(1)[:, None] + lines
            is_none = scores.ravel().take(flat) == -np.inf
        else:
            whole = (np.float32(0) - scores).view(np.int32)  # without −0; as integers, positive ones keep their order
            values, place = smallest(whole ^ ((whole >> 31) & np.int32(0x7FFFFFFF)), k, places)  # and now negative ones
            flat, is_none = place + lines, values >= _INFINITY
        return np.where(is_none, np.int32(-1), candidates.ravel().take(flat))

    def _penalty(self, familiar: float, scores: Scores) -> Float32[np.ndarray, "S 1"] | np.float32:
        if familiar and self.vectors.known_gap is not None:
            return np.float32(self.vectors.known_gap * ((1 - familiar) / familiar) ** 0.5)
        lowest = self.vectors.boosts.min(initial=0, where=np.isfinite(self.vectors.boosts))  # added to others later
        return np.asarray(1 + np.ptp(scores, axis=1, keepdims=True) - lowest, np.float32)

    def known_gap(self, of_run: Profiles) -> float | None:
        """How much more the best known track scores than the best other one, in sessions such as listeners had last.

        The sessions are the newest one, two, … twenty tracks of the profiles of 500 listeners, a day later.

        Args:
            of_run: the profiles of the run, with rows of tracks (`Profiles.in_rows`).

        Returns:
            The median over the sessions in which it scores more; None where there is none.
        """
        profiles = of_run.of_listeners(of_run.listeners[:_MOST_GAPS])
        if not profiles.size:
            return None
        last_ms = np.where((profiles["plays"] > 0) & (profiles["track"] >= 0), profiles["last_ms"], -1)
        newest = np.argsort(-last_ms, axis=1, kind="stable")[:, :_MOST_NEWEST]
        own, is_there = np.take_along_axis(profiles, newest, 1), np.take_along_axis(last_ms, newest, 1) >= 0
        is_there &= np.arange(newest.shape[1]) <= np.arange(len(own))[:, None] % _MOST_NEWEST
        rows = np.where(is_there, own["track"], -1)
        means = np.where(is_there, own["shares"] / np.maximum(own["plays"], 1e-9), np.nan).astype(np.float32)
        past = past_of(profiles, rows, last_ms.max(1) + DAY_MS)
        candidates = self._candidates(rows, past)
        scores = self.scores.of(rows, means, candidates, past)
        artists = np.where(rows >= 0, self.artist_of[rows], -1)[:, : self.arm.artist_gap]
        is_open = (candidates >= 0) & ~are_in(candidates, rows) & ~are_in(self.artist_of[candidates], artists)
        is_loved = is_known(past, candidates)
        known, others = (np.where(is_open & some, scores, -np.inf).max(1) for some in (is_loved, ~is_loved))
        is_above = (known > others) & np.isfinite(others)
        return float(np.median(known[is_above] - others[is_above])) if is_above.any() else None

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


def gap_hint(vectors: SessionVectors, arm: Arm) -> str | None:
    """What is wrong with a picking that repeats the artists of the session, and the remedy; None otherwise.

    Where shares are known, the sum of a session is mostly about its artists.

    Args:
        vectors: of the run.
        arm: how it picks.
    """
    if arm.pick != "ranked" or arm.artist_gap or vectors.skipped == 1:
        return None
    return "pick=ranked recommends the artists of the session again and again; artist_gap=100 skips them"


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
