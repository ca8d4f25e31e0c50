"""Shares played where no column has the duration of a track: its longest play in training is its duration.

E events, N tracks.
"""

import numpy as np
from jaxtyping import Float32, Int64


def longest_plays(track: Int64[np.ndarray, "E"], played_ms: Float32[np.ndarray, "E"], num_tracks: int) -> np.ndarray:
    """The longest play of each track.

    Args:
        track: row of the track of each training event.
        played_ms: how long it was played, in milliseconds; NaN where this is unknown.
        num_tracks: number of tracks (N).

    Returns:
        Milliseconds for each of the N tracks; NaN for a track without a play above 0.
    """
    longest = np.zeros(num_tracks, np.float32)
    np.maximum.at(longest, track, np.nan_to_num(played_ms, nan=0.0))
    return np.where(longest > 0, longest, np.float32(np.nan))


def shares_of_longest(
    track: Int64[np.ndarray, "E"], played_ms: Float32[np.ndarray, "E"], longest: Float32[np.ndarray, "N"]
) -> Float32[np.ndarray, "E"]:
    """The share played of each event, at most 1; NaN where it or the longest play is unknown.

    Args:
        track: row of the track of each event.
        played_ms: how long it was played, in milliseconds.
        longest: the longest play of each track, in milliseconds.
    """
    return np.asarray(np.minimum(played_ms / longest[track], np.float32(1.0)))
