"""The numbers of a source: sizes, distributions, repeats, popularity, shares played, times, the test set.

S sessions, E events, L listeners, N tracks, n values. No number is about one user by name: listeners are numbered 1, 2,
… in the order of their ids.
"""

import json
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from segue.catalog import Catalog, changes
from segue.datamodules.pairs.sessions import DAY_MS, Sessions
from segue.datamodules.pairs.split_pairs import SplitPairs
from segue.reports.numbers import utc

Facts = dict[str, Any]
"""Numbers by name; `describe.json` has them."""
PLAYS_OF_A_MACHINE = 1000
"""Plays of a listener on one day: a play every 86 seconds, day and night."""
_NUM_POINTS = 60  # most points of the popularity curve
MAX_PLAYS = 30_000_000
"""A training does not measure data with more plays, which takes much memory."""


def profile_of(data: SplitPairs) -> Facts:
    """What MLflow gets of the data of a run: the facts, under the name `description`, without a play of anybody.

    Args:
        data: what was read. Very large data have no description.
    """
    if len(data.sessions.listens.track) > MAX_PLAYS:
        return {}
    return {"description": {**measure(data), **measure_splits(data)}}


def measure(data: SplitPairs) -> Facts:
    """Measure what was read: at least one play.

    Args:
        data: what was read, even if `setup` ended with a refusal to split so few sessions.
    """
    sessions, catalog, listens = data.sessions, data.catalog, data.sessions.listens
    plays, lengths = np.bincount(listens.track, minlength=len(catalog)), np.bincount(listens.session)
    return {
        "num_rows": data.reading.num_rows,
        "num_rejected": data.reading.num_rejected,
        **measure_sessions(sessions),
        "num_tracks": len(catalog),
        "num_played_tracks": int((plays > 0).sum()),
        "num_artists": catalog.num_artists,
        "single_play_sessions": float((lengths == 1).mean()),
        "session_length": spread(lengths),
        "plays_of_track": spread(plays[plays > 0]),
        "tracks_of_artist": spread(np.bincount(catalog.artist_of)),
        "repeats": _repeats(sessions, len(catalog)),
        "popularity": _popularity(plays, catalog),
    }


def measure_sessions(sessions: Sessions) -> Facts:
    """The part of the facts that warnings look at."""
    listener = sessions.listener[sessions.listens.session]
    plays, num_sessions = (counts[counts > 0] for counts in map(np.bincount, (listener, sessions.listener)))
    return {
        "num_events": len(listener),
        "num_users": len(plays),
        "num_sessions": len(sessions),
        "are_playlists": not sessions.has_clock and len(plays) == len(sessions),
        "single_play_users": float((plays == 1).mean()),
        "single_session_users": float((num_sessions == 1).mean()),
        "plays_of_user": spread(plays),
        "sessions_of_user": spread(num_sessions),
        "shares": _shares(sessions.listens.played_ratio),
        "clock": _clock(sessions.timestamp, listener) if sessions.has_clock else None,
    }


def spread(values: Int64[np.ndarray, "n"]) -> dict[str, Any]:
    """The distribution of some values, at least one: quantiles are values that occur.

    Returns:
        `mean`, `least`, `median`, `high` (95 of 100 values are at most this), `most`; and `counts`: number of values in
            [2^0, 2^1), [2^1, 2^2), and so on; values below 1 are in the first.

    >>> spread(np.array([1, 1, 2, 8]))["counts"]
    [2, 1, 0, 1]
    """
    median, high = np.quantile(values, (0.5, 0.95), method="inverted_cdf").tolist()
    numbers = {"mean": values.mean(), "least": values.min(), "median": median, "high": high, "most": values.max()}
    powers = np.frexp(np.maximum(values, 1).astype(np.float64))[1] - 1
    return {name: float(value) for name, value in numbers.items()} | {"counts": np.bincount(powers).tolist()}


def _repeats(sessions: Sessions, num_tracks: int) -> dict[str, float]:
    """How often tracks are repeated.

    Returns:
        `in_session`: share of the plays whose track was played before in the same session; `by_listener`: share of the
            plays whose track the same listener has more than once, without the first of each; `self_pairs`: share of
            the plays whose track is the one just played, among plays that are not the first of their session.
    """
    track, session, follows = sessions.listens.track, sessions.listens.session, sessions.place > 0

    def again(group: Int64[np.ndarray, "E"]) -> float:
        keys = np.sort(group * num_tracks + track)  # np.unique, which hashes, takes ten times as long
        return 1 - (int(np.count_nonzero(np.diff(keys))) + 1) / len(track)

    of_itself = (follows[1:] & (track[1:] == track[:-1])).sum() / max(follows.sum(), 1)
    by_listener = again(sessions.listener[session])
    return {"in_session": again(session), "by_listener": by_listener, "self_pairs": float(of_itself)}


