"""What listeners played, before a layout writes it, and what a reader must find in the files of a layout."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

NUM_TRACKS = 64
FIRST_SECOND = 1_500_000_000
"""Time of the first play, in seconds since 1970; a multiple of 60."""


class Play(NamedTuple):
    """A play of one listener.

    Args:
        user: number of the listener, from 0.
        session: number of the session of this listener, from 0.
        start: when it began, in seconds since 1970.
        track: number of the track.
        seconds: how long it was played.
    """

    user: int
    session: int
    start: int
    track: int
    seconds: int


class Heard(NamedTuple):
    """An event as a reader must find it.

    Args:
        session: which session of the source it is in; None where the source reports none.
        timestamp: in milliseconds since 1970; None without a clock.
        track: its id, or (title, artist) where these two make the track.
        share: share played, in [0, 1], or milliseconds played where the source has no durations; None if unknown.
    """

    session: object
    timestamp: int | None
    track: object
    share: float | None


@dataclass
class Expected:
    """What a reader must find in the files that a layout has written.

    Args:
        main: the files that are enough, relative to the folder.
        events: the events of each user, in order.
        dropped: number of rows that each rule leaves out.
        duplicates: number of events that are there twice.
        rejected: number of rows that are no events.
        num_lists: number of rows, where a row is a list of events.
        artists: the artist of each track that the files have one for; only which tracks share one counts.
        titles: the title of each track, where the files have one.
    """

    main: list[str]
    events: dict[object, list[Heard]] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    duplicates: int = 0
    rejected: int = 0
    num_lists: int | None = None
    artists: dict[object, object] = field(default_factory=dict)
    titles: dict[object, str] = field(default_factory=dict)

    def hear(self, user: object, heard: Heard) -> None:
        """Add an event."""
        self.events.setdefault(user, []).append(heard)

    @property
    def num_events(self) -> int:
        """Number of events, without duplicates."""
        return sum(map(len, self.events.values()))

    @property
    def num_rows(self) -> int:
        """Number of rows of the files."""
        if self.num_lists is not None:
            return self.num_lists
        return self.num_events + self.duplicates + self.rejected + sum(self.dropped.values())


Layout = Callable[[Path, list[Play]], Expected]
"""Writes plays into a folder, with the quirks of a source."""


def duration(track: int) -> int:
    """Length of a track in seconds."""
    return 100 + 5 * (track % 40)


def title(track: int) -> str:
    """Title of a track. No title is an artist's name, and some have quotes, commas or other letters."""
    return ("Song {}", 'The "{}"', "Ночь {}", "One, two, {}")[track % 4].format(track)


def artist(track: int) -> str:
    """Artist of a track; each has four tracks."""
    return ("Band {}", "Sigur Rós {}")[track // 4 % 2].format(track // 4)


def listening(*, users: int, sessions: int, seed: int = 1) -> list[Play]:
    """Plays in the order of time: sessions of two to six tracks, where the next track is often the next number."""
    rng = random.Random(seed)
    plays = []
    for user in range(users):
        for session in range(sessions):
            now = FIRST_SECOND + session * 86_400 + user * 600 + rng.randrange(60)
            track = rng.randrange(NUM_TRACKS)
            for _ in range(rng.randint(2, 6)):
                seconds = rng.choice([duration(track), duration(track), duration(track) // 2, 5])
                plays.append(Play(user, session, now, track, seconds))
                now += seconds + 1
                track = (track + 1) % NUM_TRACKS if rng.random() < 0.8 else rng.randrange(NUM_TRACKS)
    return sorted(plays, key=lambda play: (play.start, play.user))
