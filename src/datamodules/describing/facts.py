"""The numbers of a source: sizes, distributions, repeats, popularity, shares played, times, the test set.

S sessions, E events, L listeners, N tracks, n values. No number is about one user by name: listeners are numbered 1, 2,
… in the order of their ids.
"""

import json
from itertools import pairwise
from math import isfinite
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64
from scipy.special import xlogy

from segue.catalog import Catalog, changes
from segue.datamodules.pairs.sessions import DAY_MS, Sessions
from segue.datamodules.pairs.split_pairs import SplitPairs
from segue.models.retrieval.ranks import ranks_by_plays
from segue.reports.numbers import utc
from segue.statistics import ranking

Facts = dict[str, Any]
"""Numbers by name; `describe.json` has them."""
PLAYS_OF_A_MACHINE = 1000
"""Plays of a listener on one day: a play every 86 seconds, day and night."""
_NUM_POINTS = 60  # most points of the popularity curve
_MAX_QUERIES = 50_000  # test queries that are ranked by plays for the profile of a run
MAX_PLAYS = 30_000_000
"""A training does not measure data with more plays, which takes much memory."""


def profile_of(data: SplitPairs) -> Facts:
    """What MLflow gets of the data of a run: the facts, under the name `description`, without a play of anybody.

    Args:
        data: what was read. Very large data have no description.
    """
    if len(data.sessions.listens.track) > MAX_PLAYS:
        return {}
    return {"description": {**measure(data), **measure_splits(data, max_queries=_MAX_QUERIES)}}


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


def measure_splits(data: SplitPairs, *, max_queries: int | None) -> Facts:
    """Measure the splits, what is new in the test set, and the scores of rules without learning.

    Args:
        data: what was read.
        max_queries: rank a sample of sessions with at most this many queries, as a run does; None for all.

    Returns:
        `pairs_of_track`: training pairs of a track, over tracks that have any; `splits`: the content of each; `test`:
            `cold_tracks` and `cold_pairs`, share of its tracks that no training session plays, and of its pairs with
            such a track; `mean_mse` and `mean_bce`, squared error and cross-entropy (in nats; None where it is
            infinite) of the mean share of training for every pair, None where no share is known;
            `popular_recall_at_10` and `popular_ndcg_at_10` of the most played tracks, None without queries;
            `num_queries`, number of pairs that were ranked for this.
    """
    test, words = data.pairs["test"], data.vocabulary
    is_new, mean, pairs = words.plays == 0, words.mean_played_ratio, words.previous_counts + words.next_counts
    known = test.played_ratio[~np.isnan(test.played_ratio)]
    queries = test.where(ranking.is_query(test.previous, test.following, test.played_ratio))
    if max_queries is not None and len(queries):
        queries = queries.where(ranking.sample_sessions(queries.session, max_queries))
    metrics: dict[Any, float] = {}
    if len(queries):
        metrics = ranking.accuracy(ranks_by_plays(words.plays, queries.previous, queries.following)).mean().to_dict()
    found = {
        "cold_tracks": float(is_new[np.union1d(test.previous, test.following)].mean()),
        "cold_pairs": float((is_new[test.previous] | is_new[test.following]).mean()),
        **(constant_scores(mean, known) if mean is not None and len(known) else {"mean_mse": None, "mean_bce": None}),
        **{f"popular_{name}": metrics.get(name) for name in ("recall_at_10", "ndcg_at_10")},
        "num_queries": len(queries),
    }
    splits = json.loads(data.sizes.drop(index="all", columns="rejected").to_json(orient="index"))
    return {"pairs_of_track": spread(pairs[pairs > 0]), "splits": splits, "test": found}


def constant_scores(predicted: float, shares: Float32[np.ndarray, "n"]) -> dict[str, float | None]:
    """Squared error and cross-entropy (in nats) of one prediction for all shares; None where it is infinite.

    >>> constant_scores(0.5, np.array([0.0, 1.0], np.float32))
    {'mean_mse': 0.25, 'mean_bce': 0.6931471805599453}
    """
    errors = (shares.astype(np.float64) - predicted) ** 2
    mean = float(shares.mean(dtype=np.float64))
    bce = -float(xlogy(mean, predicted) + xlogy(1 - mean, 1 - predicted)) + 0.0
    return {"mean_mse": float(errors.mean()), "mean_bce": bce if isfinite(bce) else None}
