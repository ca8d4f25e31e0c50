"""Sessions and pairs: from a table of events to arrays, and to the three splits.

P pairs, S sessions, E events, L listeners. The SQL stands in `sql/`, one file a step.
"""

from dataclasses import dataclass
from pathlib import Path
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

_SQL = Path(__file__).parent / "sql"


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
    database.execute(
        "CREATE TABLE settings AS SELECT $gap::BIGINT AS session_gap_ms, $window::BIGINT AS pair_window",
        {"gap": round(session_gap_minutes * 60_000), "window": window},
    )
    database.execute(f"CREATE TABLE listens AS {(_SQL / 'sessions.sql').read_text()}")
    database.execute("""
        CREATE TABLE sessions AS
        SELECT session, row_number() OVER (ORDER BY started, session) - 1 AS nth,
               min(user_id) || '/' || min(session_of_user) AS key, started IS NOT NULL AS has_clock,
               dense_rank() OVER (ORDER BY min(user_id)) - 1 AS listener
        FROM listens GROUP BY session, started""")
    sessions = database.execute("SELECT key, has_clock FROM sessions ORDER BY nth").fetchnumpy()
    listens = database.execute("""
        SELECT nth, track, CAST(played_ratio AS FLOAT) AS played_ratio FROM listens JOIN sessions USING (session)
        ORDER BY nth, place""").fetchnumpy()
    pairs = database.execute(f"""
        SELECT nth, listener, previous, following, CAST(played_ratio AS FLOAT) AS played_ratio
        FROM ({(_SQL / f"pairs_{pairing}.sql").read_text()}) JOIN sessions USING (session)
        ORDER BY nth, place, earlier""").fetchnumpy()
    return (
        Sessions(
            key=np.asarray(sessions["key"], object),
            has_clock=bool(np.all(sessions["has_clock"])),
            listens=Listens(
                session=_integers(listens["nth"]),
                track=_integers(listens["track"]),
                played_ratio=_shares(listens["played_ratio"]),
            ),
        ),
        Pairs(
            session=_integers(pairs["nth"]),
            listener=_integers(pairs["listener"]),
            previous=_integers(pairs["previous"]),
            following=_integers(pairs["following"]),
            played_ratio=_shares(pairs["played_ratio"]),
        ),
    )


def _integers(column: Any) -> Int64[np.ndarray, "n"]:
    return np.asarray(column, np.int64)


def _shares(column: Any) -> Float32[np.ndarray, "n"]:
    return np.ma.filled(column, np.nan).astype(np.float32)


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
