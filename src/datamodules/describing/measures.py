"""The numbers of a description: sizes, distributions, repeats, popularity, shares played.

S sessions, E events, L listeners, N tracks, A artists, n values. No number is about one user by name: listeners are
numbered 1, 2, … in the order of their ids.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int64, Shaped

from segue.catalog import Catalog
from segue.datamodules.describing.attribute_measures import AttributeFacts, measure_attributes
from segue.datamodules.describing.clock import Clock, measure_clock
from segue.datamodules.describing.examples import ExampleSession, first_sessions, title_of
from segue.datamodules.describing.floors import HeldOut, measure_test
from segue.datamodules.describing.material import Material, Splits

NUM_BINS = 20
"""Number of bins of the histogram of shares."""
NUM_POINTS = 60
"""Largest number of points of the popularity curve."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A distribution in six numbers.

    Args:
        mean: the mean.
        least: smallest value.
        median: half of the values are at most this.
        high: 95 of 100 values are at most this.
        most: largest value.
        counts: number of values in [2^0, 2^1), [2^1, 2^2), and so on; values below 1 are in the first.
    """

    mean: float
    least: float
    median: float
    high: float
    most: float
    counts: list[int]


@dataclass(frozen=True, kw_only=True)
class Repeats:
    """How often tracks are repeated, as shares in [0, 1].

    Args:
        in_session: share of the plays whose track was played before in the same session.
        by_listener: share of the plays whose track the same listener has more than once, without the first of each.
        self_pairs: share of the plays whose track is the one just played, among plays that are not the first of their
            session.
    """

    in_session: float
    by_listener: float
    self_pairs: float


@dataclass(frozen=True, kw_only=True)
class Popularity:
    """How unequal the plays of tracks are.

    Args:
        top_track: name of the most played track.
        top_share: share of the plays that it has.
        top_hundredth_share: share of the plays that the most played hundredth of the tracks has.
        half: smallest number of tracks that together have half of the plays.
        curve: rank by plays and plays, for some ranks from 1.
    """

    top_track: str
    top_share: float
    top_hundredth_share: float
    half: int
    curve: list[tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class Shares:
    """The share of a track that was played, over the plays where it is known.

    Args:
        known: share of the plays where it is known.
        mean: mean share.
        at_zero: how many of the known ones are 0, as a share.
        at_one: how many of the known ones are 1, as a share.
        commonest: the value that occurs most often.
        at_commonest: how many of the known ones have it, as a share.
        histogram: number of plays in each of NUM_BINS equal bins of [0, 1].
    """

    known: float
    mean: float
    at_zero: float
    at_one: float
    commonest: float
    at_commonest: float
    histogram: list[int]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Everything that is measured; `describe.json` has it under these names.

    Args:
        num_rows: rows in the files.
        num_events: plays that were read.
        num_rejected: rows that were rejected.
        num_users: listeners, or playlists where the source has these.
        num_sessions: sessions.
        num_tracks: tracks of the catalogue.
        num_played_tracks: tracks that are played.
        num_artists: artists of the catalogue.
        nameless_share: share of the tracks of the catalogue that have no artist.
        are_playlists: whether each session is a user of its own and there is no clock.
        single_play_users: share of the users with exactly one play.
        single_play_sessions: share of the sessions with exactly one play.
        single_session_users: share of the users with exactly one session.
        session_length: tracks in a session.
        plays_of_user: plays of a user.
        sessions_of_user: sessions of a user.
        plays_of_track: plays of a track, over played tracks.
        tracks_of_artist: tracks of an artist.
        pairs_of_track: training pairs of a track, over tracks that have any; None without splits.
        repeats: how often tracks are repeated.
        popularity: how unequal the plays of tracks are.
        attributes: what else is known of the tracks of the catalogue.
        shares: shares played; None where none is known.
        clock: times; None where the source has no clock.
        splits: the content of each split; None where there are too few pairs.
        test: the test set; None without splits.
        first_sessions: the first sessions as they were read.
    """

    num_rows: int
    num_events: int
    num_rejected: int
    num_users: int
    num_sessions: int
    num_tracks: int
    num_played_tracks: int
    num_artists: int
    nameless_share: float
    are_playlists: bool
    single_play_users: float
    single_play_sessions: float
    single_session_users: float
    session_length: Spread
    plays_of_user: Spread
    sessions_of_user: Spread
    plays_of_track: Spread
    tracks_of_artist: Spread
    pairs_of_track: Spread | None
    repeats: Repeats
    popularity: Popularity
    attributes: list[AttributeFacts]
    shares: Shares | None
    clock: Clock | None
    splits: dict[str, dict[str, int | None]] | None
    test: HeldOut | None
    first_sessions: list[ExampleSession]

    def profile(self) -> dict[str, Any]:
        """The numbers alone, without any play of anybody: what MLflow gets of the data of a run.

        Returns:
            Nested dicts and lists.
        """
        return {name: value for name, value in asdict(self).items() if name != "first_sessions"}