def _popularity(plays: Int64[np.ndarray, "N"], catalog: Catalog) -> dict[str, Any]:
    """How unequal the plays of tracks are.

    Returns:
        `top_track` and `top_share`: the most played track, and its share of the plays; `half`: smallest number of
            tracks that together have half of the plays; `curve`: rank by plays and plays, for some ranks from 1.
    """
    played = np.sort(plays[plays > 0])[::-1]
    cumulative, top = played.cumsum(), int(plays.argmax())
    ranks = np.unique(np.geomspace(1, len(played), _NUM_POINTS).round().astype(int))
    artist = str(catalog.artists[catalog.artist_of[top]])
    return {
        "top_track": _title_of(top, catalog) + f" by {artist}" * bool(artist),
        "top_share": float(played[0] / cumulative[-1]),
        "half": int(np.searchsorted(cumulative, cumulative[-1] / 2)) + 1,
        "curve": [(int(rank), int(played[rank - 1])) for rank in ranks],
    }


def _shares(played_ratio: Float32[np.ndarray, "E"]) -> dict[str, float] | None:
    """The share of a track that was played, over the plays where it is known; None where it never is.

    Returns:
        `known`: share of the plays where it is; `mean`; `at_zero` and `at_one`: share of these plays with 0 and 1;
            `commonest` and `at_commonest`: the commonest value, and the share of them with it.
    """
    known = played_ratio[~np.isnan(played_ratio)]
    if not len(known):
        return None
    values, counts = np.unique(known, return_counts=True)
    return {
        "known": len(known) / len(played_ratio),
        "mean": float(known.mean(dtype=np.float64)),
        "at_zero": float((known == 0).mean()),
        "at_one": float((known == 1).mean()),
        "commonest": float(values[counts.argmax()]),
        "at_commonest": float(counts.max() / len(known)),
    }


def _clock(time: Int64[np.ndarray, "E"], listener: Int64[np.ndarray, "E"]) -> dict[str, Any]:
    """The times of the plays, in milliseconds since 1970.

    Returns:
        `first` and `last`: times of these plays, in UTC; `median_ms`; `span_days`: days between them; `ties`: share of
            the plays that have the same time as another, earlier play of the same listener in the file;
            `machines` and `plays_of_machines`: listeners
            with `PLAYS_OF_A_MACHINE` on one day, and their share of the plays; `gaps`: number of pauses between
            successive plays of a listener in [2^0, 2^1) seconds, and so on; `median_gap_s`: their median, None without
            any.
    """
    order = np.lexsort((time, listener))
    of, at = listener[order], time[order]
    pauses = np.diff(at)[of[1:] == of[:-1]]
    begins = np.flatnonzero(changes(of, at // DAY_MS))
    machines = np.unique(of[begins[np.diff(begins, append=len(of)) >= PLAYS_OF_A_MACHINE]])
    first, last = int(time.min()), int(time.max())
    return {
        "first": utc(first),
        "last": utc(last),
        "median_ms": int(np.partition(time, len(time) // 2)[len(time) // 2]),
        "span_days": (last - first) / DAY_MS,
        "ties": float((pauses == 0).sum() / len(time)),
        "machines": len(machines),
        "plays_of_machines": float(np.isin(of, machines).mean()),
        "gaps": spread(pauses // 1000)["counts"] if len(pauses) else [],
        "median_gap_s": float(np.median(pauses) / 1000) if len(pauses) else None,
    }


def first_sessions(data: SplitPairs, *, num_sessions: int, num_plays: int) -> list[dict[str, Any]]:
    """The first sessions of a source as they were read, in the order in which they started.

    Returns:
        Of each `listener`, its number from 1 in the order of the ids; `num_plays`, the number of plays; and `plays`,
            the first of them with `time` in UTC (None without a clock), `title` (or the id), `artist`, `share`.
    """
    sessions, catalog, listens = data.sessions, data.catalog, data.sessions.listens

    def play(event: int) -> dict[str, Any]:
        track, share = int(listens.track[event]), float(listens.played_ratio[event])
        return {
            "time": utc(int(sessions.timestamp[event])) if sessions.has_clock else None,
            "title": _title_of(track, catalog),
            "artist": str(catalog.artists[catalog.artist_of[track]]),
            "share": None if np.isnan(share) else round(share, 4),
        }

    shown = min(num_sessions, len(sessions))
    ends = np.searchsorted(listens.session, np.arange(shown + 1)).tolist()
    return [
        {
            "listener": int(sessions.listener[number]) + 1,
            "num_plays": end - start,
            "plays": [play(event) for event in range(start, min(end, start + num_plays))],
        }
        for number, (start, end) in enumerate(pairwise(ends))
    ]


def _title_of(row: int, catalog: Catalog) -> str:
    """Title of a track; where it has none, its id in the source."""
    return str(catalog.titles[row]) or f"track {catalog.track_ids[row]}"


def measure_splits(data: SplitPairs) -> Facts:
    """Measure the splits, and what is new in the test set.

    Returns:
        `pairs_of_track`: training pairs of a track, over tracks that have any; `splits`: the content of each; `test`:
            `cold_tracks` and `cold_pairs`, share of its tracks that no training session plays, and of its pairs with
            such a track.
    """
    test, words = data.pairs["test"], data.vocabulary
    is_new, pairs = words.plays == 0, words.previous_counts + words.next_counts
    found = {
        "cold_tracks": float(is_new[np.union1d(test.previous, test.following)].mean()),
        "cold_pairs": float((is_new[test.previous] | is_new[test.following]).mean()),
    }
    splits = json.loads(data.sizes.drop(index="all", columns="rejected").to_json(orient="index"))
    return {"pairs_of_track": spread(pairs[pairs > 0]), "splits": splits, "test": found}
