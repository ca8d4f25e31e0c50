"""The listener's part around a head: what their own earlier sessions add to the scores.

`picking/listener_scores.py` has the features, which a service computes by the same text. Q queries, B queries of a
block, N tracks, F features, E entries of the profiles of all queries, G artists of theirs, P entries of a profile.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int64
from scipy.optimize import minimize
from scipy.sparse import csr_array
from torch import Tensor

from segue.catalog import Vocabulary
from segue.histories import Histories
from segue.picking.listener_scores import FEATURES, OF_TRACK, Pasts, features_of, past_of
from segue.runs.profiles import entries_of_events, padded

LISTENER = "listener"
"""Key of the weights in a checkpoint."""
MOST_PLAYS = 4000
"""Earlier plays of a listener that are looked at, the newest: a profile of a service forgets few of them."""
MOST_FITTED = 2500
"""Validation queries that the weights are fitted to, at most."""
_RIDGE, _MOST_EXPONENT, _LARGEST_WEIGHT, _LEAST_SLOPE, _STEP = 1e-3, 30.0, 10.0, np.float32(0.1), 1e-4
_NEWEST = 100
"""Tracks of a session whose artists it has heard."""
_AT_ONCE = 256
"""Queries whose features are computed together."""
_NUM = len(OF_TRACK)


def past_before(histories: Histories, *, half_life: bool = True) -> tuple[Pasts, Int64[np.ndarray, "Q"]]:
    """What listeners had heard before the sessions of queries, and the times of the queries.

    A profile has what its listener played in sessions that had ended when the session of the query began. The time of a
    query is that of its newest play: nothing that comes later has any effect.

    Args:
        histories: of the queries, with a timeline.
        half_life: whether older plays count less.

    Returns:
        The pasts (Q × P), and milliseconds since 1970.
    """
    timeline = histories.timeline
    assert timeline is not None, "no times are known"
    sessions, of_query = np.unique(timeline.session[histories.last], return_inverse=True)
    owner, event = timeline.earlier(sessions, MOST_PLAYS)
    times = timeline.timestamp[event]
    found = entries_of_events(
        owner, histories.tracks[event], histories.played_ratio[event], times if half_life else 0 * times
    )
    profiles = padded(*found, len(sessions))[of_query]
    heard = histories.newest(int(histories.length.max(initial=0)))[0]
    return past_of(profiles, heard), timeline.timestamp[histories.last]


def own_plays(histories: Histories, num_tracks: int, *, half_life: bool) -> csr_array:
    """How often listeners played each track in earlier sessions, Q × N: rules to compare with.

    Args:
        histories: of the queries, with a timeline.
        num_tracks: number of tracks (N).
        half_life: whether older plays count less.
    """
    past, _ = past_before(histories, half_life=half_life)
    query, place = (past.rows >= 0).nonzero()
    entries = past.entries["plays"][query, place], (query, past.rows[query, place])
    return csr_array(entries, shape=(len(histories), num_tracks))


class ListenerPart:
    """Weights the features of a listener's own past.

    The weights are few. They are fitted to validation queries after each epoch, and left out, which is 0, where
    validation is not better with them. A listener without a past gets the scores of the session alone.

    Args:
        vocabulary: the catalogue.
        weights: of the features, in the unit of the scores; None before any are fitted.

    Attributes:
        weights: see above.
        compared: what validation measured without the weights and with them, by the name of the measure; None where
            nothing was compared.
    """

    def __init__(self, vocabulary: Vocabulary, weights: Float32[np.ndarray, "F"] | None = None) -> None:
        self._artist_of = vocabulary.catalog.artist_of
        self._by_artist = np.argsort(self._artist_of, kind="stable")
        self._starts = np.append(0, np.bincount(self._artist_of).cumsum())
        self.weights = weights
        self.compared: tuple[str, float, float] | None = None

    @property
    def numbers(self) -> Float32[np.ndarray, "F"]:
        """The weights; 0 before any are fitted."""
        return np.zeros(len(FEATURES), np.float32) if self.weights is None else self.weights

    @property
    def is_used(self) -> bool:
        """Whether it adds anything."""
        return self.weights is not None and bool(self.weights.any())

    def values(self, histories: Histories) -> csr_array | None:
        """What is added to the scores of queries, Q × N.

        Returns:
            None where nothing is: without weights, or where no past is known.
        """
        if self.weights is None or not self.is_used or histories.timeline is None:
            return None
        entries = self._entries(histories)
        line, row, owner = self._tracks_of(entries)
        of_artist = entries.of_artist @ self.weights[_NUM:]
        values = np.concatenate([entries.of_track @ self.weights[:_NUM], of_artist[owner]])
        places = np.concatenate([entries.query, line]), np.concatenate([entries.track, row])
        return csr_array((values, places), shape=(len(histories), len(self._artist_of)))

    def features(self, histories: Histories, following: Int64[np.ndarray, "Q"]) -> Float32[np.ndarray, "Q F"]:
        """The features of the track that followed each history."""
        found = np.zeros((len(following), len(FEATURES)), np.float32)
        for first in range(0, len(following), _AT_ONCE):  # memory grows with queries times artists
            some = slice(first, first + _AT_ONCE)
            found[some] = self._of_targets(self._entries(histories.part(some.start, some.stop)), following[some])
        return found

    def fit_ranks(
        self, blocks: Iterable[tuple[Float[Tensor, "B N"], Histories, Int64[np.ndarray, "B"]]]
    ) -> Float32[np.ndarray, "F"]:
        """Fit the weights of a softmax over the catalogue by maximum likelihood, which is convex.

        The sum of the softmax is that of the head, plus what changes: of the tracks and artists of the past.

        Args:
            blocks: some queries at a time: scores of all tracks as logarithms of probabilities, plus a constant; the
                histories; and rows of the tracks that followed.

        Returns:
            The weights, in the unit of the logarithms.
        """
        return _fitted([self._chances(*block) for block in blocks])

    def of_other_artists(self, histories: Histories, following: Int64[np.ndarray, "Q"]) -> Bool[np.ndarray, "Q"]:
        """Whether the track that followed is by an artist that the session had not heard, of its newest tracks.

        Args:
            histories: of the queries.
            following: rows of the tracks that followed.
        """
        heard, _ = histories.newest(_NEWEST)
        is_same = (self._artist_of[heard] == self._artist_of[following][:, None]) & (heard >= 0)
        return np.asarray(~is_same.any(1))

    def fit_shares(
        self,
        predict: Callable[[Bool[np.ndarray, "Q"], Float64[np.ndarray, "q"]], Float64[np.ndarray, "q"]],
        scores: Float64[np.ndarray, "Q"],
        features: Float32[np.ndarray, "Q F"],
        played_ratio: Float32[np.ndarray, "Q"],
        is_first: Bool[np.ndarray, "Q"],
    ) -> None:
        """Fit the weights by the squared error of predicted shares, and judge them on other listeners.

        A slope and an offset of the scores are fitted with them, and the weights are divided by the slope: high scores
        of a head promise more than is played, and the past is weighed against what they are worth.

        Args:
            predict: the shares of some pairs, from their scores.
            scores: of the head.
            features: of the track that followed.
            played_ratio: share of it that was played.
            is_first: whether the listener of each pair is in the first of two halves; some are, and some are not.
        """
        num = len(FEATURES)
        whole, every = np.column_stack([features, scores, np.ones(len(scores))]), np.ones(len(scores), bool)

        def error(some: np.ndarray, columns: np.ndarray, numbers: np.ndarray) -> Float64[np.ndarray, "q"]:
            return np.asarray(predict(some, scores[some] + columns[some] @ numbers) - played_ratio[some])

        def fitted(some: np.ndarray, columns: np.ndarray) -> Float32[np.ndarray, "_"]:
            of_some = columns[some]

            def loss(numbers: Float64[np.ndarray, "_"]) -> tuple[float, Float64[np.ndarray, "_"]]:
                at, wrong = scores[some] + of_some @ numbers, error(some, columns, numbers)
                rise = (predict(some, at + _STEP) - predict(some, at - _STEP)) / (2 * _STEP)
                value = (wrong**2).mean() + 0.1 * _RIDGE * (numbers**2).sum()
                return float(value), 2 * (of_some.T @ (wrong * rise) / len(wrong) + 0.1 * _RIDGE * numbers)

            return _minimum(loss, columns.shape[1])

        def of_others(columns: np.ndarray) -> float:
            halves = (error(some, columns, fitted(~some, columns)) for some in (is_first, ~is_first))
            return float(sum((half**2).sum() for half in halves) / len(scores))

        numbers = fitted(every, whole)
        self.weights = numbers[:num] / max(1 + numbers[num], _LEAST_SLOPE)
        self.keep_if_better("mse", of_others(whole[:, num:]), of_others(whole), higher=False)

    def keep_if_better(self, name: str, without: float, value: float, *, higher: bool) -> None:
        """Set the weights to 0 where validation is not better with them.

        Args:
            name: of what was measured.
            without: its value without the weights.
            value: its value with them.
            higher: whether a higher value is better.
        """
        assert self.weights is not None, "nothing was fitted"
        self.compared = name, without, value
        if not (value > without if higher else value < without):
            self.weights = np.zeros_like(self.weights)

    def decided(self) -> dict[str, Any]:
        """What validation decided, under the key `LISTENER`, as plain values; None where it decided nothing."""
        if self.weights is None:
            return {LISTENER: None}
        return {LISTENER: {"weights": self.weights.tolist(), "compared": self.compared and list(self.compared)}}

    def decide(self, decided: Mapping[str, Any]) -> None:
        """Take what validation decided for another model, or from a checkpoint; nothing where it decided nothing."""
        known = decided.get(LISTENER) or {"weights": None, "compared": None}
        self.weights = None if known["weights"] is None else np.array(known["weights"], np.float32)
        self.compared = known["compared"] and (known["compared"][0], *map(float, known["compared"][1:]))

    def logged(self) -> Mapping[str, float]:
        """Report the weights."""
        if self.weights is None:
            return {}
        return {f"listener_{name}": float(one) for name, one in zip(FEATURES, self.weights, strict=True)}

    def describe(self) -> str:
        """One line about what the past of listeners says."""
        if self.weights is None or self.compared is None:
            return "listener     nothing: no validation query has weighted what listeners heard before"
        name, without, value = self.compared
        if not self.is_used:
            return f"listener     nothing: validation is not better with what they heard before ({name} {without:.4f})"
        weights = ", ".join(f"{feature} {one:+.2f}" for feature, one in zip(FEATURES, self.weights, strict=True))
        return f"listener     {weights} (validation {name} {value:.4f}; without them {without:.4f})"

    def _entries(self, histories: Histories) -> "_Entries":
        past, now_ms = past_before(histories)
        features, artists = features_of(past, now_ms, self._artist_of)
        query, place = (artists >= 0).nonzero()
        found, artist = features[query, place], artists[query, place]
        num_artists = len(self._starts) - 1
        keys, first, group = np.unique(query * num_artists + artist, return_index=True, return_inverse=True)
        return _Entries(
            query=query,
            track=past.rows[query, place].astype(np.int64),
            group=group,
            of_track=found[:, :_NUM],
            query_of_group=keys // max(num_artists, 1),
            artist=keys % max(num_artists, 1),
            of_artist=found[first, _NUM:],
            num_queries=len(histories),
        )

    def _tracks_of(self, entries: "_Entries") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All tracks of the artists of the past: the query, the row and the group of each."""
        start = self._starts[entries.artist]
        num = self._starts[entries.artist + 1] - start
        owner = np.repeat(np.arange(len(num)), num)
        nth = np.arange(len(owner)) - np.repeat(num.cumsum() - num, num)
        return entries.query_of_group[owner], self._by_artist[start[owner] + nth], owner

    def _of_targets(self, entries: "_Entries", following: Int64[np.ndarray, "Q"]) -> Float32[np.ndarray, "Q F"]:
        found = np.zeros((len(following), len(FEATURES)), np.float32)
        is_target = entries.track == following[entries.query]
        found[entries.query[is_target], :_NUM] = entries.of_track[is_target]
        is_target = entries.artist == self._artist_of[following[entries.query_of_group]]
        found[entries.query_of_group[is_target], _NUM:] = entries.of_artist[is_target]
        return found

    def _chances(
        self, logits: Float[Tensor, "B N"], histories: Histories, following: Int64[np.ndarray, "B"]
    ) -> "_Chances":
        entries, chances = self._entries(histories), logits.softmax(1).cpu().numpy()
        line, row, owner = self._tracks_of(entries)
        whole = np.bincount(owner, chances[line, row], len(entries.artist))
        own = chances[entries.query, entries.track].astype(np.float64)
        others = whole - np.bincount(entries.group, own, len(whole))
        return _Chances(
            entries=entries, own=own, others=others.clip(0), whole=whole, of_target=self._of_targets(entries, following)
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class _Entries:
    """The features of the pasts of queries.

    Args:
        query: of each entry.
        track: row of its track.
        group: place of its artist among those of all queries.
        of_track: features of the track.
        query_of_group: the query of each of these artists.
        artist: row of the artist.
        of_artist: features of the artist.
        num_queries: number of queries.
    """

    query: Int64[np.ndarray, "E"]
    track: Int64[np.ndarray, "E"]
    group: Int64[np.ndarray, "E"]
    of_track: Float32[np.ndarray, "E _"]
    query_of_group: Int64[np.ndarray, "G"]
    artist: Int64[np.ndarray, "G"]
    of_artist: Float32[np.ndarray, "G _"]
    num_queries: int


@dataclass(frozen=True, eq=False, kw_only=True)
class _Chances:
    """The probabilities that a head gives the pasts of queries.

    Args:
        entries: the pasts.
        own: of each track of a past.
        others: of all other tracks of each artist of a past.
        whole: of all tracks of each of these artists.
        of_target: features of the track that followed.
    """

    entries: _Entries
    own: Float64[np.ndarray, "E"]
    others: Float64[np.ndarray, "G"]
    whole: Float64[np.ndarray, "G"]
    of_target: Float32[np.ndarray, "Q F"]


def _fitted(parts: list[_Chances]) -> Float32[np.ndarray, "F"]:
    mean_of_targets = np.concatenate([one.of_target for one in parts]).mean(0).astype(np.float64)
    num = sum(one.entries.num_queries for one in parts)

    def loss(weights: Float64[np.ndarray, "F"]) -> tuple[float, Float64[np.ndarray, "F"]]:
        values, slopes = zip(*(_log_sums(one, weights) for one in parts), strict=True)
        value = sum(values) / num - mean_of_targets @ weights + _RIDGE * (weights**2).sum()
        return float(value), np.sum(slopes, axis=0) / num - mean_of_targets + 2 * _RIDGE * weights

    return _minimum(loss, len(FEATURES))


def _log_sums(chances: _Chances, weights: Float64[np.ndarray, "F"]) -> tuple[float, Float64[np.ndarray, "F"]]:
    """Logarithms of what the probabilities of all tracks sum to with the weights, over queries, and their gradient."""
    entries = chances.entries
    of_track, of_artist = (
        np.exp((features @ some).clip(-_MOST_EXPONENT, _MOST_EXPONENT))
        for features, some in ((entries.of_track, weights[:_NUM]), (entries.of_artist, weights[_NUM:]))
    )
    own = chances.own * of_track
    whole = of_artist * (chances.others + np.bincount(entries.group, own, len(of_artist)))
    total = 1 + np.bincount(entries.query_of_group, whole - chances.whole, entries.num_queries)
    total = total.clip(1e-12)
    own *= (of_artist / total[entries.query_of_group])[entries.group]
    slope = np.append(own @ entries.of_track, (whole / total[entries.query_of_group]) @ entries.of_artist)
    return np.log(total).sum(), slope


def _minimum(loss: Any, num: int) -> Float32[np.ndarray, "_"]:
    limits = [(-_LARGEST_WEIGHT, _LARGEST_WEIGHT)] * num
    return np.asarray(minimize(loss, np.zeros(num), jac=True, method="L-BFGS-B", bounds=limits).x, np.float32)
