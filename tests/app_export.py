"""Writes plays as an app exports them, with text ids: python -m tests.app_export plays.csv [shuffled] [rows=20000]

Users are UUIDs, tracks are URIs. Everything is invented, and the same each time. A session stays near one of the moods
of its user, so that there is something to learn.
"""

import sys
import uuid
from pathlib import Path

import numpy as np
import pandas as pd

NUM_ROWS, NUM_USERS, NUM_TRACKS, NUM_ARTISTS, NUM_MOODS = 200_000, 2_000, 4_000, 700, 40
START = pd.Timestamp("2026-09-01", tz="UTC")
DAYS = 30
_LETTERS = np.array(list("abcdefghijkmnpqrstuvwxyz23456789"))


def plays(num_rows: int = NUM_ROWS) -> pd.DataFrame:
    """The plays of an app in the order of time.

    Args:
        num_rows: number of plays, at least one.

    Returns:
        The columns `user_id`, `track_uri`, `track_name`, `artist_name`, `played_at`, `ms_played` and `duration_ms`.
    """
    rng = np.random.default_rng(7)
    users = [str(uuid.UUID(bytes=rng.bytes(16), version=4)) for _ in range(NUM_USERS)]
    uris = [f"track:{''.join(rng.choice(_LETTERS, 22))}" for _ in range(NUM_TRACKS)]
    artist_of = rng.integers(NUM_ARTISTS, size=NUM_TRACKS)
    mood_of = rng.integers(NUM_MOODS, size=NUM_ARTISTS)[artist_of]
    by_mood = [np.flatnonzero(mood_of == mood) for mood in range(NUM_MOODS)]
    weights = [(np.arange(len(tracks)) + 2.0) ** -0.8 for tracks in by_mood]
    moods = rng.integers(NUM_MOODS, size=(NUM_USERS, 3))
    duration_ms = rng.integers(120_000, 320_000, NUM_TRACKS)

    lengths = 2 + rng.geometric(0.12, size=num_rows)
    lengths = lengths[: int(np.searchsorted(lengths.cumsum(), num_rows)) + 1]
    user, begins = rng.integers(NUM_USERS, size=len(lengths)), np.sort(rng.uniform(0, DAYS * 86_400_000, len(lengths)))
    mood = moods[user, rng.integers(3, size=len(lengths))]
    track = np.concatenate(
        [
            rng.choice(by_mood[one], size=length, p=weights[one] / weights[one].sum())
            for one, length in zip(mood.tolist(), lengths.tolist(), strict=True)
        ]
    )[:num_rows]
    session = np.arange(len(lengths)).repeat(lengths)[:num_rows]
    share = np.where(rng.random(num_rows) < 0.3, rng.random(num_rows), 1.0)
    ms_played = (share * duration_ms[track]).astype(np.int64)
    first = np.append(0, np.flatnonzero(np.diff(session)) + 1)
    earlier = ms_played.cumsum() - ms_played
    at_ms = begins[session] + earlier - np.repeat(earlier[first], np.diff(np.append(first, num_rows)))
    found = pd.DataFrame(
        {
            "user_id": np.array(users, object)[user[session]],
            "track_uri": np.array(uris, object)[track],
            "track_name": np.array([f"Song {number}" for number in range(NUM_TRACKS)], object)[track],
            "artist_name": np.array([f"Artist {number}" for number in range(NUM_ARTISTS)], object)[artist_of[track]],
            "played_at": START + pd.to_timedelta(at_ms.astype(np.int64), unit="ms"),
            "ms_played": ms_played,
            "duration_ms": duration_ms[track],
        }
    )
    return found.sort_values("played_at", kind="stable", ignore_index=True)


def main() -> None:
    """Write the file."""
    target, *words = sys.argv[1:]
    found = plays(next((int(word.removeprefix("rows=")) for word in words if word.startswith("rows=")), NUM_ROWS))
    if "shuffled" in words:
        found = found.sample(frac=1, random_state=1)
    found.to_csv(Path(target), index=False, date_format="%Y-%m-%dT%H:%M:%S.%fZ")
    print(f"wrote {target}")


if __name__ == "__main__":
    main()
