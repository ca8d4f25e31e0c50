"""The listener's part around a head: what their own earlier sessions add to the scores.

`picking/listener_scores.py` has the features, which a service computes by the same text. Q queries, B queries of a
block, N tracks, F features, P entries of a profile, E entries of the profiles of all queries, G artists of theirs.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int64
from scipy.optimize import minimize
from scipy.sparse import csr_array
from torch import Tensor

from segue.catalog import Vocabulary
from segue.histories import Histories
from segue.models.repeats import tracks_of
from segue.picking.listener_scores import FEATURES, OF_ARTIST, OF_TRACK, Pasts, features_of, past_of
from segue.runs.profiles import entries_of_events, padded

LISTENER = "listener"
"""Key of the weights in a checkpoint."""
MOST_PLAYS = 4000
"""Earlier plays of a listener that are looked at, the newest: a profile of a service forgets few of them."""
MOST_FITTED = 2500
"""Validation queries that the weights are fitted to, at most."""
_RIDGE, _MOST_EXPONENT, _LARGEST_WEIGHT, _LEAST_SLOPE = 1e-3, 30.0, 10.0, 0.02
_NONE = np.zeros(len(FEATURES), np.float32)
_NEWEST = 100
"""Tracks of a session whose artists it has heard."""
_AT_ONCE = 256
"""Queries whose features are computed together."""


def past_before(histories: Histories) -> Pasts:
    """What listeners had heard before the sessions of queries (Q × P).

    A profile has what its listener played in sessions that had ended when the session of the query began. The time of a
    query is that of its newest play: nothing that comes later has any effect.

    Args:
        histories: of the queries, with a timeline.
    """
    timeline = histories.timeline
    assert timeline is not None, "no times are known"
    sessions, of_query = np.unique(timeline.session[histories.last], return_inverse=True)
    owner, event = timeline.earlier(sessions, MOST_PLAYS)
    found = entries_of_events(owner, histories.tracks[event], histories.played_ratio[event], timeline.timestamp[event])
    profiles = padded(*found, len(sessions))[of_query]
    heard = histories.newest(int(histories.length.max(initial=0)))[0]
    return past_of(profiles, heard, timeline.timestamp[histories.last])


class ListenerPart:
    """Weights the features of a listener's own past.

    The weights are few. They are fitted to validation queries after each epoch, and left out, which is 0, where
    validation is not better with them. A listener without a past gets the scores of the session alone.

    Args:
        vocabulary: the catalogue.
        weights: of the features, in the unit of the scores; None for 0, before any are fitted.

    Attributes:
        weights: see above.
        compared: what validation measured without the weights and with them, by the name of the measure; None where
            nothing was compared.
    """

    def __init__(self, vocabulary: Vocabulary, weights: Float32[np.ndarray, "F"] | None = None) -> None:
        self._artist_of = vocabulary.catalog.artist_of
        self._tracks_of = tracks_of(self._artist_of)
        self.weights = _NONE if weights is None else weights
        self.compared: tuple[str, float, float] | None = None

    def values(self, histories: Histories) -> csr_array | None:
        """What is added to the scores of queries, Q × N.

        Returns:
            None where nothing is: without weights, or where no past is known.
        """
        if not self.weights.any() or histories.timeline is None:
            return None
        past, weights, (num_artists, num_tracks) = self._past(histories), self.weights, self._tracks_of.shape
        first = past.first
        of_artist = past.features[first, OF_ARTIST] @ weights[OF_ARTIST], (past.query[first], past.artist[first])
        of_track = past.features[:, OF_TRACK] @ weights[OF_TRACK], (past.query, past.track)
        added = csr_array(csr_array(of_artist, shape=(len(histories), num_artists)) @ self._tracks_of)
        added.sort_indices()  # sums of matrices in order take a tenth of the time
        return csr_array(added + csr_array(of_track, shape=(len(histories), num_tracks)))

    def features(self, histories: Histories, following: Int64[np.ndarray, "Q"]) -> Float32[np.ndarray, "Q F"]:
        """The features of the track that followed each history."""
        found = np.zeros((len(following), len(FEATURES)), np.float32)
        for start in range(0, len(following), _AT_ONCE):  # memory grows with queries times tracks of the past
            some = slice(start, start + _AT_ONCE)
            found[some] = self._of_targets(self._past(histories.where(some)), following[some])
        return found

    def of_other_artists(self, histories: Histories, following: Int64[np.ndarray, "Q"]) -> Bool[np.ndarray, "Q"]:
        """Whether the track that followed is by an artist that the session had not heard, of its newest tracks.

        Args:
            histories: of the queries.
            following: rows of the tracks that followed.
        """
        heard, _ = histories.newest(_NEWEST)
        is_same = (self._artist_of[heard] == self._artist_of[following][:, None]) & (heard >= 0)
        return np.asarray(~is_same.any(1))

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
        parts, of_targets, num = [], list[np.ndarray](), 0
        for logits, histories, following in blocks:
            past, chances = self._past(histories), logits.softmax(1).cpu().numpy()
            own, at_first = chances[past.query, past.track].astype(np.float64), past.query[past.first]
            tracks = self._tracks_of[past.artist[past.first]]
            of, num_artists = np.repeat(np.arange(len(at_first)), np.diff(tracks.indptr)), len(at_first)
            of_artists = np.bincount(of, chances[at_first[of], tracks.indices], num_artists)
            others = (of_artists - np.bincount(past.group, own, num_artists)).clip(0)
            of_others = past.features[past.first]
            of_others[:, OF_TRACK] = 0
            owner = num + np.append(past.query, at_first)
            parts.append((owner, np.append(own, others), np.concatenate([past.features, of_others])))
            of_targets.append(self._of_targets(past, following))
            num += len(following)
        owner, chance, features = (np.concatenate(part) for part in zip(*parts, strict=True))
        features = features.astype(np.float64)  # otherwise each product would convert it
        mean_of_targets = np.concatenate(of_targets).mean(0, dtype=np.float64)

        def loss(weights: Float64[np.ndarray, "F"]) -> tuple[float, Float64[np.ndarray, "F"]]:
            raised = chance * np.exp((features @ weights).clip(-_MOST_EXPONENT, _MOST_EXPONENT))
            total = (1 + np.bincount(owner, raised - chance, num)).clip(1e-12)
            value = np.log(total).mean() - mean_of_targets @ weights + _RIDGE * (weights**2).sum()
            slope = (raised / total[owner]) @ features / num - mean_of_targets + 2 * _RIDGE * weights
            return float(value), slope

        limits = [(-_LARGEST_WEIGHT, _LARGEST_WEIGHT)] * len(FEATURES)
        found = minimize(loss, np.zeros(len(FEATURES)), jac=True, method="L-BFGS-B", bounds=limits)
        return np.asarray(found.x, np.float32)

    def fit_shares(
        self,
        scores: Float64[np.ndarray, "Q"],
        features: Float32[np.ndarray, "Q F"],
        played_ratio: Float32[np.ndarray, "Q"],
        is_first: Bool[np.ndarray, "Q"],
    ) -> None:
        """Fit the weights by least squares of shares played; half of the listeners judge those of the others.

        Shares are a line in the features and the score, and the weights are divided by the slope of the score: high
        scores of a head promise more than is played, and the past is weighed against what they are worth.

        Args:
            scores: of the head.
            features: of the track that followed.
            played_ratio: share of it that was played.
            is_first: whether the listener of each pair is in the first of two halves; some are, and some are not.
        """
        whole, errors = np.column_stack([scores, np.ones(len(scores)), features]), []
        for num in (2, whole.shape[1]):
            fitted, *_ = np.linalg.lstsq(whole[is_first, :num], played_ratio[is_first])
            errors.append(float(((whole[~is_first, :num] @ fitted - played_ratio[~is_first]) ** 2).mean()))
        slope, _, *numbers = np.linalg.lstsq(whole, played_ratio)[0]
        weights = (np.array(numbers) / max(slope, _LEAST_SLOPE)).clip(-_LARGEST_WEIGHT, _LARGEST_WEIGHT)
        self.keep(weights.astype(np.float32), "mse", *errors)

    def keep(self, weights: Float32[np.ndarray, "F"], name: str, without: float, value: float) -> None:
        """Take weights if validation is better with them, and otherwise 0.

        Args:
            weights: those that were fitted.
            name: of what was measured: `mse`, or a metric of which more is better.
            without: its value without the weights.
            value: its value with them.
        """
        is_better = value < without if name == "mse" else value > without
        self.weights, self.compared = weights if is_better else _NONE, (name, without, value)

    def decided(self) -> dict[str, Any]:
        """What validation decided, under the key `LISTENER`, as plain values; None where it decided nothing."""
        own = {"weights": self.weights.tolist(), "compared": self.compared and list(self.compared)}
        return {LISTENER: own if self.compared or self.weights.any() else None}

    def decide(self, decided: Mapping[str, Any]) -> None:
        """Take what validation decided for another model, or from a checkpoint; nothing where it decided nothing."""
        known = decided.get(LISTENER) or {"weights": _NONE, "compared": None}
        self.weights, compared = np.array(known["weights"], np.float32), known["compared"]
        self.compared = compared and (compared[0], compared[1], compared[2])

    def logged(self) -> Mapping[str, float]:
        """Report the weights."""
        return {f"listener_{name}": one for name, one in zip(FEATURES, self.weights.tolist(), strict=True)}

    def describe(self) -> str:
        """One line about what the past of listeners says."""
        if self.compared is None:
            return "listener     nothing: no validation query has weighted what listeners heard before"
        name, without, value = self.compared
        weights = ", ".join(f"{feature} {one:+.2f}" for feature, one in zip(FEATURES, self.weights, strict=True))
        how = weights if self.weights.any() else "nothing, it is not better with what they heard before"
        return f"listener     {how} (validation {name} {value:.4f}; without it {without:.4f})"

    def _past(self, histories: Histories) -> "_Past":
        found = features_of(past_before(histories), self._artist_of)
        keys = found.session * self._tracks_of.shape[0] + found.artist
        _, first, group = np.unique(keys, return_index=True, return_inverse=True)
        return _Past(*found, first, group)

    def _of_targets(self, past: "_Past", following: Int64[np.ndarray, "Q"]) -> Float32[np.ndarray, "Q F"]:
        found, target = np.zeros((len(following), len(FEATURES)), np.float32), following[past.query]
        is_same, is_target = past.artist == self._artist_of[target], past.track == target
        found[past.query[is_same], OF_ARTIST] = past.features[is_same, OF_ARTIST]
        found[past.query[is_target]] = past.features[is_target]
        return found


class _Past(NamedTuple):
    """The pasts of queries.

    Attributes:
        query: of each entry of a profile.
        track: row of its track.
        artist: row of the artist.
        features: those of the artist are the same for all of its entries.
        first: place of the first entry of each artist of a query.
        group: place of the artist of each entry in `first`.
    """

    query: Int64[np.ndarray, "E"]
    track: Int64[np.ndarray, "E"]
    artist: Int64[np.ndarray, "E"]
    features: Float32[np.ndarray, "E F"]
    first: Int64[np.ndarray, "G"]
    group: Int64[np.ndarray, "E"]
