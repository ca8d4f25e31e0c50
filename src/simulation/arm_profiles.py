"""What an arm knows of its listeners: the profiles of its run, which go on with the sessions that it plays.

S sessions, E plays or entries, P entries of the longest profile; tracks and listeners are rows of the world.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Int, Int64, UInt8

from segue.picking.listener_scores import Pasts, past_of
from segue.runs.profiles import DAY_MS, ENTRY, Profiles, days_to_move, entries_of_events, joined, padded
from segue.simulation.listener import REST_MS, WHOLE, Crowd, durations
from segue.simulation.world import World
from segue.statistics.discovery import Discovery

_NONE, _NEVER = np.zeros(0, ENTRY), -(2**62)


class ArmProfiles:
    """The profiles of the listeners of an arm.

    A process that plays some of them is given theirs (`remember`), and gives them back (`remembered`).

    Args:
        given: those of the run, with keys of listeners and tracks; what the world does not have is left out.
        world: the world of the listeners.
    """

    def __init__(self, given: Profiles, world: World) -> None:
        owner = world.listeners.rows_of(given.listeners).repeat(np.diff(given.ends, prepend=0))
        entries = given.in_rows(world.catalog).entries
        is_known = (owner >= 0) & (entries["track"] >= 0)
        owner, entries = owner[is_known], entries[is_known]
        self._of: dict[int, np.ndarray] = _split(owner, entries)
        self._newest_ms = int(entries["last_ms"].max(initial=0))
        self._played: list[tuple[Int64[np.ndarray, E], ...]] = []
        self._track_ms = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_of": {}}  # a process is given those that it needs

    def learn(
        self,
        users: Int64[np.ndarray, "E"],
        tracks: Int[np.ndarray, "E"],
        shares: UInt8[np.ndarray, "E"],
        time_ms: Int64[np.ndarray, "E"],
    ) -> None:
        """Add plays that are later than the profiles of the run, which has learned from the others.

        Args:
            shares: share of each that was played, in hundredths.
            time_ms: of each play, in milliseconds since 1970.
        """
        is_later = time_ms > self._newest_ms
        columns = users, tracks.astype(np.int64), (shares / WHOLE).astype(np.float32), time_ms
        self._played.append(tuple(column[is_later] for column in columns))

    def prepare(self, midnight: int, track_ms: int) -> None:
        """Prepare for sessions from a time on. If it is before the end of the profiles, they are so many days older.

        Args:
            midnight: start of the first day, in milliseconds since 1970.
            track_ms: duration of a track that is played in full, in milliseconds.
        """
        self._track_ms = track_ms
        self._learn()
        days = days_to_move(self._newest_ms, midnight)
        for entries in self._of.values():
            entries["last_ms"] -= days * DAY_MS

    def begin(self, crowd: Crowd) -> None:
        """Look up the profiles of the sessions of a crowd."""
        self._learn()
        own = [self._of.get(user) for user in crowd.users.tolist()]
        owner = np.arange(len(own)).repeat([0 if one is None else len(one) for one in own])
        self._lines = padded(owner, np.concatenate([one for one in own if one is not None] or [_NONE]), len(own))
        newest = np.where(self._lines["plays"] > 0, self._lines["last_ms"], _NEVER).max(1, initial=_NEVER)
        self._started_ms = np.maximum(crowd.started_ms, newest + REST_MS)  # after the listener's previous session

    def of(self, crowd: Crowd, some: Int64[np.ndarray, "s"]) -> Pasts:
        """The past of the listeners of some sessions."""
        place, elapsed = crowd.place[some], durations(crowd.shares[:, some], self._track_ms).sum(0)
        return past_of(self._lines[place], crowd.tracks[:, some].T, self._started_ms[place] + elapsed)

    def finish(self, crowd: Crowd) -> None:
        """Receive sessions that have ended; they count from the next crowd on."""
        time_ms = self._started_ms[crowd.place] + durations(crowd.shares, self._track_ms).cumsum(0)
        users = np.broadcast_to(crowd.users, time_ms.shape)
        columns = users, crowd.tracks.astype(np.int64), (crowd.shares / WHOLE).astype(np.float32), time_ms
        self._played.append(tuple(column.T.ravel() for column in columns))

    def tell(self, discovery: Discovery) -> None:
        """Add all that listeners have heard to what is known of them."""
        self._learn()
        owner = np.array(list(self._of), np.int64).repeat([len(one) for one in self._of.values()])
        entries = np.concatenate([_NONE, *self._of.values()])
        discovery.of_plays(owner, entries["track"], entries["best"].astype(np.float64), np.zeros(len(owner), np.int64))

    def remembered(self, users: Iterable[int]) -> dict[int, np.ndarray]:
        """The profiles of some listeners."""
        self._learn()
        return {user: self._of[user] for user in users if user in self._of}

    def remember(self, profiles: Mapping[int, np.ndarray]) -> None:
        """Replace the profiles of some listeners."""
        self._of.update(profiles)

    def _learn(self) -> None:
        """Add what was played since the last time."""
        if self._played:
            owner, entries = entries_of_events(*map(np.concatenate, zip(*self._played, strict=True)))
            users = np.unique(owner).tolist()
            before = [(user, self._of[user]) for user in users if user in self._of]
            owners = [owner, *(np.full(len(one), user) for user, one in before)]
            self._of |= _split(*joined(np.concatenate(owners), np.concatenate([entries, *(one for _, one in before)])))
            self._played = []


def _split(owner: Int[np.ndarray, "E"], entries: np.ndarray) -> dict[int, np.ndarray]:
    """The entries of each listener; those of a listener are one after another."""
    users, first = np.unique(owner, return_index=True)
    return dict(zip(users.tolist(), np.split(entries, first[1:]), strict=True)) if len(users) else {}
