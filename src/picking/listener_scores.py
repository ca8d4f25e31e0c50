"""The listener's part of a score: what their own past says of a candidate.

A candidate that the listener has heard in an earlier session, or whose artist they have, gets `weights · features`
added to its score. A listener without a past gets nothing: the score is that of the session alone. Tracks of the
present session are no past; the context and its rule of repeats know them.

S sessions, C candidates, f favourites, P entries of a profile (`runs/profiles.py`), T tracks of a session, N tracks, F
features.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int, Int32, Int64

from segue.picking.places import Candidates, Each, Heard, Scores, are_in, smallest
from segue.runs.profiles import DAY_MS, ENTRY, LOVED, hour_of, remaining
from segue.runs.session_vectors import OF_LISTENER

FEATURES = OF_LISTENER
"""Names of the features, in the order of their weights."""
OF_TRACK, OF_ARTIST = FEATURES[:7], FEATURES[7:]
"""Features of a track that was heard: 1; log(1 + its plays); its mean share; how recent its last play is, exp(−t / 1
hour), for a day and for a week; and how near the hours of its plays are to this hour of the day, in [-1, 1]. Features
of a track by an artist that was heard: log(1 + the plays); the mean share; and exp(−t / 1 day)."""
MOST_FAVOURITES = 50
"""Tracks of a listener's past that are candidates, at most."""
_CELLS = 2**20  # of a table of all tracks of some sessions: it stays in the cache
_SPANS = np.array([DAY_MS / 24, DAY_MS, 7 * DAY_MS], np.float32)


@dataclass(frozen=True, eq=False)
class Pasts:
    """What listeners have heard before their present sessions.

    Args:
        entries: of their profiles, records of `runs/profiles.ENTRY` in C order, S × P.
        rows: row of the track of each; -1 for an entry that is no past.
        now_ms: the time of the present session, in milliseconds since 1970.
    """

    entries: np.ndarray
    rows: Int32[np.ndarray, "S P"]
    now_ms: Each

    def part(self, some: Any) -> "Pasts":
        """Those of some sessions.

        Args:
            some: their numbers, a slice, or whether each is one.
        """
        return Pasts(self.entries[some], self.rows[some], self.now_ms[some])


def past_of(profiles: np.ndarray, heard: Heard, now_ms: Each, rows: Int32[np.ndarray, "S P"] | None = None) -> Pasts:
    """Profiles without empty entries, tracks that are not in the catalogue, and those of the present session.

    Args:
        profiles: entries of the listener of each session.
        heard: rows of the tracks that each session has heard; -1 for none.
        now_ms: the time, for each session, in milliseconds since 1970.
        rows: row of the track of each entry, -1 for one that is not in the catalogue; None where `track` has it.
    """
    rows = profiles["track"].astype(np.int32) if rows is None else rows
    is_out = (profiles["plays"] <= 0) | are_in(rows, heard)
    return Pasts(profiles, np.where(is_out, np.int32(-1), rows), now_ms)


def favourites(past: Pasts, most: int = MOST_FAVOURITES) -> Int32[np.ndarray, "S f"]:
    """The tracks of each listener with the largest sums of shares played.

    Args:
        past: of the listener of each session.
        most: number of tracks, at most.

    Returns:
        Their rows, the largest sum first; -1 fills up.
    """
    sums = np.where(past.rows >= 0, past.entries["shares"], np.float32(0)) + np.float32(0)  # without −0
    values, place = smallest(-sums.view(np.int32), most)  # as integers, positive numbers have the same order
    return np.where(values < 0, np.take_along_axis(past.rows, place, 1), np.int32(-1))


