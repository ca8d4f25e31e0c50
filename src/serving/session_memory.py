"""The tracks of each user's current session, in a file of bounded size that the workers of a machine share.

All workers map the file. Each user belongs to a bucket with eight places; a new user in a full bucket replaces the one
without a request for the longest time. The file begins with a line that names its layout.
"""

import errno
import fcntl
import os
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from src.errors import InputError, check_number

_WAYS = 8
_ZEROS = bytes(1024 * 1024)
_ANSWER = [("track", "<i8"), ("propensity", "<f8"), ("is_fallback", "?"), ("release", "S64")]
_MIX = 0x9E3779B97F4A7C15  # spreads users over buckets (Knuth's multiplicative hash)


_HEAD_BYTES = 4096
_LAYOUT = "segue sessions 2"
"""Name of the layout of the file. A file of another layout is replaced, and its sessions are forgotten."""


class Played(NamedTuple):
    """What a session has played, in order.

    Attributes:
        tracks: raw ids.
        shares: share of each that was played; NaN where unknown.
    """

    tracks: list[int]
    shares: list[float]


class Noted(NamedTuple):
    """The last answer to a user whose session is the query.

    Attributes:
        track: raw id of the track that was recommended.
        propensity: the probability with which it was picked.
        is_fallback: whether no list had a track left.
        release: version of the release that answered.
    """

    track: int
    propensity: float
    is_fallback: bool
    release: str


@runtime_checkable
class SessionMemory(Protocol):
    """Remembers the tracks of the current session of each user, and the last answer where it is noted."""

    async def play(self, user: int, track: int, share: float, now_ms: int) -> Played:
        """Add a track to the session of a user; returns all of the session in order, this track last."""
        ...

    async def note(self, user: int, answer: Noted) -> None:
        """Keep the answer to the last track of a user's session, for `look`."""
        ...

    async def look(self, user: int, now_ms: int) -> tuple[Played, Noted] | None:
        """What a user's session has played, and the answer noted since; None without a session or an answer."""
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
        kind = np.dtype(
            [
                ("user", "<i8"),
                ("touched_ms", "<i8"),
                ("num_tracks", "<i8"),
                ("answer", [("is_there", "?"), *_ANSWER]),
                ("tracks", "<i8", (max_tracks,)),
                ("shares", "<f4", (max_tracks,)),
            ],
            align=True,
        )
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        size = _HEAD_BYTES + self._num_buckets * _WAYS * kind.itemsize
        head = f"{_LAYOUT}, {self._num_buckets} buckets of {_WAYS}, {max_tracks} tracks\n".encode()
        if os.fstat(self._descriptor).st_size != size or os.pread(self._descriptor, len(head), 0) != head:
            os.ftruncate(self._descriptor, 0)
            _fill(self._descriptor, size, path)
            os.pwrite(self._descriptor, head, 0)  # last: a file that was not filled is no file of this layout
        table = np.memmap(path, kind, "r+", _HEAD_BYTES, shape=(self._num_buckets, _WAYS)).view(np.ndarray)
        self._users, self._touched_ms, self._answers = table["user"], table["touched_ms"], table["answer"]
        self._has_answer = self._answers["is_there"]
        self._num_tracks, self._tracks, self._shares = table["num_tracks"], table["tracks"], table["shares"]

    async def play(self, user: int, track: int, share: float, now_ms: int) -> Played:
        """Add a track to the session of a user; returns all of the session in order, this track last."""
        bucket = self._bucket(user)
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX, 1, bucket)
        try:
            way = self._way(bucket, user, now_ms)
            count = int(self._num_tracks[bucket, way])
            place = count % self._max_tracks
            self._tracks[bucket, way, place], self._shares[bucket, way, place] = track, share
            self._num_tracks[bucket, way], self._has_answer[bucket, way] = count + 1, False
            self._touched_ms[bucket, way] = now_ms
            return self._played(bucket, way)
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, bucket)

    async def note(self, user: int, answer: Noted) -> None:
        """Keep the answer to the last track of a user's session, for `look`."""
        bucket = self._bucket(user)
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX, 1, bucket)
        try:
            own = np.flatnonzero((self._users[bucket] == user) & (self._touched_ms[bucket] > 0))
            if len(own):
                self._answers[bucket, own[0]] = (True, *answer)
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, bucket)

    async def look(self, user: int, now_ms: int) -> tuple[Played, Noted] | None:
        """What a user's session has played, and the answer noted since; None without a session or an answer."""
        bucket = self._bucket(user)
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX, 1, bucket)
        try:
            is_own = (self._users[bucket] == user) & (self._touched_ms[bucket] > now_ms - self._idle_ms)
            own = np.flatnonzero(is_own & (self._num_tracks[bucket] > 0) & self._has_answer[bucket])
            if not len(own):
                return None
            _, track, propensity, is_fallback, release = self._answers[bucket, own[0]].item()
            return self._played(bucket, int(own[0])), Noted(track, propensity, is_fallback, release.decode())
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

    def _played(self, bucket: int, way: int) -> Played:
        count = int(self._num_tracks[bucket, way])
        tracks: list[int] = self._tracks[bucket, way, :count].tolist()
        shares: list[float] = self._shares[bucket, way, :count].tolist()
        first = count % self._max_tracks if count > self._max_tracks else 0
        return Played(tracks[first:] + tracks[:first], shares[first:] + shares[:first])  # a full session is a ring

    def _bucket(self, user: int) -> int:
        return ((user * _MIX) % 2**64) * self._num_buckets >> 64

    def _way(self, bucket: int, user: int, now_ms: int) -> int:
        touched = self._touched_ms[bucket]
        own = np.flatnonzero((self._users[bucket] == user) & (touched > now_ms - self._idle_ms))
        if len(own):
            return int(own[0])
        touched[self._users[bucket] == user] = 0  # an earlier session of the same user
        way = int(touched.argmin())
        self._users[bucket, way], self._num_tracks[bucket, way], self._has_answer[bucket, way] = user, 0, False
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
