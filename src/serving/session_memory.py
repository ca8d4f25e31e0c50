"""The tracks of each user's current session, in a file of bounded size that the workers of a machine share.

All workers map the file. Each user belongs to a bucket with eight places; a new user in a full bucket replaces the one
without a request for the longest time.
"""

import errno
import fcntl
import os
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from src.errors import InputError, check_number

_WAYS = 8
_ZEROS = bytes(1024 * 1024)
_MIX = 0x9E3779B97F4A7C15  # spreads users over buckets (Knuth's multiplicative hash)


@runtime_checkable
class SessionMemory(Protocol):
    """Remembers the tracks of the current session of each user."""

    async def play(self, user: int, track: int, now_ms: int) -> list[int]:
        """Add a track to the session of a user; returns all tracks of the session in order, this one last."""
        ...

    async def end(self, user: int) -> None:
        """End the session of a user."""
        ...


class MappedSessions:
    """Sessions in a file that the workers of one machine share.

    Args:
        path: the file; it is created if it is missing.
        capacity: number of sessions that are remembered.
        max_tracks: number of tracks of a session that are remembered; older ones are forgotten.
        idle_s: seconds without a request after which a session has ended.

    Raises:
        InputError: a setting is out of range, or the disk has no room for the file.
    """

    def __init__(self, path: Path, *, capacity: int, max_tracks: int, idle_s: int | float) -> None:
        check_limits(capacity, max_tracks, idle_s)
        self._num_buckets = -(-capacity // _WAYS)
        self._idle_ms = int(idle_s * 1000)
        self._max_tracks = max_tracks
        fields = [("user", "<i8"), ("touched_ms", "<i8"), ("num_tracks", "<i8"), ("tracks", "<i8", (max_tracks,))]
        kind = np.dtype(fields)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        size = self._num_buckets * _WAYS * kind.itemsize
        if os.fstat(self._descriptor).st_size != size:
            os.ftruncate(self._descriptor, 0)
            _fill(self._descriptor, size, path)
        table = np.memmap(path, kind, "r+", shape=(self._num_buckets, _WAYS)).view(np.ndarray)
        self._users, self._touched_ms = table["user"], table["touched_ms"]
        self._num_tracks, self._tracks = table["num_tracks"], table["tracks"]

    async def play(self, user: int, track: int, now_ms: int) -> list[int]:
        """Add a track to the session of a user; returns all tracks of the session in order, this one last."""
        bucket = self._bucket(user)
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX, 1, bucket)
        try:
            way = self._way(bucket, user, now_ms)
            count = int(self._num_tracks[bucket, way])
            place = count % self._max_tracks
            self._tracks[bucket, way, place] = track
            self._num_tracks[bucket, way] = count + 1
            self._touched_ms[bucket, way] = now_ms
            played: list[int] = self._tracks[bucket, way, : count + 1].tolist()
            return played[place + 1 :] + played[: place + 1]  # in a full session the oldest follows the newest
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, bucket)

    async def end(self, user: int) -> None:
        """End the session of a user."""
        bucket = self._bucket(user)
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX, 1, bucket)
        try:
            self._touched_ms[bucket, self._users[bucket] == user] = 0
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, bucket)

    def _bucket(self, user: int) -> int:
        return ((user * _MIX) % 2**64) * self._num_buckets >> 64

    def _way(self, bucket: int, user: int, now_ms: int) -> int:
        touched = self._touched_ms[bucket]
        own = np.flatnonzero((self._users[bucket] == user) & (touched > now_ms - self._idle_ms))
        if len(own):
            return int(own[0])
        touched[self._users[bucket] == user] = 0  # an earlier session of the same user
        way = int(touched.argmin())
        self._users[bucket, way], self._num_tracks[bucket, way] = user, 0
        return way


def _fill(descriptor: int, size: int, path: Path) -> None:
    """Fill the file with zeros. A hole would kill the process that writes to it while the disk is full."""
    try:
        for start in range(0, size, len(_ZEROS)):
            block = _ZEROS[: size - start]
            if os.pwrite(descriptor, block, start) < len(block):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        os.ftruncate(descriptor, 0)
        remedy = "free disk space, or set a smaller sessions.capacity or sessions.max_tracks"
        raise InputError(f"{path} needs {size} bytes: {error.strerror}; {remedy}") from None


def check_limits(capacity: int, max_tracks: int, idle_s: int | float) -> None:
    """Refuse invalid limits.

    Raises:
        InputError: one is out of range.
    """
    check_number("sessions.capacity", capacity, whole=True, least=1, most=10_000_000)
    check_number("sessions.max_tracks", max_tracks, whole=True, least=1, most=10_000)
    check_number("sessions.idle_s", idle_s, above=0)
