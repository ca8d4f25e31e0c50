"""What is odd in the plays of listeners, and how much of it: early and future plays, machines, sessions of days.

The numbers are sums over listeners, so that `prepare.py`, which has some of the listeners at a time, adds them up.
S sessions, E events.
"""

import time
from collections.abc import Mapping
from datetime import UTC, datetime

import numpy as np
from jaxtyping import Bool, Float64, Int64

from segue.catalog import changes
from segue.datamodules.pairs.pair_rules import Policies

EARLIEST_YEAR = 1990
"""Nobody logged plays before; a clock that was never set begins in 1970 or 1980."""
PLAYS_OF_A_MACHINE = 1000
"""Plays on one day: a play every 86 seconds, day and night."""
LONGEST_HOURS = 24
"""A session without a pause that is longer is no session of a person."""
HOURS = [f"hour_{hour:02}" for hour in range(24)]
"""Names of the numbers of plays by the hour of the day, where times have no zone."""
_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS


def count_odd(
    events: Mapping[str, np.ndarray],
    session: Int64[np.ndarray, "E"],
    num_sessions: int,
    policies: Policies,
    *,
    is_local: bool,
) -> dict[str, int]:
    """Count what is odd.

    Args:
        events: `user_id` and `timestamp` of events that no policy left out.
        policies: a day in `since` says that earlier times are meant.
        is_local: whether the times have no zone, so that their hours say something.

    Returns:
        `plays`: all of them; `future` and `early`: plays later than the clock of this machine, and plays before
            `EARLIEST_YEAR`; `machines` and `plays_of_machines`: listeners with `PLAYS_OF_A_MACHINE` plays on a day, and
            all their plays; `long_sessions` and `plays_of_long_sessions`: sessions of more than `LONGEST_HOURS`; and
            `HOURS`. Numbers that are 0 are missing.
    """
    user, timestamp = events["user_id"], events["timestamp"]
    early_ms = datetime(EARLIEST_YEAR, 1, 1, tzinfo=UTC).timestamp() * 1000
    is_busy = busy_listeners(user, timestamp, PLAYS_OF_A_MACHINE)
    is_long = hours_of_sessions(session, timestamp, num_sessions) > LONGEST_HOURS
    found = {
        "plays": len(timestamp),
        "future": (timestamp > time.time() * 1000).sum(),
        "early": (timestamp < early_ms).sum() if policies.since is None else 0,
        "machines": len(np.unique(user[is_busy])),
        "plays_of_machines": is_busy.sum(),
        "long_sessions": is_long.sum(),
        "plays_of_long_sessions": is_long[session].sum(),
    }
    if is_local:
        found |= dict(zip(HOURS, np.bincount(timestamp // _HOUR_MS % 24, minlength=24), strict=True))
    return {name: int(num) for name, num in found.items() if num}


def busy_listeners(
    user: Int64[np.ndarray, "E"], timestamp: Int64[np.ndarray, "E"], least: int
) -> Bool[np.ndarray, "E"]:
    """Whether the listener of each event has so many plays on some day (UTC).

    Args:
        user: the listener of each event; those of one are together.
        timestamp: in milliseconds since 1970.
        least: number of plays on a day.
    """
    listener = changes(user).cumsum() - 1
    is_busy = np.bincount(listener) >= least  # only these can be
    some = is_busy[listener]
    if some.any():
        day = timestamp[some] // _DAY_MS
        first, num_days = int(day.min()), int(day.max() - day.min()) + 1
        days, plays = np.unique(listener[some] * num_days + (day - first), return_counts=True)
        is_busy[:] = False
        is_busy[days[plays >= least] // num_days] = True
    return np.asarray(is_busy[listener])


def hours_of_sessions(
    session: Int64[np.ndarray, "E"], timestamp: Int64[np.ndarray, "E"], num_sessions: int
) -> Float64[np.ndarray, "S"]:
    """Hours from the first to the last play of each session; 0 for one without events.

    Args:
        session: number of the session of each event; those of one are together, by time.
        timestamp: in milliseconds since 1970.
    """
    hours = np.zeros(num_sessions)
    if len(session):
        begins = np.flatnonzero(changes(session))
        ends = np.append(begins[1:], len(session)) - 1
        hours[session[begins]] = (timestamp[ends] - timestamp[begins]) / _HOUR_MS
    return hours
