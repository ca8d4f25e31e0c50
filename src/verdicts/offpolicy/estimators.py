"""Estimates of a recommender from the log of others: self-normalised importance sampling and doubly robust.

The weight of a decision is the probability with which the candidate picks the logged track, divided by the probability
with which it was picked when the log was written. S sessions, N tracks.

Intervals are clustered by user, because the sessions of one user are not independent. A small log misses the rarest and
largest weights, and a variance computed from it alone is too small. Therefore the variance is scaled to the expected
square of the weights, where that is known, and the degrees of freedom are those of the effective sample size.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy import stats

from segue.statistics.intervals import clustered_variance

Values = Float64[np.ndarray, "S"]  # one for each decision
Cluster = Int64[np.ndarray, "S"]  # number of the user of each decision

SHRINKAGE = 10
"""Plays of a track at which its own mean share counts as much as the mean of all tracks, in `RewardModel`."""


@dataclass(frozen=True)
class Estimate:
    """An estimate and its interval.

    Args:
        value: the estimate; NaN if all weights are 0.
        lower: lower bound.
        upper: upper bound.
        effective_sample_size: number of decisions of the candidate itself that would give the same precision.
    """

    value: float
    lower: float
    upper: float
    effective_sample_size: float


_NOTHING = Estimate(np.nan, np.nan, np.nan, effective_sample_size=0.0)


def effective_sample_size(weights: Values) -> float:
    """Compute the effective sample size of weights (Kish 1965).

    Args:
        weights: at least 0.

    Returns:
        In [0, S].

    >>> effective_sample_size(np.array([1.0, 1.0, 0.0]))
    2.0
    """
    squares = float(weights @ weights)
    return float(weights.sum()) ** 2 / squares if squares > 0 else 0.0


def snips(
    weights: Values,
    rewards: Values,
    cluster: Cluster,
    level: float,
    *,
    expected_square: float | None = None,
    expected_mean: float = 1.0,
) -> Estimate:
    """Self-normalised importance sampling: `Σ w·r / Σ w`.

    Args:
        weights: of each decision, at least 0.
        rewards: of each decision.
        cluster: number of the user of each decision.
        level: of the interval, in (0, 1).
        expected_square: mean of w² over all tracks that could have been logged; None where it is not known.
        expected_mean: mean of w over them: the share of the candidate's picks that have support.

    Source: Swaminathan & Joachims 2015, section 4; the interval is that of a ratio (delta method).
    """
    nothing = np.zeros(len(weights))
    return doubly_robust(
        weights, rewards, nothing, nothing, cluster, level, expected_square=expected_square, expected_mean=expected_mean
    )


def doubly_robust(
    weights: Values,
    rewards: Values,
    predicted: Values,
    expected: Values,
    cluster: Cluster,
    level: float,
    *,
    expected_square: float | None = None,
    expected_mean: float = 1.0,
) -> Estimate:
    """Doubly robust: the mean of `expected`, corrected by the weighted mean of `r − predicted`.

    The weights of the correction are divided by their mean, which is 1 in large logs; in small ones it varies less.

    Args:
        weights: of each decision, at least 0.
        rewards: of each decision.
        predicted: reward of the logged track, predicted by a model that has not seen the decision.
        expected: reward of the candidate's pick, predicted by the same model.
        cluster: number of the user of each decision.
        level: of the interval, in (0, 1).
        expected_square: as for `snips`.
        expected_mean: as for `snips`.

    Source: Dudík, Langford & Li 2011, equation 2; self-normalised: Thomas & Brunskill 2016, section 4.
    """
    total, errors, mean = weights.sum(), rewards - predicted, float(expected.mean())
    if not total > 0:
        return _NOTHING
    correction = float(weights @ errors / total)
    influence = expected - mean + weights * (errors - correction) / (total / len(weights))
    return _with_interval(mean + correction, influence, weights, cluster, level, expected_square, expected_mean)


def per_decision(steps: Iterable[tuple[Values, Values]], cluster: Cluster, level: float, clip: float) -> Estimate:
    """Per-decision importance sampling of a session, self-normalised at each step: `Σ_t Σ_i w_ti·r_ti / Σ_i w_ti`.

    Args:
        steps: weights and rewards of each step, which are not kept, because one session can have thousands of steps.
            The weight is the product of the weights of all decisions of the session up to this step, at least 0; a
            session that has ended keeps its last one. The reward is 0 after the end of the session.
        cluster: number of the user of each session.
        level: of the interval, in (0, 1).
        clip: larger weights are reduced to it. It bounds the variance, and biases the estimate towards the log.

    Returns:
        The estimate; its effective sample size is that of the last step.

    Source: Precup, Sutton & Singh 2000, with the weights of Ionides 2008.
    """
    value, influence, clipped = 0.0, np.zeros(len(cluster)), np.ones(len(cluster))
    for weights, rewards in steps:
        clipped = np.minimum(weights, clip)
        total = float(clipped.sum())
        if not total > 0:
            return _NOTHING
        of_step = float(clipped @ rewards) / total
        value += of_step
        influence += clipped * (rewards - of_step) / (total / len(cluster))
    return _with_interval(value, influence, clipped, cluster, level)


def _with_interval(
    value: float,
    influence: Values,
    weights: Values,
    cluster: Cluster,
    level: float,
    expected_square: float | None = None,
    expected_mean: float = np.nan,
) -> Estimate:
    """An estimate that is the mean of values whose distance from it is `influence`."""
    sums = np.bincount(np.unique(cluster, return_inverse=True)[1], influence)
    effective, scale, margin = effective_sample_size(weights), 1.0, np.nan
    if expected_square:
        scale = max(1.0, expected_square / float(weights @ weights / len(weights)))
        effective = len(weights) * expected_mean**2 / expected_square
    if len(sums) > 1 and effective > 1:
        quantile = float(stats.t.ppf((1 + level) / 2, min(len(sums) - 1, max(effective - 1, 1))))
        margin = quantile * (scale * clustered_variance(sums, len(influence))) ** 0.5
    return Estimate(value, value - margin, value + margin, effective)


@dataclass(frozen=True, eq=False, kw_only=True)
class RewardModel:
    """A simple prediction of the share of a track that is played: the mean of its group, and an effect of the track.

    It need not be right: the doubly robust estimate corrects it.

    Args:
        means: mean share of tracks by another artist than the previous track, and by the same artist.
        effects: effect of each track, shrunk towards 0.
    """

    means: Float64[np.ndarray, "2"]
    effects: Float64[np.ndarray, "N"]

    @classmethod
    def fit(
        cls,
        tracks: Int64[np.ndarray, "S"],
        is_same_artist: Bool[np.ndarray, "S"],
        rewards: Values,
        num_tracks: int,
    ) -> "RewardModel":
        """Fit the model.

        Args:
            tracks: row of the recommended track of each decision.
            is_same_artist: whether it is by the artist of the previous track.
            rewards: share played of it.
            num_tracks: number of tracks in the catalogue (N).
        """
        group, overall = is_same_artist.astype(np.int64), float(rewards.mean()) if len(rewards) else 0.5
        means = (np.bincount(group, rewards, minlength=2) + overall) / (np.bincount(group, minlength=2) + 1)
        rest = np.bincount(tracks, rewards - means[group], minlength=num_tracks)
        return cls(means=means, effects=rest / (np.bincount(tracks, minlength=num_tracks) + SHRINKAGE))

    def predict(
        self, tracks: Int64[np.ndarray, "*shape"], is_same_artist: Bool[np.ndarray, "*shape"]
    ) -> Float64[np.ndarray, "*shape"]:
        """Predict the share that is played.

        Args:
            tracks: rows of tracks.
            is_same_artist: whether each is by the artist of the previous track.

        Returns:
            In [0, 1].
        """
        return np.asarray(np.clip(self.means[is_same_artist.astype(np.int64)] + self.effects[tracks], 0.0, 1.0))
