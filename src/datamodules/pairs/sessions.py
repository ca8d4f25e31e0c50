"""Sessions: how the events of a listener are cut into sessions.

S sessions, E events, L listeners. The same rules, without the policies, are in `sql/sessions.sql` for logs that are too
large for one machine. Tests check that both give the same sessions.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float32, Int64, Shaped

from segue.catalog import Listens
from segue.datamodules.pairs.interleaved import separate
from segue.datamodules.pairs.left_out import Policies, duplicates, of_rare_users, repeats
from segue.errors import check_number

if TYPE_CHECKING:
    from segue.datamodules.reading.table import SourceEvents


@dataclass(frozen=True, eq=False, kw_only=True)
class Sessions:
    """All sessions in the order in which they started.

    Args:
        user: id of the listener of each session in the source: a whole number or a text.
        number: number 1, 2, … of each session among those of its user.
        listener: number of the listener, in 0..L-1; each playlist has a listener of its own.
        has_clock: whether the source has timestamps. Without them the order of the sessions has no meaning.
        listens: every event.
        timestamp: of each event, in milliseconds since 1970; 0 without a clock.
        place: place 0, 1, … of each event in its session.
        num_interleaved: number of sessions that ran at the same time as another one of their user.
        num_tied: number of events that have the timestamp of the event before them.
        dropped: number of events that each policy left out.
    """

    user: Shaped[np.ndarray, "S"]
    number: Int64[np.ndarray, "S"]
    listener: Int64[np.ndarray, "S"]
    has_clock: bool
    listens: Listens
    timestamp: Int64[np.ndarray, "E"]
    place: Int64[np.ndarray, "E"]
    num_interleaved: int
    num_tied: int
    dropped: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.user)

    @property
    def key(self) -> Shaped[np.ndarray, "S"]:
        """Key of each session, `<user>/<number>`. It does not change while the log grows."""
        pairs = zip(self.user.tolist(), self.number.tolist(), strict=True)
        return np.array([f"{user}/{number}" for user, number in pairs], object)

    def without(self, left_out: Bool[np.ndarray, "E"], policy: str) -> "Sessions":
        """Leave out events. Sessions that have no event any more are left out too.

        Args:
            left_out: True for each event to leave out.
            policy: its name, for `dropped`.

        Returns:
            The other events, in the same order.
        """
        kept = ~left_out
        session = self.listens.session[kept]
        is_first = _changes(session)
        remaining = session[is_first]
        number = is_first.cumsum() - 1
        start = np.flatnonzero(is_first)
        return replace(
            self,
            user=self.user[remaining],
            number=self.number[remaining],
            listener=self.listener[remaining],
            listens=replace(self.listens.where(kept), session=number),
            timestamp=self.timestamp[kept],
            place=np.arange(len(number)) - start[number],
            dropped={**self.dropped, policy: self.dropped.get(policy, 0) + int(left_out.sum())},
        )


def cut_sessions(source: "SourceEvents", *, session_gap_minutes: float, policies: Policies) -> Sessions:
    """Cut the events of a source into sessions.

    A session ends after an event marked as last, before a pause longer than the gap, or where the source reports
    another session. Where the source has recommendations, they separate the sessions of a user that ran at the same
    time.

    Args:
        source: the events.
        session_gap_minutes: a longer pause ends a session, in minutes, above 0.
        policies: which events are left out.

    Returns:
        The sessions. With `share=longest`, the shares of `listens` are milliseconds; see `shares_of_longest`.

    Raises:
        InputError: `session_gap_minutes` is out of range.
    """
    check_number("session_gap_minutes", session_gap_minutes, above=0, most=1e9, hint="30 is usual")
    events, dropped = _sorted_events(source), {"duplicates": 0}
    has_clock = "timestamp" in source.reading.columns
    if has_clock and policies.duplicates == "drop" and (again := duplicates(events)).any():
        dropped["duplicates"] = int(again.sum())
        events = {name: column[~again] for name, column in events.items()}
    gap_ms = round(session_gap_minutes * 60_000)
    starts_user = _changes(events["user_id"])
    is_tied = ~starts_user[1:] & (np.diff(events["timestamp"]) == 0)
    begins = starts_user.copy()
    if "is_last" in events:
        begins |= np.roll(events["is_last"], 1)
    if "source_session" in events:
        begins |= _changes(events["source_session"])
    begins[1:] |= np.diff(events["timestamp"]) > gap_ms
    num_interleaved, num_before = 0, len(begins)
    if "recommendation" in events:
        events, begins, num_interleaved = separate(events, begins, policy=policies.interleaved, gap_ms=gap_ms)
        dropped["interleaved"] = num_before - len(begins)
    if source.reading.share == "gap":
        events["share"] = _shares_of_gaps(events, begins)
    sessions = _in_order_of_start(source, events, begins)
    sessions = replace(
        sessions,
        has_clock=has_clock,
        num_interleaved=num_interleaved,
        num_tied=int(is_tied.sum()) if has_clock else 0,
        dropped=dropped,
    )
    return _apply(policies, sessions)


def _sorted_events(source: "SourceEvents") -> dict[str, np.ndarray]:
    """The columns that the events have, sorted by user and time; a session of the source stays together."""
    roles = source.reading.columns
    optional = {
        "source_session": "COALESCE(source_session, 0) AS source_session" if "session" in roles else "",
        "is_last": "is_last" if "last" in roles else "",
        "recommendation": "COALESCE(recommendation, -1) AS recommendation" if "recommendation" in roles else "",
    }
    more = "".join(f", {text}" for text in optional.values() if text)
    columns = source.database.execute(f"""
        SELECT user_id, COALESCE(timestamp, 0) AS timestamp, position, track,
               COALESCE(played_ratio, 'nan'::FLOAT) AS share {more}
        FROM events ORDER BY user_id, timestamp, position""").fetchnumpy()
    events = {name: np.asarray(column) for name, column in columns.items()}
    if "source_session" in events and "timestamp" in roles:
        events = _together(events)
    return events


def _together(events: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Move the events of each session of the source to its first event, if other sessions lie between them."""
    user, session = events["user_id"], events["source_session"]
    order = np.lexsort((np.arange(len(user)), session, user))
    begins = _changes(user[order]) | _changes(session[order])
    first = np.empty(len(user), np.int64)
    first[order] = order[np.flatnonzero(begins)][begins.cumsum() - 1]
    if (np.diff(first) >= 0).all():
        return events
    order = np.lexsort((np.arange(len(user)), first))
    return {name: column[order] for name, column in events.items()}


