"""Estimates of a recommender from the log of others: self-normalised importance sampling and doubly robust.

The weight of a decision is the probability with which the candidate picks the logged track, divided by the probability
with which it was picked when the log was written. S sessions, N tracks.

Intervals are clustered by user, because the sessions of one user are not independent. Few decisions have the largest
weights; therefore the degrees of freedom are those of the effective sample size.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy import special

from segue.statistics.intervals import clustered_variance

Values = Float64[np.ndarray, "S"]  # one for each decision
Cluster = Int64[np.ndarray, "S"]  # number of the user of each decision

SHRINKAGE = 10
"""Plays of a track at which its own mean share counts as much as the mean of all tracks, in `RewardModel`."""

TOLERANCE, SURE = 0.01, 3
"""The mean weight of an arm may be so far from 1; and the standard errors that make it sure that it is further away."""


@dataclass(frozen=True)
class Estimate:
    """An estimate and its interval.

    Args:
        value: the estimate.
        lower: lower bound; NaN with one user or one effective decision.
        upper: upper bound; NaN as above.
        effective_sample_size: number of decisions of the candidate itself that would give the same precision.
    """

    value: float
    lower: float
    upper: float
    effective_sample_size: float


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


def scaled_by_arm(weights: Values, arm: Int64[np.ndarray, "S"]) -> tuple[Values, dict[int, float]]:
    """Let each arm of a log count as its effective sample size, and find those that do not support the candidate.

    The mean weight of an arm is 1 where it could have made all picks of the candidate. It is less where it could not,
    and more where its propensities are too small.

    Args:
        weights: of each decision, at least 0.
        arm: number of the arm of each decision.

    Returns:
        The weights, of which those of an arm have its effective sample size as their sum; and the mean weight of each
        arm without support, whose weights are 0.

    Source: Agarwal, Basu, Schnabel & Joachims 2017, section 5.
    """
    scaled, without_support = np.zeros(len(weights)), dict[int, float]()
    for one in np.unique(arm).tolist():
        own = arm == one
        mean, effective = float(weights[own].mean()), effective_sample_size(weights[own])
        # by the error of a mean of 1: its own would be too small where the largest weights are missing
        if not mean or (abs(1 - mean) - TOLERANCE) * (effective / mean) ** 0.5 > SURE:
            without_support[one] = mean
        else:
            scaled[own] = weights[own] * effective / weights[own].sum()
    return scaled, without_support


def snips(weights: Values, rewards: Values, cluster: Cluster, level: float) -> Estimate:
    """Self-normalised importance sampling: `Σ w·r / Σ w`.

    Args:
        weights: of each decision, at least 0; one is above it.
        rewards: of each decision.
        cluster: number of the user of each decision.
        level: of the interval, in (0, 1).

    Source: Swaminathan & Joachims 2015, section 4; the interval is that of a ratio (delta method).
    """
    nothing = np.zeros(len(weights))
    return doubly_robust(weights, rewards, nothing, nothing, cluster, level)


def doubly_robust(
    weights: Values, rewards: Values, predicted: Values, expected: Values, cluster: Cluster, level: float
) -> Estimate:
    """Doubly robust: the mean of `expected`, corrected by the weighted mean of `r − predicted`.

    The weights of the correction are divided by their mean, which is 1 in large logs; in small ones it varies less.

    Args:
        weights: of each decision, at least 0; one is above it.
        rewards: of each decision.
        predicted: reward of the logged track, predicted by a model that has not seen the decision.
        expected: reward of the candidate's pick, predicted by the same model.
        cluster: number of the user of each decision.
        level: of the interval, in (0, 1).

    Source: Dudík, Langford & Li 2011, equation 2; self-normalised: Thomas & Brunskill 2016, section 4.
    """
    total, errors, mean = weights.sum(), rewards - predicted, float(expected.mean())
    correction = float(weights @ errors / total)
    influence = expected - mean + weights * (errors - correction) / (total / len(weights))
    sums = np.bincount(np.unique(cluster, return_inverse=True)[1], influence)
    effective, margin = effective_sample_size(weights), np.nan
    if len(sums) > 1 and effective > 1:
        quantile = float(special.stdtrit(min(len(sums) - 1, max(effective - 1, 1)), (1 + level) / 2))
        margin = quantile * clustered_variance(sums, len(weights)) ** 0.5
    value = mean + correction
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
