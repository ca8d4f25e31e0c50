"""The counted part of a score: how often a track followed those of the session, added to the score of the head.

The score is `h + strength · log(1 + n / UNIT)`, where h is the score of the head and n the share of a track among those
that followed the tracks of the session. A track that never followed keeps the score of the head. In the unit of the
logarithm of a probability, the head and the counts are multiplied: both have to speak for a track.

Nothing was counted of a new track, which does not say that it seldom follows. Its share is the one that leaves the
probability of all new tracks together, on average, as the head has it; after a track that was never followed it is 0.

S sessions, h tracks of a session, C candidates, N tracks, n neighbours of a track, L ages.
"""

from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from segue.picking.places import Candidates, Heard, Scores, Shares, looked_up
from segue.runs.counted_part import CountedPart

UNIT = 0.01
"""Smaller shares add little, and of larger ones the logarithm counts."""


def added(share: Any, strength: float) -> Any:
    """What is added to scores of the head.

    Args:
        share: of the track among those that followed, in [0, 1].
        strength: see `CountedPart`.
    """
    return np.float32(strength) * np.log1p(share / np.float32(UNIT))


def weights_of(rows: Heard, shares: Shares, age_weights: Float32[np.ndarray, "L"]) -> Float32[np.ndarray, "S l"]:
    """The weight of each track of a session: by its age, times the share played; their sum is 1.

    Args:
        rows: rows of the tracks, newest first; -1 where there is none.
        shares: share of each that was played; NaN where unknown.
        age_weights: weight of each age.
    """
    played = np.where(np.isnan(shares), np.float32(1), shares)[:, : len(age_weights)]
    weights = np.where(rows[:, : len(age_weights)] < 0, np.float32(0), played * age_weights[: rows.shape[1]])
    return np.asarray(weights / np.maximum(weights.sum(1, keepdims=True), np.float32(1e-9)))


class CountedScores:
    """The counted part of the scores of candidates.

    Args:
        part: of a run.
    """

    def __init__(self, part: CountedPart) -> None:
        self._part, self._is_uncounted = part, bool(part.uncounted) and part.is_uncounted.any()
        self._sums = np.zeros(len(part.rows) + 1, np.float32)  # the last one is for -1

    def of(self, rows: Int64[np.ndarray, "S h"], shares: Shares, candidates: Candidates) -> Scores:
        """Compute the share of candidates among the tracks that followed those of a session.

        Args:
            rows: rows of the tracks of each session, newest first; -1 where there is none.
            shares: share of each that was played; NaN where unknown.
            candidates: rows; negative ones get any number.
        """
        part = self._part
        weights = weights_of(rows, shares, part.age_weights)
        newest = rows[:, : weights.shape[1]]
        # indices of another kind would be copied at each use
        neighbours = part.rows.take(newest, axis=0, mode="clip").astype(np.intp).reshape(len(rows), -1)
        values = (part.shares.take(newest, axis=0, mode="clip") * weights[:, :, None]).reshape(len(rows), -1)
        found: Scores = looked_up(self._sums, neighbours, candidates, values, np.add.at)
        if self._is_uncounted:
            of_uncounted = (part.shares_of_uncounted.take(newest, mode="clip") * weights).sum(1, keepdims=True)
            found += of_uncounted * part.is_uncounted.take(candidates, mode="clip")
        return found

    def add(self, scores: Scores, rows: Int64[np.ndarray, "S h"], shares: Shares, candidates: Candidates) -> None:
        """Add the counted part to scores of the head, in place.

        Args:
            scores: of the candidates of each session.
            rows: as for `of`.
            shares: as for `of`.
            candidates: as for `of`.
        """
        counted = self.of(rows, shares, candidates).ravel()
        flat = counted.nonzero()[0]
        scores.ravel()[flat] += added(counted[flat], self._part.strength)
