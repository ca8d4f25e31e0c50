"""Weights of the tracks of a history, for baselines that use the whole session.

N tracks in the catalogue, B queries in a block, H tracks of a history, A artists.
"""

from typing import Annotated, Any

import numpy as np
from jaxtyping import Float32, Float64, Int64
from scipy.sparse import csr_array

from segue.settings import Setting

Decay = str | float | None
"""`linear` for 1 − age/length, `inverse` for 1/(1 + age), a number λ for exp(−age/λ), None for 1."""

OF_DECAY: dict[str, Any] = {"above": 0, "hint": "null switches it off"}
ArtistsWeight = Annotated[
    float, Setting("added for each track by an artist of the session, times the decay of the artist's tracks", least=0)
]

SMALLEST_WEIGHT = 1e-6
"""Smaller weights of the places of a session are left out, so that memory does not grow with its squared length."""


def decayed(age: Int64[np.ndarray, "*n"], length: Int64[np.ndarray, "*n"], decay: Decay) -> Float64[np.ndarray, "*n"]:
    """Compute the weight of each age.

    Args:
        age: 0 for the newest.
        length: number of tracks of the history, above `age`.
        decay: how the weight falls with the age.

    Returns:
        Weights above 0.
    """
    weights: np.ndarray
    if decay is None:
        weights = np.ones(age.shape)
    elif decay == "linear":
        weights = 1 - age / length
    elif decay == "inverse":
        weights = 1 / (1 + age)
    else:
        weights = np.exp(-np.minimum(age / float(decay), 500.0))  # never 0: products of sparse matrices drop zeros
    return weights


def largest_distance(decay: float | None, most: int) -> int:
    """Find the largest distance whose weight exp(−distance/decay) is at least SMALLEST_WEIGHT.

    Args:
        decay: λ; None for a weight of 1 at all distances.
        most: upper bound, such as the length of the longest session.

    Returns:
        The distance.
    """
    return most if decay is None else min(most, int(-decay * np.log(SMALLEST_WEIGHT)))


def played_rows(
    rows: Int64[np.ndarray, "B H"], shares: Float32[np.ndarray, "B H"], least_played: float
) -> tuple[Int64[np.ndarray, "B H"], Int64[np.ndarray, "B H"], Int64[np.ndarray, "B H"]]:
    """Leave out the tracks of histories that do not count.

    Args:
        rows: rows of the tracks, newest first; -1 where there is none.
        shares: share of each that was played; NaN where unknown.
        least_played: a track with a smaller share played does not count, unless this is true of all.

    Returns:
        Rows of the tracks that count, otherwise -1; their ages; and the length of each history.
    """
    played = (rows >= 0) & ~(shares < np.float32(least_played))
    counting = np.where(played | ~played.any(1, keepdims=True), rows, -1)
    age = np.broadcast_to(np.arange(rows.shape[1]), rows.shape)
    length = np.broadcast_to((rows >= 0).sum(1)[:, None], rows.shape)
    return counting, age, length


def query_matrix(
    rows: Int64[np.ndarray, "B H"], weights: Float64[np.ndarray, "B H"], num_tracks: int, *, newest_only: bool
) -> csr_array:
    """Build the matrix of queries × tracks.

    Args:
        rows: rows of the tracks, newest first; -1 where there is none.
        weights: their weights.
        num_tracks: N.
        newest_only: whether a track that was heard twice has the weight of its newest play; otherwise their sum.

    Returns:
        Weights, B × N.
    """
    line, place = (rows >= 0).nonzero()
    track, weight = rows[line, place], weights[line, place]
    if newest_only:
        _, first = np.unique(line * num_tracks + track, return_index=True)
        line, track, weight = line[first], track[first], weight[first]
    return csr_array((weight, (line, track)), shape=(len(rows), num_tracks))


def artist_scores(queries: csr_array, artist_of: Int64[np.ndarray, "N"], artist_weight: float) -> csr_array:
    """Score all tracks by the artists of a history.

    Args:
        queries: weights of the tracks of the histories, B × N.
        artist_of: row of the artist of each track.
        artist_weight: what a track by an artist gets for each unit of weight of this artist in the history.

    Returns:
        Scores, B × N.
    """
    num_tracks = len(artist_of)
    by_artist = csr_array((np.ones(num_tracks), (np.arange(num_tracks), artist_of)))
    return csr_array(artist_weight * (csr_array(queries @ by_artist) @ by_artist.T.tocsr()))
