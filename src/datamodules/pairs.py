"""Sessions and pairs: from a table of events to arrays, and to the three splits.

P pairs, S sessions, E events, L listeners. The same steps stand in `sql/`, one file each, for logs that outgrow one
machine; the tests hold both to the same answers.
"""

from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32, Int8, Int64

from src.catalog import Listens
from src.errors import InputError, check_number

PAIRINGS = ("consecutive", "first", "window")
SPLITS = ("train", "val", "test")
SHARES = (0.8, 0.1, 0.1)
"""Share of sessions (of pairs for `split=pair`) in each of SPLITS."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Pairs:
    """Pairs of tracks in the order of sessions (by their start) and of places in a session.

    Args:
        session: session of each pair, 0..S-1 in the order in which they started.
        listener: who listened, 0..L-1; of playlists each has its own.
        previous: row of the track before.
        following: row of the track after.
        played_ratio: share of `following` that was played, 0 to 1; NaN where the source does not say.
    """

    session: Int64[np.ndarray, "P"]
    listener: Int64[np.ndarray, "P"]
    previous: Int64[np.ndarray, "P"]
    following: Int64[np.ndarray, "P"]
    played_ratio: Float32[np.ndarray, "P"]

    def __len__(self) -> int:
        return len(self.previous)

    def where(self, chosen: Bool[np.ndarray, "P"]) -> "Pairs":
        """Only the chosen pairs, in the same order."""
        return Pairs(
            session=self.session[chosen],
            listener=self.listener[chosen],
            previous=self.previous[chosen],
            following=self.following[chosen],
            played_ratio=self.played_ratio[chosen],
        )

    def as_listens(self) -> Listens:
        """Each pair as a session of two; nothing is said of how much of the track before was played."""
        unknown = np.full(len(self), np.nan, np.float32)
        return Listens(
            session=np.repeat(np.arange(len(self)), 2),
            track=np.stack([self.previous, self.following], 1).ravel(),
            played_ratio=np.stack([unknown, self.played_ratio], 1).ravel(),
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Sessions:
    """All sessions in the order in which they started.

    Args:
        key: `user/number of the session among the user's`: the same for as long as the log only grows.
        has_clock: whether the source gives times, so that the order means something.
        listens: every event.
    """

    key: np.ndarray
    has_clock: bool
    listens: Listens

    def __len__(self) -> int:
        return len(self.key)


def make_pairs(
    database: duckdb.DuckDBPyConnection, *, pairing: str, window: int, session_gap_minutes: float
) -> tuple[Sessions, Pairs]:
    """Cut the table `events` into sessions and the sessions into pairs.

    Args:
        database: holds the table `events`.
        pairing: `consecutive` (each track with the one before it), `first` (the first track of a session with every
            later one), or `window` (each track with every one at most `window` places before it).
        window: largest distance for `pairing=window`, at least 1.
        session_gap_minutes: a longer silence ends a session.

    Raises:
        InputError: an argument breaks its law.
    """
    if pairing not in PAIRINGS:
        raise InputError(f"pairing must be one of {', '.join(PAIRINGS)}, got {pairing!r}")
    check_number("window", window, whole=True, least=1, hint="pairing=consecutive is a window of 1")
    check_number("session_gap_minutes", session_gap_minutes, above=0, most=1e9, hint="30 is usual")
    events = database.execute("""
        SELECT user_id, COALESCE(timestamp, 0) AS timestamp, timestamp IS NOT NULL AS has_clock, position, track,
               COALESCE(CAST(played_ratio AS FLOAT), 'nan') AS played_ratio,
               COALESCE(source_session, 0) AS source_session, is_last
        FROM events ORDER BY user_id, timestamp, position""").fetchnumpy()
    user, timestamp = events["user_id"], events["timestamp"]
    starts_user = _changes(user)
    begins = starts_user | np.roll(events["is_last"], 1) | _changes(events["source_session"])
    begins[1:] |= np.diff(timestamp) > round(session_gap_minutes * 60_000)

    start = np.flatnonzero(begins)
    nth = np.arange(len(start))
    number = 1 + nth - np.maximum.accumulate(np.where(starts_user[start], nth, 0))
    length = np.diff(start, append=len(user))
    by_time = np.lexsort((events["position"][start], timestamp[start]))
    start, number, length = start[by_time], number[by_time], length[by_time]
    place = np.arange(len(user)) - np.repeat(length.cumsum() - length, length)
    moved = np.repeat(start, length) + place
    session, track, share = np.repeat(nth, length), events["track"][moved], events["played_ratio"][moved]
    listener = (starts_user.cumsum() - 1)[start]

    earlier, later = reach(place, pairing, window)
    return (
        Sessions(
            key=np.array([f"{who}/{n}" for who, n in zip(user[start].tolist(), number.tolist(), strict=True)], object),
            has_clock=bool(np.all(np.asarray(events["has_clock"]))),
            listens=Listens(session=session, track=track, played_ratio=share),
        ),
        Pairs(
            session=session[later],
            listener=listener[session[later]],
            previous=track[earlier],
            following=track[later],
            played_ratio=share[later],
        ),
    )


def _changes(column: Any) -> Any:
    """Where an event differs from the one before; the first one does."""
    return np.concatenate([[True], column[1:] != column[:-1]])[: len(column)]


def reach(
    place: Int64[np.ndarray, "E"], pairing: str, window: int
) -> tuple[Int64[np.ndarray, "P"], Int64[np.ndarray, "P"]]:
    """Which event is paired with which later one, given the place 0, 1, … of each in its session."""
    if pairing != "window":
        later = np.flatnonzero(place)
        return later - (place[later] if pairing == "first" else 1), later
    num = np.minimum(place, window)
    later = np.repeat(np.arange(len(place)), num)
    return later - np.repeat(num.cumsum(), num) + np.arange(len(later)), later


def split_sessions(sessions: Sessions, *, split: str, seed: int) -> Int8[np.ndarray, "S"]:
    """Give each session whole to a place in SPLITS.

    Args:
        sessions: the sessions, in the order of time.
        split: `time` (the earliest train, the last test) or `session` (at random).
        seed: decides `split=session`, through a hash of each session's key.

    Raises:
        InputError: `split=time` for a source without a clock.
    """
    if split == "time" and not sessions.has_clock:
        raise InputError("split=time needs timestamps, and this source has none; use datamodule.split=session")
    order = np.arange(len(sessions))
    if split == "session":
        hashes = pd.util.hash_array(sessions.key, hash_key=f"{seed:016d}", categorize=False)
        order = np.argsort(hashes, kind="stable")
    parts = np.empty(len(sessions), np.int8)
    parts[order] = _in_shares(len(sessions))
    return parts


def split_pairs(num_pairs: int, *, seed: int) -> Int8[np.ndarray, "P"]:
    """Give each pair to a place in SPLITS at random, sessions torn apart: the published recipe, which leaks."""
    return np.random.default_rng(seed).permutation(_in_shares(num_pairs))


def _in_shares(count: int) -> Int8[np.ndarray, "count"]:
    """`count` labels in the order of SPLITS, as many of each as SHARES says."""
    edges = np.round(np.cumsum(SHARES) * count).astype(int)
    return np.repeat(np.arange(len(SPLITS), dtype=np.int8), np.diff(edges, prepend=0))
