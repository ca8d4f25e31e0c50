"""The listener's part of a score: what their own past says of a candidate.

A candidate that the listener has heard in an earlier session, or whose artist they have, gets `weights · features`
added to its score. A listener without a past gets nothing: the score is that of the session alone. Tracks of the
present session are no past; the context and its rule of repeats know them.

S sessions, C candidates, f favourites, P entries of a profile (`runs/profiles.py`), T tracks of a session, N tracks, F
features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int, Int32, Int64

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
_PLACE_BITS = 20
_MOST_ENTRIES, _MOST_NUMBERS = 32_768, 2**19
"""Entries of profiles that are scored together, and sessions times artists: they stay in the cache."""
_MOST_CANDIDATES = 2**16 - 1  # that are scored together: each has a number of 16 bits
_SPANS = np.array([DAY_MS / 24, DAY_MS, 7 * DAY_MS], np.float32)


@dataclass(frozen=True, eq=False)
class Pasts:
    """What listeners have heard before their present sessions.

    Args:
        entries: of their profiles, records of `runs/profiles.ENTRY` in C order, S × P.
        rows: row of the track of each; -1 for an entry that is no past.
    """

    entries: np.ndarray
    rows: Int32[np.ndarray, "S P"]

    def part(self, some: Any) -> "Pasts":
        """Those of some sessions.

        Args:
            some: their numbers, a slice, or whether each is one.
        """
        return Pasts(self.entries[some], self.rows[some])


def past_of(profiles: np.ndarray, heard: Int[np.ndarray, "S T"], rows: Int32[np.ndarray, "S P"] | None = None) -> Pasts:
    """Profiles without empty entries, tracks that are not in the catalogue, and those of the present session.

    Args:
        profiles: entries of the listener of each session.
        heard: rows of the tracks that each session has heard; -1 for none.
        rows: row of the track of each entry, -1 for one that is not in the catalogue; None where `track` has it.
    """
    rows = profiles["track"].astype(np.int32) if rows is None else rows
    is_out = (profiles["plays"] <= 0) | _are_in(rows, heard, int(heard.max(initial=-1)))
    return Pasts(profiles, np.where(is_out, np.int32(-1), rows))


def _are_in(
    rows: Int[np.ndarray, "S K"], others: Sequence[np.ndarray] | np.ndarray, largest: int
) -> Bool[np.ndarray, "S K"]:
    """As `places.are_in`, by a table of all rows: faster where both are many. No other is above the largest."""
    is_in = np.zeros(max(largest, int(rows.max(initial=-1))) + 2, bool)  # the last one: -1
    found = np.empty(rows.shape, bool)
    for own, of_session, found_own in zip(rows, others, found, strict=True):
        is_in[of_session] = True
        is_in.take(own, out=found_own, mode="wrap")
        is_in[of_session] = False
    return found


def favourites(past: Pasts, most: int = MOST_FAVOURITES) -> Int32[np.ndarray, "S f"]:
    """The tracks of each listener with the largest sums of shares played.

    Args:
        past: of the listener of each session.
        most: number of tracks, at most.

    Returns:
        Their rows, the largest sum first; -1 fills up.
    """
    sums = np.where(past.rows >= 0, past.entries["shares"], np.float32(0)) + np.float32(0)  # without −0
    # as integers, positive numbers have the same order; a partition of 32 bits takes an eighth of the time of 64
    (num, length), keys, place = sums.shape, -sums.view(np.int32), np.arange(sums.size)
    if length > most and num:
        worst = np.partition(keys, most - 1, axis=1)[:, most - 1 : most]
        is_in = keys <= worst
        if np.count_nonzero(is_in) > most * num:  # of equal sums the first ones are taken
            is_tie = keys == worst
            is_in &= ~is_tie | (is_tie.cumsum(1) <= most - (keys < worst).sum(1, keepdims=True))
        place = np.flatnonzero(is_in)
    chosen, first = place.reshape(num, min(length, most)), length * np.arange(num)[:, None]
    ordered = keys.ravel().take(chosen).astype(np.int64)
    ordered <<= _PLACE_BITS
    ordered += chosen - first
    ordered.sort(axis=1)
    return np.where(ordered < 0, past.rows.ravel().take((ordered & (2**_PLACE_BITS - 1)) + first), np.int32(-1))


def features_of(
    past: Pasts, now_ms: Int64[np.ndarray, "S"], artist_of: Int[np.ndarray, "N"]
) -> tuple[Float32[np.ndarray, "S P F"], Int64[np.ndarray, "S P"]]:
    """The features of the tracks of profiles, and those of their artists.

    Args:
        past: of the listener of each session.
        now_ms: the time, for each session.
        artist_of: row of the artist of each track.

    Returns:
        The features; those of an artist are the same for all of its entries. And the artist of each entry; -1 for an
        empty one, whose features are 0.
    """
    flat = past.rows.ravel()
    place, (_, length) = np.flatnonzero(flat >= 0), past.rows.shape
    found, artists = np.zeros((flat.size, len(FEATURES)), np.float32), np.full(flat.size, -1)
    artists[place] = artist_of.take(flat.take(place))
    # one entry of each artist of a session stands for all of them; nothing else of the array is read
    keys = place // length * (int(artist_of.max(initial=0)) + 1) + artists.take(place)
    first = np.empty(int(keys.max(initial=-1)) + 1, np.intp)
    first[keys] = np.arange(len(place))
    found[place] = _features(past, now_ms, place, first.take(keys)).T
    return found.reshape(*past.rows.shape, len(FEATURES)), artists.reshape(past.rows.shape)


def _features(
    past: Pasts, now_ms: Int64[np.ndarray, "S"], place: Int64[np.ndarray, "E"], same: Int[np.ndarray, "E"]
) -> Float32[np.ndarray, "F E"]:
    """The features of entries, among which are all entries of their artists.

    Args:
        past: of the listener of each session.
        now_ms: the time, for each session.
        place: of the entries in all profiles one after another.
        same: a number that the entries of an artist in a profile share.
    """
    # numpy would take records field by field
    some = past.entries.reshape(-1).view(f"V{ENTRY.itemsize}").take(place).view(ENTRY)
    line = place // past.rows.shape[1]
    last_ms, plays, shares, hours = some["last_ms"], some["plays"], some["shares"], some["hour"]
    elapsed = np.maximum(now_ms.take(line) - last_ms, 0).astype(np.float32)
    found = np.empty((len(FEATURES), len(place)), np.float32)
    found[0], found[2] = 1, shares / plays
    np.exp(elapsed / -_SPANS[:, None], out=found[3:6])
    cosine, sine = hour_of(now_ms).T
    found[6] = (hours[:, 0] * cosine.take(line) + hours[:, 1] * sine.take(line)) / plays
    left = remaining(elapsed)
    plays, shares = plays * left, shares * left
    np.log1p(plays, out=found[1])
    newest = np.zeros(int(same.max(initial=-1)) + 1, np.float32)
    np.maximum.at(newest, same, found[4])
    of_plays, of_shares = (np.bincount(same, one).take(same) for one in (plays, shares))
    found[7], found[8], found[9] = np.log1p(of_plays), of_shares / np.maximum(of_plays, 1e-9), newest.take(same)
    return found


class ListenerScores:
    """The listener's part of the scores of candidates.

    Args:
        weights: of the features, in the unit of the scores of the head.
        artist_of: row of the artist of each track.
    """

    def __init__(self, weights: Float32[np.ndarray, "F"], artist_of: Int[np.ndarray, "N"]) -> None:
        # the last artist is that of no row, -1; no candidate has it
        self._weights, self._artist_of = weights, np.append(artist_of, artist_of.max(initial=0) + 1).astype(np.int32)
        self._num_artists = int(self._artist_of[-1]) + 1
        # what is added for each track, and numbers of the artists of sessions; they are 0 between sessions
        self._added = np.zeros(len(artist_of), np.float32)
        self._numbers = np.zeros(max(self._num_artists, _MOST_NUMBERS), np.uint16)

    def add(
        self,
        scores: Float32[np.ndarray, "S C"],
        candidates: Int[np.ndarray, "S C"],
        past: Pasts,
        now_ms: Int64[np.ndarray, "S"],
    ) -> None:
        """Add the listener's part to scores, in place.

        Args:
            scores: of the candidates of each session.
            candidates: rows, at most 65,535 for each session; negative ones get any number.
            past: of the listener of each session.
            now_ms: the time, for each session, in milliseconds since 1970.
        """
        num, length = past.rows.shape
        most = _MOST_ENTRIES // max(1, length), _MOST_CANDIDATES // max(1, candidates.shape[1])
        block = max(1, min(*most, len(self._numbers) // self._num_artists))
        for first in range(0, num, block):
            some = slice(first, first + block)
            self._add(scores[some], candidates[some], past.part(some), now_ms[some])

    def _add(
        self,
        scores: Float32[np.ndarray, "S C"],
        candidates: Int[np.ndarray, "S C"],
        past: Pasts,
        now_ms: Int64[np.ndarray, "S"],
    ) -> None:
        rows, (num, length) = candidates.astype(np.intp), past.rows.shape
        first = self._num_artists * np.arange(num, dtype=np.int32)[:, None]
        asked = self._artist_of.take(rows, mode="clip") + first
        own = self._artist_of.take(past.rows, mode="wrap") + first
        # each artist of the candidates of a session has a number above 0; entries of other artists add nothing
        self._numbers[asked] = np.arange(1, asked.size + 1, dtype=np.uint16).reshape(asked.shape)
        of_asked, of_own = self._numbers.take(asked), self._numbers.take(own)
        self._numbers[asked] = 0
        place = np.flatnonzero(of_own)
        same, num_own = of_own.take(place).astype(np.intp), len(OF_TRACK)
        features = _features(past, now_ms, place, same)
        of_artist = np.zeros(asked.size + 1, np.float32)
        of_artist[same] = self._weights[num_own:] @ features[num_own:]
        scores += of_artist.take(of_asked)
        tracks, values = past.rows.ravel().take(place), self._weights[:num_own] @ features[:num_own]
        ends, start = place.searchsorted(np.arange(1, num + 1) * length), 0
        of_track, added = np.empty_like(scores), self._added
        for asked_rows, found, end in zip(rows, of_track, ends.tolist(), strict=True):
            own_rows = tracks[start:end]
            added[own_rows] = values[start:end]
            added.take(asked_rows, out=found, mode="clip")
            added[own_rows], start = 0, end
        scores += of_track


def is_known(past: Pasts, candidates: Int[np.ndarray, "S C"]) -> Bool[np.ndarray, "S C"]:
    """Whether the listener has played each candidate to a share of at least `LOVED` in an earlier session.

    Args:
        past: of the listener of each session.
        candidates: rows; -1 for none.
    """
    line, place = ((past.rows >= 0) & (past.entries["best"] >= LOVED)).nonzero()
    loved, (num, _) = past.rows[line, place], past.rows.shape
    of_sessions = np.split(loved, np.searchsorted(line, np.arange(1, num + 1)))[:-1]
    return _are_in(candidates, of_sessions, int(loved.max(initial=-1)))


def explain(weights: Float32[np.ndarray, "F"], features: Float32[np.ndarray, "F"]) -> Sequence[tuple[str, float]]:
    """What each feature adds to a score.

    Args:
        weights: of the features.
        features: of the candidate.

    Returns:
        Names and values, the largest first.
    """
    added = zip(FEATURES, (weights * features).tolist(), strict=True)
    return sorted(((name, value) for name, value in added if value), key=lambda one: -abs(one[1]))
