"""Sessions: how the events of a listener are cut into sessions.

S sessions, E events, L listeners. The same rules, without the policy for interleaved sessions, are in
`sql/sessions.sql` for logs that are too large for one machine. Tests check that both give the same sessions.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Int64, Shaped

from src.catalog import Listens
from src.datamodules.interleaved import separate
from src.errors import check_number

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


@dataclass(frozen=True, eq=False, kw_only=True)
class Sessions:
    """All sessions in the order in which they started.

    Args:
        user: id of the listener of each session in the source.
        number: number 1, 2, … of each session among those of its user.
        listener: number of the listener, in 0..L-1; each playlist has a listener of its own.
        has_clock: whether the source has timestamps. Without them the order of the sessions has no meaning.
        listens: every event.
        place: place 0, 1, … of each event in its session.
        timestamp: time of each event, in ms since 1970; 0 without a clock.
        num_interleaved: number of sessions that ran at the same time as another one of their user.
    """

    user: Int64[np.ndarray, "S"]
    number: Int64[np.ndarray, "S"]
    listener: Int64[np.ndarray, "S"]
    has_clock: bool
    listens: Listens
    place: Int64[np.ndarray, "E"]
    timestamp: Int64[np.ndarray, "E"]
    num_interleaved: int = 0

    def __len__(self) -> int:
        return len(self.user)

    @property
    def key(self) -> Shaped[np.ndarray, "S"]:
        """Key of each session, `<user>/<number>`. It does not change while the log grows."""
        pairs = zip(self.user.tolist(), self.number.tolist(), strict=True)
        return np.array([f"{user}/{number}" for user, number in pairs], object)


def cut_sessions(database: "DuckDBPyConnection", *, session_gap_minutes: float, interleaved: str) -> Sessions:
    """Cut the events of a source into sessions.

    A session ends after an event marked as last, before a pause longer than the gap, or where the source reports
    another session. Where the source has recommendations, they separate the sessions of a user that ran at the same
    time.

    Args:
        database: database that holds the table `events`; see `SourceEvents`.
        session_gap_minutes: a longer pause ends a session, in minutes, above 0.
        interleaved: policy for sessions of one user at the same time; see `separate`.

    Returns:
        The sessions.

    Raises:
        InputError: `session_gap_minutes` is out of range.
    """
    check_number("session_gap_minutes", session_gap_minutes, above=0, most=1e9, hint="30 is usual")
    has_recommendations = any(name == "recommendation" for name, *_ in database.execute("DESCRIBE events").fetchall())
    columns = database.execute(f"""
        SELECT user_id, COALESCE(timestamp, 0) AS timestamp, timestamp IS NOT NULL AS has_clock, position, track,
               COALESCE(CAST(played_ratio AS FLOAT), 'nan') AS played_ratio,
               COALESCE(source_session, 0) AS source_session, is_last
               {", COALESCE(recommendation, -1) AS recommendation" * has_recommendations}
        FROM events ORDER BY user_id, timestamp, position""").fetchnumpy()
    events = {name: np.asarray(column) for name, column in columns.items()}
    gap_ms = round(session_gap_minutes * 60_000)
    begins = _changes(events["user_id"]) | np.roll(events["is_last"], 1) | _changes(events["source_session"])
    begins[1:] |= np.diff(events["timestamp"]) > gap_ms
    num_interleaved = 0
    if has_recommendations:
        events, begins, num_interleaved = separate(events, begins, policy=interleaved, gap_ms=gap_ms)
    user, timestamp = events["user_id"], events["timestamp"]
    starts_user = _changes(user)

    start = np.flatnonzero(begins)
    nth = np.arange(len(start))
    is_first = starts_user[start]
    number = 1 + nth - np.maximum.accumulate(np.where(is_first, nth, 0))
    length = np.diff(start, append=len(user))
    by_time = np.lexsort((events["position"][start], timestamp[start]))
    listener = (is_first.cumsum() - 1)[by_time]
    start, number, length = start[by_time], number[by_time], length[by_time]
    place = np.arange(len(user)) - np.repeat(length.cumsum() - length, length)
    event = np.repeat(start, length) + place
    return Sessions(
        user=user[start],
        number=number,
        listener=listener,
        has_clock=bool(events["has_clock"].all()),
        listens=Listens(
            session=np.repeat(nth, length), track=events["track"][event], played_ratio=events["played_ratio"][event]
        ),
        place=place,
        timestamp=timestamp[event],
        num_interleaved=num_interleaved,
    )


def _changes(column: Shaped[np.ndarray, "E"]) -> Bool[np.ndarray, "E"]:
    """True for each event that differs from the event before it, and for the first event."""
    return np.concatenate([[True], column[1:] != column[:-1]])[: len(column)]
