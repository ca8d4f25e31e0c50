"""Pairs: which tracks of a session are paired.

P pairs, S sessions, E events, L listeners. The same rules are in `sql/pairs_*.sql`, for logs that outgrow one machine;
the tests hold both to the same answers.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int64

from src.catalog import Listens
from src.datamodules.sessions import Sessions
from src.errors import InputError, check_number

PAIRINGS = ("consecutive", "first", "window")


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


def make_pairs(sessions: Sessions, *, pairing: str, window: int) -> Pairs:
    """Pair the tracks of each session.

    Args:
        sessions: the sessions.
        pairing: `consecutive` (each track with the one before it), `first` (the first track of a session with every
            later one), or `window` (each track with every one at most `window` places before it).
        window: largest distance for `pairing=window`, at least 1.

    Raises:
        InputError: `pairing` is unknown, or `window` is out of range.
    """
    if pairing not in PAIRINGS:
        raise InputError(f"pairing must be one of {', '.join(PAIRINGS)}, got {pairing!r}")
    check_number("window", window, whole=True, least=1, hint="pairing=consecutive is a window of 1")
    listens = sessions.listens
    earlier, later = _reach(sessions.place, pairing, window)
    session = listens.session[later]
    return Pairs(
        session=session,
        listener=sessions.listener[session],
        previous=listens.track[earlier],
        following=listens.track[later],
        played_ratio=listens.played_ratio[later],
    )


def _reach(
    place: Int64[np.ndarray, "E"], pairing: str, window: int
) -> tuple[Int64[np.ndarray, "P"], Int64[np.ndarray, "P"]]:
    """Which event is paired with which later one, given the place 0, 1, … of each in its session."""
    if pairing != "window":
        later = np.flatnonzero(place)
        return later - (place[later] if pairing == "first" else 1), later
    num = np.minimum(place, window)
    later = np.repeat(np.arange(len(place)), num)
    return later - np.repeat(num.cumsum(), num) + np.arange(len(later)), later
