"""The listener's part of a score: what their own past says of a candidate.

A candidate that the listener has heard in an earlier session, or whose artist they have, gets `weights · features`
added to its score. A listener without a past gets nothing: the score is that of the session alone. Tracks of the
present session are no past; the context and its rule of repeats know them.

S sessions, C candidates, f favourites, P entries of a profile (`runs/profiles.py`; here `track` is a row), T tracks of
a session, N tracks, F features.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32, Int, Int64

from segue.picking.places import are_in
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
_MOST_ENTRIES = 8192
"""Entries of profiles that are scored together: they stay in the cache."""
_SPANS = np.array([DAY_MS / 24, DAY_MS, 7 * DAY_MS], np.float32)


def past_of(profiles: np.ndarray, heard: Int[np.ndarray, "S T"]) -> np.ndarray:
    """Profiles without the tracks that the present session has heard, S × P.

    Args:
        profiles: of the listener of each session, with rows of tracks; -1 for a track that is not in the catalogue.
        heard: rows of the tracks that each session has heard; -1 for none.
    """
    past = np.empty(profiles.shape, ENTRY)
    past.view(np.uint8)[...] = np.ascontiguousarray(profiles).view(np.uint8)  # records are copied field by field
    leave_out(past, heard)
    return past


def leave_out(profiles: np.ndarray, heard: Int[np.ndarray, "S T"]) -> None:
    """As `past_of`, in place.

    Args:
        profiles: as for `past_of`.
        heard: as for `past_of`.
    """
    track = profiles["track"].astype(np.int32)
    np.putmask(profiles["plays"], (track < 0) | are_in(track, heard.astype(np.int32)), 0)


def favourites(past: np.ndarray, most: int = MOST_FAVOURITES) -> Int64[np.ndarray, "S f"]:
    """The tracks of each listener with the largest sums of shares played.

    Args:
        past: see `past_of`.
        most: number of tracks, at most.

    Returns:
        Their rows, the largest sum first; -1 fills up.
    """
    sums = np.where(past["plays"] > 0, past["shares"], np.float32(0)) + np.float32(0)  # without −0
    # as integers, positive numbers have the same order; keys of 64 bits are sorted in a third of the time of argsort
    keys = (-sums.view(np.int32).astype(np.int64) << _PLACE_BITS) | np.arange(sums.shape[1])
    if keys.shape[1] > most:
        keys = np.partition(keys, most - 1, axis=1)[:, :most]
    keys.sort(axis=1)
    return np.where(keys < 0, np.take_along_axis(past["track"], keys & (2**_PLACE_BITS - 1), 1), -1)


def features_of(
    past: np.ndarray, now_ms: Int64[np.ndarray, "S"], artist_of: Int[np.ndarray, "N"]
) -> tuple[Float32[np.ndarray, "S P F"], Int64[np.ndarray, "S P"]]:
    """The features of the tracks of profiles, and those of their artists.

    Args:
        past: see `past_of`.
        now_ms: the time, for each session.
        artist_of: row of the artist of each track.

    Returns:
        The features; those of an artist are the same for all of its entries. And the artist of each entry; -1 for an
        empty one, whose features are 0.
    """
    place, of_entries, of_each = _features(past, now_ms, artist_of)
    found = np.zeros((past.size, len(FEATURES)), np.float32)
    artists = np.full(past.size, -1)
    found[place], artists[place] = of_entries.T, of_each
    return found.reshape(*past.shape, len(FEATURES)), artists.reshape(past.shape)


def _features(
    past: np.ndarray, now_ms: Int64[np.ndarray, "S"], artist_of: Int[np.ndarray, "N"]
) -> tuple[Int64[np.ndarray, "E"], Float32[np.ndarray, "F E"], Int64[np.ndarray, "E"]]:
    """The places of entries that are not empty, in all profiles one after another; their features and artists."""
    flat = past.reshape(-1)
    place = np.flatnonzero(flat["plays"] > 0)
    line, num = place // past.shape[1], len(place)
    track, last_ms, plays, shares = (flat[name].take(place) for name in ("track", "last_ms", "plays", "shares"))
    elapsed = np.maximum(now_ms.take(line) - last_ms, 0).astype(np.float32)
    found = np.empty((len(FEATURES), num), np.float32)
    found[0], found[2] = 1, shares / plays
    np.exp(elapsed / -_SPANS[:, None], out=found[3:6])
    (cosine, sine), hours = hour_of(now_ms).T, flat["hour"]
    found[6] = (hours[:, 0].take(place) * cosine.take(line) + hours[:, 1].take(place) * sine.take(line)) / plays
    left = remaining(elapsed)
    plays *= left
    shares *= left
    np.log1p(plays, out=found[1])
    artists = artist_of.take(track).astype(np.int64)
    # one entry of each artist of a session stands for all of them; nothing else of the array is read
    keys = line * (int(artist_of.max(initial=0)) + 1) + artists
    first = np.empty(int(keys.max(initial=-1)) + 1, np.int32)
    first[keys] = np.arange(num, dtype=np.int32)
    same = first.take(keys).astype(np.intp)
    of_plays, of_shares = np.bincount(same, plays, num), np.bincount(same, shares, num)
    newest = np.zeros(num, np.float32)
    np.maximum.at(newest, same, found[4])
    found[7], found[9] = np.log1p(of_plays).take(same), newest.take(same)
    found[8] = (of_shares / np.maximum(of_plays, 1e-9)).take(same)
    return place, found, artists


class ListenerScores:
    """The listener's part of the scores of candidates.

    Args:
        weights: of the features, in the unit of the scores of the head.
        artist_of: row of the artist of each track.
    """

    def __init__(self, weights: Float32[np.ndarray, "F"], artist_of: Int[np.ndarray, "N"]) -> None:
        self._weights, self._artist_of = weights, artist_of
        # what is added for a track, and, after those of all tracks, for an artist
        self._place_of = (artist_of + len(artist_of)).astype(np.intp)
        self._added = np.zeros(len(artist_of) + int(artist_of.max(initial=-1)) + 1, np.float32)

    def add(
        self,
        scores: Float32[np.ndarray, "S C"],
        candidates: Int[np.ndarray, "S C"],
        past: np.ndarray,
        now_ms: Int64[np.ndarray, "S"],
    ) -> None:
        """Add the listener's part to scores, in place.

        Args:
            scores: of the candidates of each session.
            candidates: rows; negative ones get any number.
            past: see `past_of`.
            now_ms: the time, for each session.
        """
        block = max(1, _MOST_ENTRIES // max(1, past.shape[1]))
        for first in range(0, len(past), block):
            some = slice(first, first + block)
            self._add(scores[some], candidates[some], past[some], now_ms[some])

    def _add(
        self,
        scores: Float32[np.ndarray, "S C"],
        candidates: Int[np.ndarray, "S C"],
        past: np.ndarray,
        now_ms: Int64[np.ndarray, "S"],
    ) -> None:
        place, features, artists = _features(past, now_ms, self._artist_of)
        num = len(OF_TRACK)
        values = np.stack([self._weights[:num] @ features[:num], self._weights[num:] @ features[num:]], 1).ravel()
        places = np.stack([past.reshape(-1)["track"].take(place), artists + len(self._artist_of)], 1).ravel()
        asked = np.stack([candidates.astype(np.intp), self._place_of.take(candidates, mode="clip")], 1)
        ends = 2 * place.searchsorted(np.arange(1, len(past) + 1) * past.shape[1])
        first = 0
        for session, end in enumerate(ends.tolist()):
            self._added[places[first:end]] = values[first:end]
            of_track, of_artist = self._added.take(asked[session], mode="clip")
            scores[session] += of_track + of_artist
            self._added[places[first:end]] = 0
            first = end


def is_known(past: np.ndarray, candidates: Int[np.ndarray, "S C"]) -> Bool[np.ndarray, "S C"]:
    """Whether the listener has played each candidate to a share of at least `LOVED` in an earlier session.

    Args:
        past: see `past_of`.
        candidates: rows; -1 for none.
    """
    line, place = ((past["plays"] > 0) & (past["best"] >= LOVED)).nonzero()
    loved, ends = past["track"][line, place], np.searchsorted(line, np.arange(1, len(past) + 1))
    is_loved = np.zeros(max(int(candidates.max(initial=-1)), int(loved.max(initial=-1))) + 2, bool)  # the last one: -1
    found, first = np.zeros(candidates.shape, bool), 0
    for session, end in enumerate(ends.tolist()):
        is_loved[loved[first:end]] = True
        found[session] = is_loved[candidates[session]]
        is_loved[loved[first:end]], first = False, end
    return found


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
