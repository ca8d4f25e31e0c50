"""What is described, and its numbers: sizes, distributions, repeats, popularity, shares played, the test set.

S sessions, E events, L listeners, N tracks, P pairs, n values. No number is about one user by name: listeners are
numbered 1, 2, … in the order of their ids.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int64

from segue.attributes import Attribute, Vectors
from segue.catalog import Catalog, Vocabulary
from segue.datamodules.describing.clock import Clock, by_powers_of_two, measure_clock, utc
from segue.datamodules.pairs.pairs import Pairs
from segue.datamodules.pairs.sessions import Sessions
from segue.datamodules.reading.table import Reading
from segue.datamodules.split_datamodule import SplitDataModule
from segue.models.retrieval.ranks import ranks_by_plays
from segue.statistics import ranking

# Beginnings of the remarks that say what no number says; shares that are all equal are a warning.
_REMARKS = ("aliases", "encoding", "files", "ids", "interleaved", "share played", "titles", "users")
NUM_BINS = 20
"""Number of bins of the histogram of shares."""
NUM_POINTS = 60
"""Largest number of points of the popularity curve."""
_MAX_QUERIES = 50_000  # test queries that are ranked by plays for the profile of a run
_MAX_PLAYS = 30_000_000  # data with more plays have no profile: measuring them takes much memory


@dataclass(frozen=True, eq=False, kw_only=True)
class Material:
    """A source as it was read.

    Args:
        reading: what became of its rows.
        dropped: number of events that each policy left out.
        pairs: its pairs by the name of the split; none where there are too few for every split.
        vocabulary: what the training pairs show; None without pairs.
        counts: the content of each split, by its name: numbers of events, sessions, pairs, tracks, artists.
        refusal: why there are no pairs; None where there are.
        remarks: what the datamodule reports beside its numbers.
    """

    catalog: Catalog
    sessions: Sessions
    reading: Reading
    dropped: Mapping[str, int]
    pairs: Mapping[str, Pairs] = field(default_factory=dict)
    vocabulary: Vocabulary | None = None
    counts: Mapping[str, Mapping[str, int | None]] | None = None
    refusal: str | None = None
    remarks: Sequence[str] = ()


def material_of(datamodule: SplitDataModule, *, refusal: str | None = None) -> Material:
    """What a datamodule has read.

    Args:
        datamodule: after `setup`, even if that ended with the refusal.
        refusal: why there are no pairs for each split; None where there are.
    """
    sessions = datamodule.sessions
    if (sessions.listens.played_ratio > 1).any():  # times, which are divided by the longest one only in pairs
        unknown = np.full(len(sessions.listens.track), np.nan, np.float32)
        sessions = replace(sessions, listens=replace(sessions.listens, played_ratio=unknown))
    read = {name: getattr(datamodule, name) for name in ("catalog", "reading", "dropped")}
    material = Material(**read, sessions=sessions, refusal=refusal)
    if refusal is not None:
        return material
    counts = {
        str(name): {str(key): None if pd.isna(value) else int(value) for key, value in row.items()}
        for name, row in datamodule.summary().drop(index="all", columns="rejected").iterrows()
    }
    remarks = [line for line in datamodule.remarks() if line.startswith(_REMARKS) and "nothing to predict" not in line]
    return replace(material, pairs=datamodule.pairs, vocabulary=datamodule.vocabulary, counts=counts, remarks=remarks)


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A distribution in six numbers.

    Args:
        median: half of the values are at most this.
        high: 95 of 100 values are at most this.
        counts: number of values in [2^0, 2^1), [2^1, 2^2), and so on; values below 1 are in the first.
    """

    mean: float
    least: float
    median: float
    high: float
    most: float
    counts: list[int]


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
        repeats: how often tracks are repeated; see `measure_repeats`.
        popularity: how unequal the plays of tracks are.
        attributes: what else is known of the tracks of the catalogue; see `measure_attribute`.
        shares: shares played; None where none is known.
        clock: times; None where the source has no clock.
        splits: the content of each split; None where there are too few pairs.
        test: the test set, see `measure_test`; None without splits.
        first_sessions: the first sessions as they were read; see `first_sessions`.
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
    repeats: dict[str, float]
    popularity: Popularity
    attributes: list[dict[str, Any]]
    shares: Shares | None
    clock: Clock | None
    splits: dict[str, dict[str, int | None]] | None
    test: dict[str, Any] | None
    first_sessions: list[dict[str, Any]]


def profile_of(datamodule: SplitDataModule) -> dict[str, Any]:
    """What MLflow gets of the data of a run: the facts, under the name `description`, without a play of anybody.

    Args:
        datamodule: after `setup`. Very large data have no description.
    """
    if len(datamodule.sessions.listens.track) > _MAX_PLAYS:
        return {}
    facts = asdict(measure(material_of(datamodule), max_test_queries=_MAX_QUERIES, num_sessions=0, num_plays=0))
    del facts["first_sessions"]
    return {"description": facts}


