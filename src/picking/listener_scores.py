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
from segue.runs.profiles import DAY_MS, LOVED, hour_of, remaining

OF_TRACK = ("heard", "plays", "share", "last_hour", "last_day", "last_week", "same_hour")
"""Features of a track that was heard: 1; log(1 + its plays); its mean share; how recent its last play is, exp(−t / 1
hour), for a day and for a week; and how near the hours of its plays are to this hour of the day, in [-1, 1]."""
OF_ARTIST = ("artist_plays", "artist_share", "artist_day")
"""Features of a track by an artist that was heard: log(1 + the plays); the mean share; and exp(−t / 1 day)."""
FEATURES = OF_TRACK + OF_ARTIST
"""Names of the features, in the order of their weights."""
MOST_FAVOURITES = 50
"""Tracks of a listener's past that are candidates, at most."""
_SPANS = np.array([DAY_MS / 24, DAY_MS, 7 * DAY_MS], np.float32)


def past_of(profiles: np.ndarray, heard: Int[np.ndarray, "S T"]) -> np.ndarray:
    """Profiles without the tracks that the present session has heard, S × P.

    Args:
        profiles: of the listener of each session, with rows of tracks; -1 for a track that is not in the catalogue.
        heard: rows of the tracks that each session has heard; -1 for none.
    """
    past = profiles.copy()
    past["plays"][(past["track"] < 0) | are_in(past["track"], heard)] = 0
    return past


def favourites(past: np.ndarray, most: int = MOST_FAVOURITES) -> Int64[np.ndarray, "S f"]:
    """The tracks of each listener with the largest sums of shares played.

    Args:
        past: see `past_of`.
        most: number of tracks, at most.

    Returns:
        Their rows, the largest sum first; -1 fills up.
    """
    sums = np.where(past["plays"] > 0, past["shares"], -1)
    order = np.argsort(-sums, axis=1, kind="stable")[:, :most]
    return np.where(np.take_along_axis(sums, order, 1) > 0, np.take_along_axis(past["track"], order, 1), -1)


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
    is_there = past["plays"] > 0
    elapsed = np.maximum(now_ms[:, None] - past["last_ms"], 0)
    left = remaining(elapsed)
    plays, shares = past["plays"] * left, past["shares"] * left
    artists = np.where(is_there, artist_of.take(past["track"], mode="clip"), -1).astype(np.int64)
    line, place = np.arange(len(past))[:, None].repeat(past.shape[1], 1)[is_there], is_there.nonzero()[1]
    keys, of_key = np.unique(line * (len(artist_of) + 1) + artists[is_there], return_inverse=True)
    sums = np.stack([np.bincount(of_key, one[is_there], len(keys)) for one in (plays, shares)], 1)
    newest = np.full(len(keys), np.iinfo(np.int64).max)
    np.minimum.at(newest, of_key, elapsed[is_there])
    recent = np.exp(-(elapsed[..., None] / _SPANS))
    same_hour = (past["hour"] * hour_of(now_ms)[:, None]).sum(-1)
    divisor = np.where(is_there, past["plays"], 1)
    own = [np.ones(past.shape), np.log1p(plays), past["shares"] / divisor, *np.moveaxis(recent, -1, 0)]
    found = np.zeros((*past.shape, len(FEATURES)), np.float32)
    found[..., : len(OF_TRACK)] = np.stack([*own, same_hour / divisor], -1) * is_there[..., None]
    of_artist = np.stack([np.log1p(sums[:, 0]), sums[:, 1] / np.maximum(sums[:, 0], 1e-9), np.exp(-newest / DAY_MS)], 1)
    found[line, place, len(OF_TRACK) :] = of_artist[of_key]
    return found, artists


class ListenerScores:
    """The listener's part of the scores of candidates.

    Args:
        weights: of the features, in the unit of the scores of the head.
        artist_of: row of the artist of each track.
    """

    def __init__(self, weights: Float32[np.ndarray, "F"], artist_of: Int[np.ndarray, "N"]) -> None:
        self._weights, self._artist_of = weights, artist_of
        self._of_track = np.zeros(len(artist_of) + 1, np.float32)  # the last one is for -1
        self._of_artist = np.zeros(int(artist_of.max(initial=-1)) + 2, np.float32)

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
        features, artists = features_of(past, now_ms, self._artist_of)
        tracks = np.where(artists < 0, -1, past["track"])
        num = len(OF_TRACK)
        of_track, of_artist = features[..., :num] @ self._weights[:num], features[..., num:] @ self._weights[num:]
        artist_of = np.where(candidates < 0, -1, self._artist_of.take(candidates, mode="clip"))
        for session in range(len(past)):
            self._of_track[tracks[session]], self._of_artist[artists[session]] = of_track[session], of_artist[session]
            scores[session] += self._of_track[candidates[session]] + self._of_artist[artist_of[session]]
            self._of_track[tracks[session]], self._of_artist[artists[session]] = 0, 0


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
