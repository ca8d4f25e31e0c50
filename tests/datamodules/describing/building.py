"""Small sources to describe, from events written by hand."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from segue.catalog import Catalog
from segue.datamodules.describing.facts import Facts, first_sessions, measure
from segue.datamodules.describing.warnings import DataWarning, find_warnings
from segue.datamodules.pairs.sessions import Sessions
from segue.datamodules.pairs.split_pairs import SplitPairs
from segue.datamodules.reading.table import Reading
from tests.conftest import make_catalog, make_listens

START = 1_700_000_000_000
"""14 November 2023, in ms."""
MINUTE, DAY = 60_000, 86_400_000
GAP = 30 * MINUTE


class Play(NamedTuple):
    listener: int
    time: int
    track: int
    share: float


def sessions_of(plays: Sequence[Play], *, has_clock: bool = True) -> Sessions:
    """Sessions of a log: a pause above 30 minutes ends one; without a clock each listener has one."""
    cut: list[list[Play]] = []
    for play in sorted(plays, key=lambda play: (play.listener, play.time)):
        last = cut[-1][-1] if cut else None
        continues = last is not None and last.listener == play.listener
        if last is not None and continues and (not has_clock or play.time - last.time <= GAP):
            cut[-1].append(play)
        else:
            cut.append([play])
    if has_clock:
        cut.sort(key=lambda session: session[0].time)
    listener = np.array([session[0].listener for session in cut], np.int64)
    return Sessions(
        user=listener + 1000,
        number=np.arange(len(cut)),
        listener=listener,
        has_clock=has_clock,
        listens=make_listens([[(play.track, play.share) for play in session] for session in cut]),
        place=np.array([place for session in cut for place in range(len(session))], np.int64),
        timestamp=np.array([play.time * has_clock for session in cut for play in session], np.int64),
    )


def data_of(plays: Sequence[Play], *, has_clock: bool = True, **changes: Any) -> SplitPairs:
    """What a datamodule has read, without splits; its tracks are 0, 1, …, two to an artist."""
    num_tracks = max(play.track for play in plays) + 1
    catalog, sessions = make_catalog(row // 2 for row in range(num_tracks)), sessions_of(plays, has_clock=has_clock)
    given: dict[str, Any] = {"catalog": catalog, "sessions": sessions, "reading": reading_of(len(plays)), "part": None}
    given |= {"pairs": {}, "hidden": np.zeros(num_tracks, bool), "dropped": {}, "is_by_time": has_clock}
    return SplitPairs(**{**given, **changes})


def reading_of(num_rows: int, **changes: Any) -> Reading:
    """A table that was read without anything to report."""
    counts = {"num_rows": num_rows, "num_events": num_rows, "num_capped": 0, "rejected": {}, "dropped": {}}
    lists: dict[str, Any] = {"guessed": [], "examples": [], "unused": []}
    columns, units = {"user": "user", "title": "title"}, {"timestamp": "ms"}
    given = {"columns": columns, "units": units, "share": "ratio", "encoding": "utf-8"}
    return Reading(**{**given, **counts, **lists, **changes})


def facts_of(data: Any) -> Facts:
    return measure(data) | {"first_sessions": first_sessions(data, num_sessions=3, num_plays=4)}


def warnings_of(data: Any, day: str | None = None) -> list[DataWarning]:
    return find_warnings(data.reading, data.dropped, day, facts_of(data))


def usual_plays(*, num_listeners: int = 5, num_sessions: int = 4) -> list[Play]:
    """A log that nothing is wrong with: every listener has a session a day, of five tracks."""
    rng = np.random.default_rng(0)
    return [
        Play(listener, START + day * DAY + listener * MINUTE + nth * 3 * MINUTE, int(rng.integers(40)), round(share, 2))
        for listener in range(num_listeners)
        for day in range(num_sessions)
        for nth, share in enumerate(rng.random(5).tolist())
    ]


def nameless(num_tracks: int) -> Catalog:
    """A catalogue without artists."""
    return Catalog.from_columns(range(num_tracks), [None] * num_tracks, [None] * num_tracks, source="test")