def measure(material: Material, *, max_test_queries: int | None, num_sessions: int, num_plays: int) -> Facts:
    """Measure a source.

    Args:
        material: the source, with at least one play.
        max_test_queries: rank a sample of sessions with at most this many queries, as a run does; None for all.
        num_sessions: number of sessions to show as they were read.
    """
    sessions, catalog, vocabulary = material.sessions, material.catalog, material.vocabulary
    listens, listener = sessions.listens, sessions.listener[sessions.listens.session]
    pairs = None if vocabulary is None else vocabulary.previous_counts + vocabulary.next_counts
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
        nameless_share=float((catalog.artists[catalog.artist_of] == "").mean()),
        are_playlists=not sessions.has_clock and len(by_user) == len(sessions),
        single_play_users=float((by_user == 1).mean()),
        single_play_sessions=float((lengths == 1).mean()),
        single_session_users=float((sessions_by_user == 1).mean()),
        session_length=spread(lengths),
        plays_of_user=spread(by_user),
        sessions_of_user=spread(sessions_by_user),
        plays_of_track=spread(plays[plays > 0]),
        tracks_of_artist=spread(np.bincount(catalog.artist_of)),
        pairs_of_track=None if pairs is None else spread(pairs[pairs > 0]),
        repeats=measure_repeats(sessions, listener, len(catalog)),
        popularity=_popularity(plays, catalog),
        attributes=[{"name": name, **measure_attribute(one)} for name, one in catalog.attributes.items()],
        shares=_shares(listens.played_ratio),
        clock=measure_clock(sessions, listener) if sessions.has_clock else None,
        splits=None if material.counts is None else {name: dict(of) for name, of in material.counts.items()},
        test=None if vocabulary is None else measure_test(material, max_queries=max_test_queries),
        first_sessions=first_sessions(sessions, catalog, num_sessions=num_sessions, num_plays=num_plays),
    )


def spread(values: Int64[np.ndarray, "n"]) -> Spread:
    """The distribution of some values; quantiles are values that occur.

    Args:
        values: at least one, each at least 0.
    """
    median, high = np.quantile(values, (0.5, 0.95), method="inverted_cdf").tolist()
    numbers = {"mean": values.mean(), "least": values.min(), "median": median, "high": high, "most": values.max()}
    return Spread(**{name: float(value) for name, value in numbers.items()}, counts=by_powers_of_two(values))


def _num_of_each(listener: Int64[np.ndarray, "n"]) -> Int64[np.ndarray, "L"]:
    """How often each listener occurs, without those that a policy left out."""
    counts = np.bincount(listener)
    return counts[counts > 0]


def measure_repeats(sessions: Sessions, listener: Int64[np.ndarray, "E"], num_tracks: int) -> dict[str, float]:
    """Measure how often tracks are repeated.

    Returns:
        `in_session`: share of the plays whose track was played before in the same session; `by_listener`: share of the
            plays whose track the same listener has more than once, without the first of each; `self_pairs`: share of
            the plays whose track is the one just played, among plays that are not the first of their session.
    """
    track, follows = sessions.listens.track, sessions.place > 0

    def share_of_repeats(group: Int64[np.ndarray, "E"]) -> float:
        """Share of the plays that are not the first one of their track in their group."""
        keys = np.sort(group * num_tracks + track)  # np.unique, which hashes, takes ten times as long
        return 1 - (int(np.count_nonzero(np.diff(keys))) + 1) / len(track)

    return {
        "in_session": share_of_repeats(sessions.listens.session),
        "by_listener": share_of_repeats(listener),
        "self_pairs": float((follows[1:] & (track[1:] == track[:-1])).sum() / max(follows.sum(), 1)),
    }


def _popularity(plays: Int64[np.ndarray, "N"], catalog: Catalog) -> Popularity:
    played = np.sort(plays[plays > 0])[::-1]
    cumulative = played.cumsum()
    ranks = np.unique(np.geomspace(1, len(played), NUM_POINTS).round().astype(int))
    top = int(plays.argmax())
    artist = str(catalog.artists[catalog.artist_of[top]])
    return Popularity(
        top_track=_title_of(top, catalog) + f" by {artist}" * bool(artist),
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
        at_zero=float((known == 0).mean()),
        at_one=float((known == 1).mean()),
        commonest=float(values[commonest]),
        at_commonest=float(counts[commonest] / len(known)),
        histogram=np.histogram(known, NUM_BINS, (0, 1))[0].tolist(),
    )


