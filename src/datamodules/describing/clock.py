"""The times of a source: its span, pauses, ties, the busiest day of a listener.

S sessions, E events, n values. Times are in milliseconds since 1970.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pandas as pd
from jaxtyping import Int64

from segue.catalog import changes
from segue.datamodules.pairs.sessions import Sessions

DAY_MS = 86_400_000
NUM_BINS = 60
"""Number of bins of the plays over time."""


@dataclass(frozen=True, kw_only=True)
class Clock:
    """The times of the plays.

    Args:
        first: time of the first play, in UTC.
        last: time of the last play, in UTC.
        median_ms: median time, in milliseconds since 1970.
        last_ms: time of the last play, in milliseconds since 1970.
        span_days: days from the first to the last play.
        ties: share of the plays that have the same time as another, earlier play of the same listener in the file.
        duplicates: share of the plays whose listener, time and track another play has too, without the first of each.
        busiest_listener: number of the listener with most plays in one day (UTC), from 1.
        busiest_day: this day.
        busiest_plays: number of plays on this day.
        silence_days: longest time without a play of anybody, in days.
        silence_from: when it began, in UTC.
        silence_to: when it ended, in UTC.
        plays_before_silence: number of plays before it.
        gaps: number of pauses between successive plays of a listener in [2^0, 2^1) seconds, [2^1, 2^2), and so on;
            pauses below 1 second are in the first.
        median_gap_s: median of these pauses, in seconds; None where no listener has two plays.
        plays_over_time: number of plays in each of NUM_BINS equal parts of the span.
    """

    first: str
    last: str
    median_ms: int
    last_ms: int
    span_days: float
    ties: float
    duplicates: float
    busiest_listener: int
    busiest_day: str
    busiest_plays: int
    silence_days: float
    silence_from: str
    silence_to: str
    plays_before_silence: int
    gaps: list[int]
    median_gap_s: float | None
    plays_over_time: list[int]


def measure_clock(sessions: Sessions, listener: Int64[np.ndarray, "E"]) -> Clock:
    """Measure the times of a source that has a clock.

    Args:
        sessions: all sessions, at least one.
        listener: number of the listener of each event.
    """
    time, track = sessions.timestamp, sessions.listens.track
    order = _by_listener_and_time(listener, time)
    of, at = listener[order], time[order]
    same_listener = of[1:] == of[:-1]
    pauses = np.diff(at)[same_listener]
    tied = np.concatenate([[False], same_listener & (at[1:] == at[:-1])])
    day = at // DAY_MS
    begins = np.flatnonzero(changes(of, day))
    plays = np.diff(begins, append=len(day))
    busiest = begins[plays.argmax()]
    times = np.sort(time)
    first, last = int(times[0]), int(times[-1])
    silence = int(np.diff(times).argmax()) if len(times) > 1 else 0
    before, after = int(times[silence]), int(times[min(silence + 1, len(times) - 1)])
    in_group = tied | np.append(tied[1:], False)
    both = {"group": (~tied).cumsum()[in_group], "track": track[order][in_group]}
    return Clock(
        first=utc(first),
        last=utc(last),
        median_ms=int(times[len(times) // 2]),
        last_ms=last,
        span_days=(last - first) / DAY_MS,
        ties=float(tied.sum() / len(time)),
        duplicates=int(pd.DataFrame(both).duplicated().sum()) / len(time),
        busiest_listener=int(of[busiest]) + 1,
        busiest_day=utc(int(day[busiest]) * DAY_MS).partition(" ")[0],
        busiest_plays=int(plays.max()),
        silence_days=(after - before) / DAY_MS,
        silence_from=utc(before),
        silence_to=utc(after),
        plays_before_silence=silence + 1,
        gaps=by_powers_of_two(pauses // 1000),
        median_gap_s=float(np.median(pauses) / 1000) if len(pauses) else None,
        plays_over_time=np.histogram(times, NUM_BINS, (first, max(last, first + 1)))[0].tolist(),
    )


def _by_listener_and_time(listener: Int64[np.ndarray, "E"], time: Int64[np.ndarray, "E"]) -> Int64[np.ndarray, "E"]:
    """Places of the events in the order of listeners and times. One key for both is sorted in a third of the time."""
    first, span = int(time.min()), int(time.max()) - int(time.min()) + 1
    if span * (int(listener.max()) + 1) > np.iinfo(np.int64).max:
        return np.lexsort((time, listener))
    return np.argsort(listener * span + (time - first))


def by_powers_of_two(values: Int64[np.ndarray, "n"]) -> list[int]:
    """Number of values in [2^0, 2^1), [2^1, 2^2), and so on; values below 1 are in the first.

    >>> by_powers_of_two(np.array([1, 1, 2, 8]))
    [2, 1, 0, 1]
    """
    return list(map(int, np.bincount(np.frexp(np.maximum(values, 1).astype(np.float64))[1] - 1)))


def utc(milliseconds: int) -> str:
    """A time in UTC, to the second; the milliseconds themselves where no calendar has them.

    >>> utc(1_767_571_200_000), utc(10**18)
    ('2026-01-05 00:00:00', '1000000000000000000 ms')
    """
    try:
        return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError, OSError):
        return f"{milliseconds} ms"
