"""Sessions: how the events of listeners are cut into sessions.

S sessions, E events, L listeners. The rules need all events of a listener, but not those of others: `cut_sessions` cuts
a whole source, and `prepare.py` calls `cut_events` with some of the listeners at a time.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int64, Shaped

from segue.catalog import Listens, changes
from segue.datamodules.pairs.interleaved import separate
from segue.datamodules.pairs.pair_rules import PairRules
from segue.datamodules.reading.table import Reading, SourceEvents

DAY_MS = 86_400_000
"""Milliseconds of a day."""


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
        dropped: number of events that each policy left out.
    """

    user: Shaped[np.ndarray, "S"]
    number: Int64[np.ndarray, "S"]
    listener: Int64[np.ndarray, "S"]
    has_clock: bool
    listens: Listens
    timestamp: Int64[np.ndarray, "E"]
    place: Int64[np.ndarray, "E"]
    num_interleaved: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.user)

    @property
    def key(self) -> Shaped[np.ndarray, "S"]:
        """Key of each session, `<user>/<number>`. It does not change while the log grows."""
        return session_keys(self.user, self.number)

    def without(self, left_out: Mapping[str, Bool[np.ndarray, "E"]]) -> tuple["Sessions", Int64[np.ndarray, "S_left"]]:
        """Leave out events. Sessions that have no event any more are left out too.

        Args:
            left_out: True for each event to leave out, by the name of the policy; no event has two.

        Returns:
            The other events, in the same order, and the numbers that the remaining sessions had.
        """
        kept = ~np.logical_or.reduce([np.zeros(len(self.place), bool), *left_out.values()])
        session = self.listens.session[kept]
        remaining = session[changes(session)]
        number, place, _ = gather(np.zeros(len(remaining), np.int64), np.bincount(session)[remaining])
        sessions = replace(
            self,
            **{name: getattr(self, name)[remaining] for name in ("user", "number", "listener")},
            listens=replace(self.listens.where(kept), session=number),
            timestamp=self.timestamp[kept],
            place=place,
            dropped={**self.dropped, **{policy: int(events.sum()) for policy, events in left_out.items()}},
        )
        return sessions, remaining


def session_keys(user: Shaped[np.ndarray, "S"], number: Int64[np.ndarray, "S"]) -> Shaped[np.ndarray, "S"]:
    """Keys of sessions, `<user>/<number>`.

    Args:
        user: id of the listener of each session.
        number: number of the session among those of its user.
    """
    return np.array([f"{user}/{nth}" for user, nth in zip(user.tolist(), number.tolist(), strict=True)], object)


def cut_sessions(source: SourceEvents, rules: PairRules) -> Sessions:
    """Cut all events of a source into sessions.

    Args:
        source: the events.
        rules: the gap, and which events are left out.

    Returns:
        The sessions. With `share=longest`, the shares of `listens` are milliseconds.
    """
    query = source.database.execute(source.query)
    events = {name: np.asarray(column) for name, column in query.fetchnumpy().items()}  # in memory once
    sessions, _, _ = cut_events(events, source.reading, rules)
    return sessions if source.user_names is None else replace(sessions, user=source.user_names[sessions.user])