def features_of(
    past: Pasts, artist_of: Int[np.ndarray, "N"]
) -> tuple[Float32[np.ndarray, "S P F"], Int64[np.ndarray, "S P"]]:
    """The features of the tracks of profiles, and those of their artists.

    Args:
        past: of the listener of each session.
        artist_of: row of the artist of each track.

    Returns:
        The features; those of an artist are the same for all of its entries. And the artist of each entry; -1 for an
        empty one, whose features are 0.
    """
    flat = past.rows.ravel()
    place, found = np.flatnonzero(flat >= 0), np.zeros((flat.size, len(FEATURES)), np.float32)
    line, artists = place // max(past.rows.shape[1], 1), np.full(flat.size, -1)
    artists[place] = artist_of.take(flat.take(place))
    # one entry of each artist of a session stands for all of them; nothing else of the array is read
    keys = line * (int(artist_of.max(initial=0)) + 1) + artists.take(place)
    first = np.empty(int(keys.max(initial=-1)) + 1, np.intp)
    first[keys] = np.arange(len(place))
    same = first.take(keys)
    # numpy would take records field by field
    some = past.entries.reshape(-1).view(f"V{ENTRY.itemsize}").take(place).view(ENTRY)
    last_ms, plays, shares, hours = some["last_ms"], some["plays"], some["shares"], some["hour"]
    elapsed = np.maximum(past.now_ms.take(line) - last_ms, 0).astype(np.float32)
    own = np.empty((len(FEATURES), len(place)), np.float32)
    own[0], own[2] = 1, shares / plays
    np.exp(elapsed / -_SPANS[:, None], out=own[3:6])
    cosine, sine = hour_of(past.now_ms).T
    own[6] = (hours[:, 0] * cosine.take(line) + hours[:, 1] * sine.take(line)) / plays
    left = remaining(elapsed)
    plays, shares = plays * left, shares * left
    np.log1p(plays, out=own[1])
    newest = np.zeros(len(place), np.float32)
    np.maximum.at(newest, same, own[4])
    of_plays, of_shares = (np.bincount(same, one).take(same) for one in (plays, shares))
    own[7], own[8], own[9] = np.log1p(of_plays), of_shares / np.maximum(of_plays, 1e-9), newest.take(same)
    found[place] = own.T
    return found.reshape(*past.rows.shape, len(FEATURES)), artists.reshape(past.rows.shape)


class ListenerScores:
    """The listener's part of the scores of candidates.

    Args:
        weights: of the features, in the unit of the scores of the head.
        artist_of: row of the artist of each track.
    """

    def __init__(self, weights: Float32[np.ndarray, "F"], artist_of: Int[np.ndarray, "N"]) -> None:
        self._weights, self._artist_of = weights, artist_of
        self._width = 1 + max(len(artist_of), int(artist_of.max()) + 1)
        # what is added for each track or artist of some sessions, after a place for -1; they are 0 between sessions
        self._added = np.zeros(self._width * max(1, _CELLS // self._width), np.float32)

    def add(self, scores: Scores, candidates: Candidates, past: Pasts) -> None:
        """Add the listener's part to scores, in place.

        Args:
            scores: of the candidates of each session.
            candidates: rows; negative ones get any number.
            past: of the listener of each session.
        """
        num_own, block = len(OF_TRACK), len(self._added) // self._width
        for first in range(0, len(scores), block):
            some = slice(first, first + block)
            of_some, rows = past.part(some), candidates[some]
            features, artists = features_of(of_some, self._artist_of)
            starts = 1 + self._width * np.arange(len(rows))[:, None]
            by_artist = artists, self._artist_of.take(rows, mode="clip"), slice(num_own, None)
            by_track = of_some.rows, rows, slice(num_own)
            for own, asked, columns in (by_artist, by_track):
                self._added[own + starts] = features[..., columns] @ self._weights[columns]
                scores[some] += self._added.take(asked + starts)
                self._added[own + starts] = 0


def is_known(past: Pasts, candidates: Candidates) -> Bool[np.ndarray, "S C"]:
    """Whether the listener has played each candidate to a share of at least `LOVED` in an earlier session.

    Args:
        past: of the listener of each session.
        candidates: rows; -1 for none.
    """
    loved = np.where(past.entries["best"] >= LOVED, past.rows, np.int32(-1))
    return are_in(candidates, loved) & (candidates >= 0)
