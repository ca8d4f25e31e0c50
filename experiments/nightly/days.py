"""The plays of the study: a beginning, and eleven days after it.

The plays of a day are a table with a row for each: `session`, `listener`, `track`, `share` (1 where nobody knows it),
and `artist` where it is known. The rows of a session follow one another.
"""

import gzip
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.studying import data_folder, sized

NUM_DAYS = sized(11, 2)
"""Days after the beginning; each night learns a day, and the last day is only played."""
START_S, DAY_S = 1_767_225_600, 86_400
"""2026-01-01 in UTC: the beginning ends there."""
SHARE_OF_A_DAY = 0.03
"""Of the lines of a source without days."""
NUM_LINES = {"yes": sized(25_000, 600), "nowplaying": sized(20_000, 600)}
"""Newest lines of a source that are used."""


def lines_of(name: str) -> list[pd.DataFrame]:
    """A source in the order of its lines, as days of equal size after the beginning.

    Args:
        name: `yes` or `nowplaying`.

    Returns:
        The beginning and the days.
    """
    if name == "yes":
        folder = data_folder("yes")
        lines = (folder / "train.txt").read_text().splitlines()[2:]
        songs = (line.split("\t") for line in (folder / "song_hash.txt").read_text().splitlines())
        artist_of = {int(song): artist for song, _, artist in songs}
    else:
        lines = (
            gzip.decompress((data_folder("nowplaying_sessions") / "train.txt.gz").read_bytes()).decode().splitlines()
        )
        artist_of = {}
    sessions = [tracks for line in lines[-NUM_LINES[name] :] if len(tracks := line.split()) > 1]
    size = int(SHARE_OF_A_DAY * len(sessions))
    ends = [len(sessions) - size * later for later in range(NUM_DAYS, -1, -1)]
    return [
        _day([(at, at, int(track), artist_of.get(int(track))) for at in range(first, end) for track in sessions[at]])
        for first, end in pairwise([0, *ends])
    ]


def drifting(seed: int) -> list[pd.DataFrame]:
    """Plays as in Last.fm-1K: listeners with genres, few hits and many others, and a drift.

    Every day has new tracks, and what is new is played most: this part of the weight of a track halves in a week. The
    weights of the artists are random walks. A track follows another one of its artist with probability 0.3, and is one
    of the last fifty of its listener with probability 0.2; else the genre of the session decides. The beginning has
    thirty days.

    Args:
        seed: of all that is random.
    """
    rng = np.random.default_rng(seed)
    num_first, sessions_a_day, new_a_day = sized((30, 300, 15), (8, 40, 5))
    num_old, num_artists, num_listeners, num_genres = sized((3000, 600, 400, 8), (300, 60, 40, 4))
    num_days = num_first + NUM_DAYS
    born = np.append(np.full(num_old, -100), np.repeat(np.arange(num_days), new_a_day))
    artist_of, fame = rng.integers(0, num_artists, len(born)), rng.gamma(0.5, 2.0, len(born)) + 0.05
    genre_of, walk = rng.integers(0, num_genres, num_artists)[artist_of], rng.normal(0, 1, num_artists)
    likes, heard = rng.dirichlet(np.full(num_genres, 0.4), num_listeners), np.full((num_listeners, 50), -1)
    days, number = list[pd.DataFrame](), 0
    for day in range(num_days):
        walk += rng.normal(0, 0.1, num_artists)
        age = day - born
        weight = np.where(age < 0, 0.0, fame * (0.15 + 2.0 ** (-np.maximum(age, 0) / 7)) * np.exp(walk[artist_of]))
        genres = [weight * (genre_of == genre) for genre in range(num_genres)]
        rows = []
        for _ in range(sessions_a_day):
            listener, number = int(rng.integers(num_listeners)), number + 1
            of_genre, track = genres[rng.choice(num_genres, p=likes[listener])].cumsum(), -1
            for _ in range(int(rng.integers(4, 16))):
                draw, chances, before = rng.random(), of_genre, track
                if before >= 0 and draw < 0.3:
                    chances = (weight * (artist_of == artist_of[before])).cumsum()
                again = int(rng.choice(heard[listener]))
                is_again = draw > 0.8 and again >= 0
                track = again if is_again else int(chances.searchsorted(rng.random() * chances[-1], side="right"))
                if track != before:
                    rows.append((number, listener, track, f"artist {artist_of[track]}"))
                    heard[listener, rng.integers(50)] = track
        days.append(_day(rows))
    return [pd.concat(days[:num_first]), *days[num_first:]]


def _day(rows: Sequence[tuple[int, int, int, str | None]]) -> pd.DataFrame:
    day = pd.DataFrame(rows, columns=["session", "listener", "track", "artist"]).assign(share=1.0)
    return day if day.artist.notna().any() else day.drop(columns="artist")


def write_day(folder: Path, number: int, day: pd.DataFrame) -> None:
    """Add a file to a folder that `datamodule=table` reads.

    Args:
        folder: of all days so far.
        number: of the day; 0 is the beginning, which has the thirty days before the others.
        day: the plays.
    """
    first, seconds = (START_S + (number - 1) * DAY_S, DAY_S) if number else (START_S - 30 * DAY_S, 30 * DAY_S)
    folder.mkdir(parents=True, exist_ok=True)
    clock = first + np.arange(len(day)) * seconds // len(day)
    day.drop(columns="share").assign(time=clock).to_csv(folder / f"day-{number:02}.csv", index=False)


def simulated_day(log: Path) -> pd.DataFrame:
    """Read a day of a simulation.

    Args:
        log: its `data.json`.
    """
    with log.open(encoding="utf-8") as file:
        events = pd.DataFrame(map(json.loads, file))
    events = events.sort_values(["user", "timestamp"], kind="stable")
    ended = (events.message == "last").shift(fill_value=False)
    session = (ended | (events.user != events.user.shift())).cumsum()
    return pd.DataFrame({"session": session, "listener": events.user, "track": events.track, "share": events.time})