def _shares_of_gaps(events: Mapping[str, np.ndarray], begins: Bool[np.ndarray, "E"]) -> Float32[np.ndarray, "E"]:
    """Share of each track that fits before the next one starts; unknown for the last of a session."""
    gap = np.append(np.diff(events["timestamp"]), 0).astype(np.float64)
    gap[np.append(begins[1:], True)] = np.nan
    return np.asarray(np.minimum(gap / events["share"], 1.0), np.float32)


def _in_order_of_start(
    source: "SourceEvents", events: Mapping[str, np.ndarray], begins: Bool[np.ndarray, "E"]
) -> Sessions:
    user, timestamp = events["user_id"], events["timestamp"]
    start = np.flatnonzero(begins)
    nth = np.arange(len(start))
    is_first = _changes(user)[start]
    number = 1 + nth - np.maximum.accumulate(np.where(is_first, nth, 0))
    length = np.diff(start, append=len(user))
    by_time = np.lexsort((events["position"][start], timestamp[start]))
    listener = (is_first.cumsum() - 1)[by_time]
    start, number, length = start[by_time], number[by_time], length[by_time]
    place = np.arange(len(user)) - np.repeat(length.cumsum() - length, length)
    event = np.repeat(start, length) + place
    return Sessions(
        user=user[start] if source.user_names is None else source.user_names[user[start]],
        number=number,
        listener=listener,
        has_clock=False,
        listens=Listens(
            session=np.repeat(nth, length),
            track=events["track"][event].astype(np.int64),
            played_ratio=events["share"][event],
        ),
        timestamp=timestamp[event],
        place=place,
        num_interleaved=0,
        num_tied=0,
        dropped={},
    )


def _apply(policies: Policies, sessions: Sessions) -> Sessions:
    """Leave out repeats, long sessions and rare users, in this order."""
    if policies.repeats == "drop":
        again = repeats(sessions.listens.session, sessions.listens.track)
        sessions = sessions.without(again, "repeats")
    if policies.longest_session is not None:
        is_long = np.bincount(sessions.listens.session, minlength=len(sessions)) > policies.longest_session
        sessions = sessions.without(is_long[sessions.listens.session], "longest_session")
    if policies.min_sessions > 1:
        is_rare = of_rare_users(sessions.listener, policies.min_sessions)
        sessions = sessions.without(is_rare[sessions.listens.session], "min_sessions")
    return sessions


def _changes(column: Shaped[np.ndarray, "E"]) -> Bool[np.ndarray, "E"]:
    """True for each event that differs from the event before it, and for the first event."""
    return np.concatenate([[True], column[1:] != column[:-1]])[: len(column)]