def measure_attribute(attribute: Attribute) -> dict[str, Any]:
    """Measure an attribute of tracks.

    Returns:
        `kind` (`values`, `number` or `vector`); `num_values`, the number of values that occur, and `width`, the number
            of columns, each None for the other kind; `coverage`, the share of the tracks that have something, and
            `nothing`, the share of the others; for values `values_per_track`, the mean number of values of the tracks
            that have some, and `commonest` and `commonest_share`, the value that most tracks have.
    """
    known = attribute.known
    facts: dict[str, Any] = {"kind": "values", "num_values": None, "width": None, "coverage": float(known.mean())}
    facts |= {"nothing": 1 - facts["coverage"], "values_per_track": None, "commonest": None, "commonest_share": None}
    if isinstance(attribute, Vectors):
        return facts | {"kind": "number" if attribute.is_scaled else "vector", "width": attribute.data.shape[1]}
    tracks = attribute.tracks_of_values()
    facts["num_values"] = int((tracks > 0).sum())
    if known.any():
        facts["values_per_track"] = float(attribute.counts[known].mean())
    if len(tracks):
        most = {"commonest": str(attribute.names[tracks.argmax()]), "commonest_share": float(tracks.max() / len(known))}
        facts |= most
    return facts


def first_sessions(sessions: Sessions, catalog: Catalog, *, num_sessions: int, num_plays: int) -> list[dict[str, Any]]:
    """The first sessions of a source as they were read.

    Args:
        sessions: all sessions, in the order in which they started.

    Returns:
        Of each `listener`, its number from 1 in the order of the ids; `num_plays`, the number of plays; and `plays`,
            the first of them with `time` in UTC (None without a clock), `title` (or the id), `artist`, `share`.
    """
    listens, found = sessions.listens, []
    for number in range(min(num_sessions, len(sessions))):
        start, end = np.searchsorted(listens.session, (number, number + 1)).tolist()
        plays = [
            {
                "time": utc(int(sessions.timestamp[event])) if sessions.has_clock else None,
                "title": _title_of(int(listens.track[event]), catalog),
                "artist": str(catalog.artists[catalog.artist_of[listens.track[event]]]),
                "share": None if np.isnan(share := float(listens.played_ratio[event])) else round(share, 4),
            }
            for event in range(start, min(end, start + num_plays))
        ]
        found.append({"listener": int(sessions.listener[number]) + 1, "num_plays": end - start, "plays": plays})
    return found


def _title_of(row: int, catalog: Catalog) -> str:
    """Title of a track; where it has none, its id in the source."""
    return str(catalog.titles[row]) or f"track {catalog.track_ids[row]}"


def measure_test(material: Material, *, max_queries: int | None) -> dict[str, Any]:
    """Measure the test set: what is new in it, and the scores of rules without learning.

    Args:
        material: with pairs.
        max_queries: rank a sample of sessions with at most this many queries, as a run does; None for all.

    Returns:
        `cold_tracks` and `cold_pairs`: share of its tracks that no training session plays, and of its pairs with such a
            track; `mean_mse` and `mean_bce`: squared error and cross-entropy (in nats; None where it is infinite) of
            the mean share of training for every pair, None where no share is known; `popular_recall_at_10` and
            `popular_ndcg_at_10` of the most played tracks, None without queries; `num_queries`: number of pairs that
            were ranked for this.
    """
    test, vocabulary = material.pairs["test"], material.vocabulary
    assert vocabulary is not None
    is_cold, mean = vocabulary.plays == 0, vocabulary.mean_played_ratio
    tracks = np.unique(np.concatenate([test.previous, test.following]))
    known = test.played_ratio[~np.isnan(test.played_ratio)]
    has_shares = mean is not None and len(known) > 0
    queries = test.where(ranking.is_query(test.previous, test.following, test.played_ratio))
    if max_queries is not None and len(queries):
        queries = queries.where(ranking.sample_sessions(queries.session, max_queries))
    metrics: dict[Any, float] = {}
    if len(queries):
        ranks = ranks_by_plays(vocabulary.plays, queries.previous, queries.following)
        metrics = ranking.accuracy(ranks).mean().to_dict()
    return {
        "cold_tracks": float(is_cold[tracks].mean()),
        "cold_pairs": float((is_cold[test.previous] | is_cold[test.following]).mean()),
        "mean_mse": float(((known.astype(np.float64) - mean) ** 2).mean()) if has_shares else None,
        "mean_bce": constant_bce(mean, known) if has_shares and mean is not None else None,
        "popular_recall_at_10": metrics.get("recall_at_10"),
        "popular_ndcg_at_10": metrics.get("ndcg_at_10"),
        "num_queries": len(queries),
    }


def constant_bce(predicted: float, shares: Float32[np.ndarray, "P"]) -> float | None:
    """Cross-entropy of one prediction for all shares, in nats; None where it is infinite, since it excludes a share.

    >>> round(constant_bce(0.5, np.array([0.0, 1.0], np.float32)), 4)
    0.6931
    """
    mean = float(shares.mean(dtype=np.float64))
    terms = [(weight, p) for weight, p in ((mean, predicted), (1 - mean, 1 - predicted)) if weight > 0]
    return None if any(p == 0 for _, p in terms) else float(sum(-weight * np.log(p) for weight, p in terms))