def cut_events(
    events: dict[str, np.ndarray], reading: Reading, rules: PairRules
) -> tuple[Sessions, Int64[np.ndarray, "S"], int]:
    """Cut events into sessions.

    A session ends after an event marked as last, before a pause longer than the gap, or where the source reports
    another session. Where the source has recommendations, they separate the sessions of a user that ran at the same
    time.

    Args:
        events: the columns of `SourceEvents.query`: all events of some listeners, in any order. They are taken out of
            it one by one, because memory for a second copy of all may be missing.
        reading: which columns the source has.
        rules: the gap, and which events are left out.

    Returns:
        The sessions, whose users and listeners are numbers: those of `user_id`, and 0..L-1; the place of the first
        event of each session among the rows of the source; and the number of listeners, with those who have no session
        left (L).
    """
    policies, has_clock = rules.policies, "timestamp" in reading.columns
    events, dropped = _sorted(events, has_clock=has_clock), {"duplicates": 0}
    if has_clock and policies.duplicates == "drop" and (again := _duplicates(events)).any():
        dropped["duplicates"] = int(again.sum())
        events = _where(events, ~again)
    if has_clock and policies.plays_a_day is not None:
        is_busy = _of_busy_listeners(events["user_id"], events["timestamp"], policies.plays_a_day)
        dropped["plays_a_day"] = int(is_busy.sum())
        events = _where(events, ~is_busy)
    begins, pause = changes(events["user_id"]), np.diff(events["timestamp"])
    if "is_last" in events:
        begins |= np.roll(events["is_last"], 1)
    if "source_session" in events:
        begins |= changes(events["source_session"])
    begins[1:] |= pause > rules.session_gap_ms
    num_interleaved, num_before = 0, len(begins)
    if "recommendation" in events:
        policy, gap_ms = policies.interleaved, rules.session_gap_ms
        events, begins, num_interleaved = separate(events, begins, policy=policy, gap_ms=gap_ms)
        dropped["interleaved"] = num_before - len(begins)
    if reading.share == "gap":
        # Share of each track that fits before the next one starts; unknown for the last of a session
        gap = np.append(np.diff(events["timestamp"]), 0).astype(np.float64)
        gap[np.append(begins[1:], True)] = np.nan
        events["share"] = np.asarray(np.minimum(gap / events["share"], 1.0), np.float32)
    session, is_first = begins.cumsum() - 1, changes(events["user_id"])[begins]
    nth, listener = np.arange(len(is_first)), is_first.cumsum() - 1
    number = 1 + nth - np.maximum.accumulate(np.where(is_first, nth, 0))
    if policies.repeats == "drop":
        again = pd.DataFrame({"session": session, "track": events["track"]}).duplicated().to_numpy()
        dropped["repeats"] = int(again.sum())
        events, session = _where(events, ~again), session[~again]
    length = np.bincount(session, minlength=len(nth))
    start, some = length.cumsum() - length, np.flatnonzero(length)
    some = some[np.lexsort((events["position"][start[some]], events["timestamp"][start[some]]))]
    session, place, event = gather(start[some], length[some])
    sessions = Sessions(
        user=events["user_id"][start[some]],
        number=number[some],
        listener=listener[some],
        has_clock=has_clock,
        listens=Listens(session=session, track=events["track"][event], played_ratio=events["share"][event]),
        timestamp=events["timestamp"][event],
        place=place,
        num_interleaved=num_interleaved,
        dropped=dropped,
    )
    return sessions, events["position"][start[some]], int(is_first.sum())


def gather(start: Int64[np.ndarray, "S"], length: Int64[np.ndarray, "S"]) -> tuple[Int64[np.ndarray, "E"], ...]:
    """The events of sessions, session by session.

    Args:
        start: number of the first event of each session; its others follow.
        length: number of events of each session.

    Returns:
        Of each event: the place of its session in the arguments, its place 0, 1, … in the session, and its number.
    """
    session = np.repeat(np.arange(len(length)), length)
    place = np.arange(len(session)) - np.repeat(length.cumsum() - length, length)
    return session, place, np.repeat(start, length) + place


def _where(events: Mapping[str, np.ndarray], chosen: np.ndarray) -> dict[str, np.ndarray]:
    return {name: column[chosen] for name, column in events.items()}


def _sorted(events: dict[str, np.ndarray], *, has_clock: bool) -> dict[str, np.ndarray]:
    """The events by user, time and row; a session of the source stays together, where its first event is."""
    users = (events["user_id"] - events["user_id"].min(initial=0)).astype("<i8").view("<u2").reshape(-1, 4)
    order = np.lexsort((events["position"], events["timestamp"], *users.T))  # numpy sorts short numbers by their digits
    events = {name: events.pop(name).take(order) for name in tuple(events)}
    if has_clock and "source_session" in events:
        sessions = pd.DataFrame({name: events[name] for name in ("user_id", "source_session")})
        number = sessions.groupby(["user_id", "source_session"], sort=False).ngroup().to_numpy()
        if (np.diff(number) < 0).any():
            return _where(events, np.argsort(number, kind="stable"))
    return events


def _duplicates(columns: Mapping[str, np.ndarray]) -> Bool[np.ndarray, "E"]:
    """Whether each event, sorted by user and timestamp, repeats an earlier one: both, its track and its share."""
    user, time = columns["user_id"], columns["timestamp"]
    ties = np.flatnonzero((user[1:] == user[:-1]) & (time[1:] == time[:-1]))
    tied, result = np.union1d(ties, ties + 1), np.zeros(len(user), bool)
    keys = {name: columns[name][tied] for name in ("user_id", "timestamp", "track", "share")}
    result[tied] = pd.DataFrame(keys).duplicated()
    return result


def _of_busy_listeners(
    user: Int64[np.ndarray, "E"], timestamp: Int64[np.ndarray, "E"], least: int
) -> Bool[np.ndarray, "E"]:
    """Whether the listener of each event, sorted by listener and time, has so many plays on some day (UTC)."""
    listener, day = changes(user).cumsum() - 1, timestamp // DAY_MS
    begins = np.flatnonzero(changes(listener, day))
    is_busy = np.diff(begins, append=len(day)) >= least
    return np.isin(listener, listener[begins[is_busy]])
