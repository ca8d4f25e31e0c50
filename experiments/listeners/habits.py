"""Logs of listeners with habits; see `habit_log`."""

from pathlib import Path

import numpy as np
import pandas as pd

START_S = 1_767_225_600
"""2026-01-01, in UTC."""
DAY_S = 86_400
TRACK_S = 210


def habit_log(
    seed: int,
    *,
    num_listeners: int = 300,
    num_sessions: int = 40,
    num_tracks: int = 3000,
    num_genres: int = 30,
    num_loved: int = 40,
    habit: float = 0.5,
    num_days: int = 90,
) -> pd.DataFrame:
    """Plays of listeners, a row each: `listener`, `time` (seconds), `track`, `artist`, `played`, `duration` (seconds).

    A session is of one genre, of three that its listener likes. Each of its tracks is one that the listener loves, of
    any of the three genres, with probability `habit`; otherwise any track of the genre of the session, in proportion to
    1/√place. What a listener loves drifts: each session replaces one of the loved tracks. A loved track is played in
    full, others to a share that is uniform. With `habit=0` the listener's past says nothing but the three genres.

    Args:
        seed: of all that is random.
        num_listeners: number of listeners.
        num_sessions: sessions of each, at times that are uniform in the days.
        num_tracks: number of tracks; an artist has ten, of one genre.
        num_genres: number of genres.
        num_loved: tracks that a listener loves.
        habit: share of the plays that are of loved tracks.
        num_days: length of the log.
    """
    rng = np.random.default_rng(seed)
    of_genre, parts = rng.permutation(num_tracks).reshape(num_genres, -1), list[np.ndarray]()
    chances = 1 / np.sqrt(np.arange(1, of_genre.shape[1] + 1))
    chances /= chances.sum()

    def drawn(genres: np.ndarray) -> np.ndarray:
        return np.asarray(of_genre[genres, rng.choice(len(chances), len(genres), p=chances)])

    for listener in range(num_listeners):
        liked = rng.choice(num_genres, 3, replace=False)
        loved = drawn(rng.choice(liked, num_loved))
        starts = np.sort(rng.choice(num_days * 24 * 2, num_sessions, replace=False)) * (DAY_S // 48)
        for start, length in zip(starts, rng.integers(5, 9, num_sessions), strict=True):
            is_loved = rng.random(length) < habit
            new = drawn(np.full(length, rng.choice(liked)))
            track = np.where(is_loved, rng.choice(loved, length), new)
            share = np.where(np.isin(track, loved), 1.0, rng.random(length))
            time = START_S + start + TRACK_S * np.arange(length)
            parts.append(np.column_stack([np.full(length, listener), time, track, share]))
            loved[rng.integers(num_loved)] = drawn(rng.choice(liked, 1))[0]
    listener, time, track, share = np.concatenate(parts).T
    artist_of = np.empty(num_tracks, np.int64)
    artist_of[of_genre.ravel()] = np.arange(num_tracks) // 10
    track = track.astype(np.int64)
    columns = {"listener": listener.astype(np.int64), "time": time.astype(np.int64), "track": track}
    columns |= {
        "artist": artist_of[track],
        "played": (share * TRACK_S).round(),
        "duration": np.full(len(time), TRACK_S),
    }
    return pd.DataFrame(columns).sort_values("time", kind="stable")


def write_habit_log(folder: Path, seed: int, *, with_shares: bool, **shape: float) -> Path:
    """Write `habit_log` as a table of CSV.

    Args:
        folder: gets `plays.csv`.
        seed: of the log.
        with_shares: whether it has what was played of each track.
        shape: other arguments of `habit_log`.
    """
    log, path = habit_log(seed, **shape), folder / "plays.csv"  # type: ignore[arg-type]  # whole numbers, and one share
    log.drop(columns=[] if with_shares else ["played", "duration"]).to_csv(path, index=False)
    return path
