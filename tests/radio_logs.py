"""Logs of a radio whose heavy rotation changes every two weeks; see `radio_log`."""

from pathlib import Path

import numpy as np
import pandas as pd

START_S = 1_767_225_600
"""2026-01-01, in UTC."""
DAY_S = 86_400
TRACK_S = 210


def radio_log(
    seed: int,
    *,
    num_days: int = 60,
    sessions_a_day: int = 60,
    num_stations: int = 1,
    num_genres: int = 1,
    num_back: int = 3000,
    num_rotating: int = 40,
    days_of_rotation: int = 14,
    heavy: float = 0.6,
) -> pd.DataFrame:
    """Plays that listeners of a radio hear, a row each: `listener`, `time` (seconds), `track`, `artist`.

    A session is of one station. Each of its tracks is of the heavy rotation of the day with probability `heavy`, and
    otherwise of the back catalogue; in both, the track at a place is played in proportion to 1/√place. No track comes
    twice in a session. Tracks that leave the rotation are not played any more. With one station and one genre, nothing
    else decides: no model can rank better than the plays of the rotation of the day.

    Args:
        seed: of all that is random.
        num_days: length of the log.
        sessions_a_day: of all stations together.
        num_stations: each has rotations of its own, which change on other days than those of the others.
        num_genres: parts of the back catalogue; a session hears one.
        num_back: tracks of the back catalogue.
        num_rotating: tracks of a rotation.
        days_of_rotation: days after which all of them are replaced.
        heavy: share of the plays that are of the rotation.
    """
    rng = np.random.default_rng(seed)
    num_rotations = 2 + num_days // days_of_rotation
    tracks = rng.permutation(num_back + num_stations * num_rotations * num_rotating)  # ids say nothing
    back, new = tracks[:num_back].reshape(num_genres, -1), tracks[num_back:].reshape(num_stations, num_rotations, -1)
    artist_of = rng.integers(0, len(tracks) // 3, len(tracks))
    offsets = np.arange(num_stations) * days_of_rotation // num_stations
    rows = []
    for day in range(num_days):
        for second in np.sort(rng.integers(0, DAY_S - 3600, sessions_a_day)):
            station, length = rng.integers(num_stations), int(rng.integers(6, 16))
            rotation = new[station, (day + offsets[station]) // days_of_rotation]
            num_heavy = int(rng.binomial(length, heavy))
            parts = [_draw(rotation, num_heavy, rng), _draw(back[rng.integers(num_genres)], length - num_heavy, rng)]
            listener, start = rng.integers(20 * sessions_a_day), START_S + day * DAY_S + second
            heard = enumerate(rng.permutation(np.concatenate(parts)))
            rows += [(listener, start + TRACK_S * nth, track, artist_of[track]) for nth, track in heard]
    return pd.DataFrame(rows, columns=["listener", "time", "track", "artist"])


def _draw(tracks: np.ndarray, num: int, rng: np.random.Generator) -> np.ndarray:
    """Different tracks, in proportion to 1/√place."""
    clock = rng.exponential(size=len(tracks)) * np.sqrt(np.arange(1, len(tracks) + 1))
    return tracks[np.argpartition(clock, num)[:num]]


def write_radio_log(folder: Path, seed: int, **shape: int | float) -> Path:
    """Write `radio_log` as a table of CSV."""
    path = folder / "plays.csv"
    radio_log(seed, **shape).to_csv(path, index=False)  # type: ignore[arg-type]  # whole numbers, and one share
    return path
