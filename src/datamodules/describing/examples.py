"""The first sessions of a source, as they were read.

E events.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from segue.catalog import Catalog
from segue.datamodules.pairs.sessions import Sessions


@dataclass(frozen=True, kw_only=True)
class ExamplePlay:
    """A play as it was read.

    Args:
        time: when, in UTC; None without a clock.
        title: title of the track, or its id where it has none.
        artist: name of the artist; empty where unknown.
        share: share played; None where unknown.
    """

    time: str | None
    title: str
    artist: str
    share: float | None


@dataclass(frozen=True, kw_only=True)
class ExampleSession:
    """A session as it was read.

    Args:
        listener: number of the listener, from 1, in the order of the ids.
        num_plays: number of plays in the session.
        plays: the first of them.
    """

    listener: int
    num_plays: int
    plays: list[ExamplePlay]


def first_sessions(sessions: Sessions, catalog: Catalog, *, num_sessions: int, num_plays: int) -> list[ExampleSession]:
    """The first sessions of a source.

    Args:
        sessions: all sessions, in the order in which they started.
        catalog: their tracks.
        num_sessions: number of sessions.
        num_plays: largest number of plays of each.

    Returns:
        The sessions with their first plays.
    """
    listens, found = sessions.listens, []
    for number in range(min(num_sessions, len(sessions))):
        start, end = np.searchsorted(listens.session, (number, number + 1))
        plays = []
        for event in range(start, min(end, start + num_plays)):
            row, share = listens.track[event], float(listens.played_ratio[event])
            plays.append(
                ExamplePlay(
                    time=utc(int(sessions.timestamp[event])) if sessions.has_clock else None,
                    title=title_of(int(row), catalog),
                    artist=str(catalog.artists[catalog.artist_of[row]]),
                    share=None if np.isnan(share) else round(share, 4),
                )
            )
        listener = int(sessions.listener[number]) + 1
        found.append(ExampleSession(listener=listener, num_plays=int(end - start), plays=plays))
    return found


def title_of(row: int, catalog: Catalog) -> str:
    """Title of a track; where it has none, its id in the source."""
    ids = catalog.track_ids if catalog.source_ids is None else catalog.source_ids
    return str(catalog.titles[row]) or f"track {ids[row]}"


def utc(milliseconds: int) -> str:
    """A time in UTC, to the second; the milliseconds themselves where no calendar has them.

    >>> utc(1_767_571_200_000), utc(10**18)
    ('2026-01-05 00:00:00', '1000000000000000000 ms')
    """
    try:
        return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError, OSError):
        return f"{milliseconds} ms"