def measure(material: Material, *, max_test_queries: int | None, num_sessions: int, num_plays: int) -> Facts:
    """Measure a source.

    Args:
        material: the source, with at least one play.
        max_test_queries: rank a sample of sessions with at most this many queries, as a run does; None for all.
        num_sessions: number of sessions to show as they were read.
        num_plays: number of plays to show of each.

    Returns:
        Its numbers.
    """
    sessions, catalog, splits = material.sessions, material.catalog, material.splits
    listens, listener = sessions.listens, sessions.listener[sessions.listens.session]
    plays = np.bincount(listens.track, minlength=len(catalog))
    lengths = np.bincount(listens.session)
    by_user, sessions_by_user = _num_of_each(listener), _num_of_each(sessions.listener)
    return Facts(
        num_rows=material.reading.num_rows,
        num_events=len(listens.track),
        num_rejected=material.reading.num_rejected,
        num_users=len(by_user),
        num_sessions=len(sessions),
        num_tracks=len(catalog),
        num_played_tracks=int((plays > 0).sum()),
        num_artists=catalog.num_artists,
        nameless_share=_share(catalog.artists[catalog.artist_of] == ""),
        are_playlists=not sessions.has_clock and len(by_user) == len(sessions),
        single_play_users=float((by_user == 1).mean()),
        single_play_sessions=float((lengths == 1).mean()),
        single_session_users=float((sessions_by_user == 1).mean()),
        session_length=spread(lengths),
        plays_of_user=spread(by_user),
        sessions_of_user=spread(sessions_by_user),
        plays_of_track=spread(plays[plays > 0]),
        tracks_of_artist=spread(np.bincount(catalog.artist_of)),
        pairs_of_track=None if splits is None else _pairs_of_track(splits),
        repeats=_repeats(listens.session, listener, listens.track, sessions.place > 0, num_tracks=len(catalog)),
        popularity=_popularity(plays, catalog),
        attributes=measure_attributes(catalog.attributes),
        shares=_shares(listens.played_ratio),
        clock=measure_clock(sessions, listener) if sessions.has_clock else None,
        splits=None if splits is None else {name: dict(counts) for name, counts in splits.counts.items()},
        test=None if splits is None else measure_test(splits, max_queries=max_test_queries),
        first_sessions=first_sessions(sessions, catalog, num_sessions=num_sessions, num_plays=num_plays),
    )


def spread(values: Int64[np.ndarray, "n"]) -> Spread:
    """Summarise some values.

    Args:
        values: at least one, each at least 0.

    Returns:
        Their distribution; quantiles are values that occur.

    >>> spread(np.array([1, 1, 2, 8])).counts
    [2, 1, 0, 1]
    """
    median, high = np.quantile(values, (0.5, 0.95), method="inverted_cdf").tolist()
    exponents = np.frexp(np.maximum(values, 1).astype(np.float64))[1] - 1
    return Spread(
        mean=float(values.mean()),
        least=float(values.min()),
        median=float(median),
        high=float(high),
        most=float(values.max()),
        counts=np.bincount(exponents).tolist(),
    )


def name_of(row: int, catalog: Catalog) -> str:
    """A track as a person reads it: title and artist, or its id."""
    artist = str(catalog.artists[catalog.artist_of[row]])
    return title_of(row, catalog) + f" by {artist}" * bool(artist)


def _num_of_each(listener: Int64[np.ndarray, "n"]) -> Int64[np.ndarray, "L"]:
    """How often each listener occurs, without those that a policy left out."""
    counts = np.bincount(listener)
    return counts[counts > 0]


def _pairs_of_track(splits: Splits) -> Spread:
    pairs = splits.vocabulary.previous_counts + splits.vocabulary.next_counts
    return spread(pairs[pairs > 0])


def _num_distinct(group: Int64[np.ndarray, "E"], track: Int64[np.ndarray, "E"], num_tracks: int) -> int:
    """Number of different tracks of each group, summed over the groups; at least one event."""
    keys = np.sort(group * num_tracks + track)  # np.unique, which hashes, takes ten times as long
    return int(np.count_nonzero(np.diff(keys))) + 1


def _repeats(
    session: Int64[np.ndarray, "E"],
    listener: Int64[np.ndarray, "E"],
    track: Int64[np.ndarray, "E"],
    follows: Bool[np.ndarray, "E"],
    *,
    num_tracks: int,
) -> Repeats:
    num = len(track)
    same = follows[1:] & (track[1:] == track[:-1])
    return Repeats(
        in_session=1 - _num_distinct(session, track, num_tracks) / num,
        by_listener=1 - _num_distinct(listener, track, num_tracks) / num,
        self_pairs=float(same.sum() / max(follows.sum(), 1)),
    )


def _popularity(plays: Int64[np.ndarray, "N"], catalog: Catalog) -> Popularity:
    played = np.sort(plays[plays > 0])[::-1]
    cumulative = played.cumsum()
    ranks = np.unique(np.geomspace(1, len(played), NUM_POINTS).round().astype(int))
    top = int(plays.argmax())
    return Popularity(
        top_track=name_of(top, catalog),
        top_share=float(played[0] / cumulative[-1]),
        top_hundredth_share=float(cumulative[max(round(len(played) / 100), 1) - 1] / cumulative[-1]),
        half=int(np.searchsorted(cumulative, cumulative[-1] / 2)) + 1,
        curve=[(int(rank), int(played[rank - 1])) for rank in ranks],
    )


def _shares(played_ratio: Float32[np.ndarray, "E"]) -> Shares | None:
    known = played_ratio[~np.isnan(played_ratio)]
    if not len(known):
        return None
    values, counts = np.unique(known, return_counts=True)
    commonest = int(counts.argmax())
    return Shares(
        known=len(known) / len(played_ratio),
        mean=float(known.mean(dtype=np.float64)),
        at_zero=_share(known == 0),
        at_one=_share(known == 1),
        commonest=float(values[commonest]),
        at_commonest=float(counts[commonest] / len(known)),
        histogram=np.histogram(known, NUM_BINS, (0, 1))[0].tolist(),
    )


def _share(chosen: Shaped[np.ndarray, "n"]) -> float:
    return float(chosen.mean())
