"""The listener's part of a score: what their own past says of a candidate.

A candidate that the listener has heard in an earlier session, or whose artist they have, gets `weights · features`
added to its score. A listener without a past gets nothing: the score is that of the session alone. Tracks of the
present session are no past; the context and its rule of repeats know them.

S sessions, C candidates, f favourites, P entries of a profile (`runs/profiles.py`), E entries of all of them, T tracks
of a session, N tracks, F features.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int, Int32, Int64

from segue.picking.places import Candidates, Each, Heard, Scores, are_in, looked_up, smallest
from segue.runs.profiles import DAY_MS, ENTRY, LOVED, hour_of, remaining
from segue.runs.session_vectors import OF_LISTENER

FEATURES = OF_LISTENER
"""Names of the features, in the order of their weights."""
OF_TRACK, OF_ARTIST = slice(7), slice(7, None)
"""The features of a track that was heard: 1; log(1 + its plays); its mean share; how recent its last play is, exp(−t /
1 hour), for a day and for a week; and how near the hours of its plays are to this hour of the day, in [-1, 1]. And the
features of a track by an artist that was heard: log(1 + the plays); the mean share; and exp(−t / 1 day)."""
MOST_FAVOURITES = 50
"""Tracks of a listener's past that are candidates, at most."""
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


class Features(NamedTuple):
    """The features of entries of profiles, those of a session one after another.

    Attributes:
        session: the number of the session of each entry, ascending.
        track: row of its track.
        artist: row of its artist.
        values: the features; those of an artist are the same for all of its entries.
    """

    session: Int64[np.ndarray, "E"]
    track: Int64[np.ndarray, "E"]
    artist: Int64[np.ndarray, "E"]
    values: Float32[np.ndarray, "E F"]


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
    """The tracks of each listener with the largest sums of shares played, compared to three digits.

    Args:
        past: of the listener of each session.
        most: number of tracks, at most.

    Returns:
        Their rows, the largest sum first; -1 fills up.
    """
    sums = np.where(past.rows >= 0, past.entries["shares"], np.float32(0)) + np.float32(0)  # without −0
    # as integers, positive numbers have the same order; those of 16 bits take a third of the time
    values, place = smallest(-sums.astype(np.float16).view(np.int16), most)
    return np.where(values < 0, np.take_along_axis(past.rows, place, 1), np.int32(-1))


def features_of(past: Pasts, artist_of: Int[np.ndarray, "N"], among: Heard | None = None) -> Features:
    """The features of the tracks of profiles, and those of their artists.

    Args:
        past: of the listener of each session.
        artist_of: row of the artist of each track.
        among: rows of artists for each session: entries of other ones are left out. None for all.
    """
    artists, is_in = artist_of.take(past.rows, mode="clip"), past.rows >= 0
    place = np.flatnonzero(is_in if among is None else is_in & are_in(artists, among))
    session, artist = place // past.rows.shape[1], artists.take(place).astype(np.int64)
    entries = past.entries.reshape(-1).view(f"V{ENTRY.itemsize}").take(place).view(ENTRY)  # not field by field
    last_ms, plays, shares, hours = (entries[name] for name in ("last_ms", "plays", "shares", "hour"))
    elapsed = np.maximum(past.now_ms[session] - last_ms, 0).astype(np.float32)
    recent, left = np.exp(elapsed / -_SPANS[:, None]), remaining(elapsed)
    of_hour = np.vecdot(hour_of(past.now_ms)[session], hours) / plays
    _, same = np.unique(session * (int(artist_of.max(initial=0)) + 1) + artist, return_inverse=True)
    of_plays, of_shares = (np.bincount(same, one * left)[same] for one in (plays, shares))
    newest = np.zeros(len(same), np.float32)
    np.maximum.at(newest, same, recent[1])
    own = np.ones(len(session)), np.log1p(plays * left), shares / plays, recent, of_hour
    of_artist = np.log1p(of_plays), of_shares / np.maximum(of_plays, 1e-9), newest[same]
    values = np.vstack([*own, *of_artist]).astype(np.float32).T
    return Features(session, past.rows.take(place).astype(np.int64), artist, values)


class ListenerScores:
    """The listener's part of the scores of candidates.

    Args:
        weights: of the features, in the unit of the scores of the head.
        artist_of: row of the artist of each track.
    """

    def __init__(self, weights: Float32[np.ndarray, "F"], artist_of: Int[np.ndarray, "N"]) -> None:
        self._weights, self._artist_of = weights, artist_of
        # what is added for each track or artist of a session, then for -1
        self._added = np.zeros(1 + max(len(artist_of), int(artist_of.max()) + 1), np.float32)

    def add(self, scores: Scores, candidates: Candidates, past: Pasts) -> None:
        """Add the listener's part to scores, in place.

        Args:
            scores: of the candidates of each session.
            candidates: rows; negative ones get any number.
            past: of the listener of each session.
        """
        artists = self._artist_of.take(candidates, mode="clip")
        found = features_of(past, self._artist_of, artists)
        of = [slice(*ends) for ends in pairwise(found.session.searchsorted(np.arange(len(scores) + 1)).tolist())]
        for rows, asked, columns in ((found.artist, artists, OF_ARTIST), (found.track, candidates, OF_TRACK)):
            values = found.values[:, columns] @ self._weights[columns]
            scores += looked_up(self._added, map(rows.__getitem__, of), asked, map(values.__getitem__, of))


def is_known(past: Pasts, candidates: Candidates) -> Bool[np.ndarray, "S C"]:
    """Whether the listener has played each candidate to a share of at least `LOVED` in an earlier session.

    Args:
        past: of the listener of each session.
        candidates: rows; -1 for none.
    """
    loved = np.where(past.entries["best"] >= LOVED, past.rows, np.int32(-1))
    return are_in(candidates, loved) & (candidates >= 0)
