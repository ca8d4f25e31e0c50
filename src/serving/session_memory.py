"""The tracks of each user's current session, in a file of bounded size that the workers of a machine share.

Users and tracks are the keys of their ids (`catalog.key_of`).

All workers map the file. Each user belongs to a bucket with eight places; a new user in a full bucket replaces the one
without a request for the longest time. The file begins with a line that names its layout.
"""

import fcntl
import mmap
import os
import re
import struct
from pathlib import Path
from typing import Any, NamedTuple

from segue.errors import InputError
from segue.serving.log_writer import FILE_MODE
from segue.serving.settings import SessionSettings

FILE = "sessions.bin"
"""Name of the file, in the run folder."""
WAYS = 8
"""Places of a bucket."""
MIX = 0x9E3779B97F4A7C15
"""Spreads users over buckets (Knuth's multiplicative hash)."""
_WORD = 8
# What a session has, by the first of its words of eight bytes; the shares, of four bytes, follow the tracks.
_USER, _TOUCHED_MS, _NUM_TRACKS, _HAS_ANSWER, _NOTED, _TRACKS = 0, 1, 2, 3, 4, 15
_ANSWER = struct.Struct("=qd?64s?")

_HEAD_BYTES = 4096
# Name of the layout of the file. A file of another layout is replaced, and its sessions are forgotten.
_LAYOUT = "segue sessions 2"
_SIZES = re.compile(rb"(segue sessions \d+), (\d+) buckets of 8, (\d+) tracks\n")


def _num_words(max_tracks: int) -> int:
    return _TRACKS + max_tracks + -(-max_tracks // 2)


def _size(num_buckets: int, max_tracks: int) -> int:
    """Of the file, in bytes."""
    return _HEAD_BYTES + num_buckets * WAYS * _num_words(max_tracks) * _WORD


class Played(NamedTuple):
    """What a session has played, in order.

    Attributes:
        tracks: key of each.
        shares: share of each that was played; NaN where unknown.
    """

    tracks: list[int]
    shares: list[float]


class Noted(NamedTuple):
    """The last answer to a user whose session is the query.

    Attributes:
        track: key of the track that was recommended.
        propensity: the probability with which it was picked.
        is_fallback: whether no list had a track left.
        release: version of the release that answered.
        with_past: whether the listener's profile was a part of the query.
    """

    track: int
    propensity: float
    is_fallback: bool
    release: str
    with_past: bool = False


class Locked(NamedTuple):
    """The places of a bucket, which no other process touches within a block. `contextmanager` would take 2 µs.

    Attributes:
        descriptor: of the file.
        bucket: number of the bucket.
        places: what the block gets.
    """

    descriptor: int
    bucket: int
    places: range

    def __enter__(self) -> range:
        fcntl.lockf(self.descriptor, fcntl.LOCK_EX, 1, self.bucket)
        return self.places

    def __exit__(self, *_: object) -> None:
        fcntl.lockf(self.descriptor, fcntl.LOCK_UN, 1, self.bucket)


class MappedSessions:
    """Sessions in a file that the workers of one machine share.

    Args:
        path: the file; it is created if it is missing.
        settings: its limits; older tracks of a session are forgotten.

    Raises:
        InputError: the disk has no room for the file.
    """

    def __init__(self, path: Path, settings: SessionSettings) -> None:
        max_tracks = self._max_tracks = settings.max_tracks
        self._num_buckets, self._idle_ms = -(-settings.capacity // WAYS), settings.idle_ms
        self._num_words = _num_words(max_tracks)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        size = _size(self._num_buckets, max_tracks)
        head = f"{_LAYOUT}, {self._num_buckets} buckets of {WAYS}, {max_tracks} tracks\n".encode()
        if os.fstat(self._descriptor).st_size != size or os.pread(self._descriptor, len(head), 0) != head:
            os.ftruncate(self._descriptor, 0)
            try:  # a hole would kill the process that writes to it while the disk is full
                os.posix_fallocate(self._descriptor, 0, size)
            except OSError as error:
                os.ftruncate(self._descriptor, 0)
                remedy = "free disk space, or set a smaller sessions.capacity or sessions.max_tracks"
                raise InputError(f"{path} needs {size} bytes: {error.strerror}; {remedy}") from None
            os.pwrite(self._descriptor, head, 0)  # last: a file that was not filled is no file of this layout
        self._bytes = memoryview(mmap.mmap(self._descriptor, size))
        # single numbers are read and written in a tenth of the time that numpy needs
        self._words, self._floats = self._bytes.cast("q"), self._bytes.cast("f")

    @classmethod
    def as_it_is(cls, path: Path) -> "MappedSessions | None":
        """A file with the sizes that it has, which a service may use; None if it has no sessions.

        Args:
            path: the file.

        Raises:
            InputError: it is of another version, or shortened.
        """
        with path.open("rb") as file:
            head = re.match(_SIZES, file.read(_HEAD_BYTES))
        if head is None:
            return None
        num_buckets, max_tracks = int(head[2]), int(head[3])
        if head[1] != _LAYOUT.encode() or path.stat().st_size != _size(num_buckets, max_tracks):
            raise InputError(f"{path} is damaged or of another version; stop its service and remove the file")
        return cls(path, SessionSettings(capacity=num_buckets * WAYS, max_tracks=max_tracks))

    async def play(self, user: int, track: int, share: float, now_ms: int) -> Played:
        """Add a track to the session of a user; returns all of the session in order, this track last."""
        words = self._words
        with self._places(user) as places:
            at = self._find(places, user, now_ms - self._idle_ms)
            if at is None:  # in place of an earlier one of this user, or of the one without a request for longest
                at = min(
                    places, key=lambda at: (not words[at + _TOUCHED_MS] or words[at] != user, words[at + _TOUCHED_MS])
                )
                words[at + _USER], words[at + _NUM_TRACKS] = user, 0
            count = words[at + _NUM_TRACKS]
            place = count % self._max_tracks
            words[at + _TRACKS + place] = track
            self._floats[2 * (at + _TRACKS + self._max_tracks) + place] = share
            words[at + _NUM_TRACKS], words[at + _HAS_ANSWER], words[at + _TOUCHED_MS] = count + 1, False, now_ms
            return self._played(at)

    async def note(self, user: int, answer: Noted) -> None:
        """Keep the answer to the last track of a user's session, for `look`."""
        with self._places(user) as places:
            if (at := self._find(places, user, 0)) is not None:
                track, propensity, is_fallback, release, with_past = answer
                given = track, propensity, is_fallback, release.encode(), with_past
                _ANSWER.pack_into(self._bytes, (at + _NOTED) * _WORD, *given)
                self._words[at + _HAS_ANSWER] = True

    async def look(self, user: int, now_ms: int) -> tuple[Played, Noted] | None:
        """What a user's session has played, and the answer noted since; None without a session or an answer."""
        with self._places(user) as places:
            at = self._find(places, user, now_ms - self._idle_ms)
            if at is None or not self._words[at + _HAS_ANSWER]:
                return None
            track, chance, is_fallback, release, with_past = _ANSWER.unpack_from(self._bytes, (at + _NOTED) * _WORD)
            return self._played(at), Noted(track, chance, is_fallback, release.rstrip(b"\0").decode(), with_past)

    async def end(self, user: int) -> None:
        """End the session of a user."""
        with self._places(user) as places:
            if (at := self._find(places, user, 0)) is not None:
                self._words[at + _TOUCHED_MS] = 0

    async def forget(self, user: int) -> None:
        """Write zeros over all that is known of a user."""
        with self._places(user) as places:
            for at in places:
                if self._words[at + _USER] == user:
                    self._bytes[at * _WORD : (at + self._num_words) * _WORD] = bytes(self._num_words * _WORD)

    def _played(self, at: int) -> Played:
        words, count, most = self._words, self._words[at + _NUM_TRACKS], self._max_tracks
        first_track, first_share, num = at + _TRACKS, 2 * (at + _TRACKS + most), min(count, most)
        tracks = words[first_track : first_track + num].tolist()
        shares: Any = self._floats[first_share : first_share + num].tolist()  # floats; typeshed says int
        oldest = count % most if count > most else 0
        return Played(tracks[oldest:] + tracks[:oldest], shares[oldest:] + shares[:oldest])  # a full session is a ring

    def _places(self, user: int) -> Locked:
        """Where the sessions of the bucket of a user begin, in words."""
        bucket = ((user * MIX) % 2**64) * self._num_buckets >> 64
        first = _HEAD_BYTES // _WORD + bucket * WAYS * self._num_words
        return Locked(self._descriptor, bucket, range(first, first + WAYS * self._num_words, self._num_words))

    def _find(self, places: range, user: int, after_ms: int) -> int | None:
        """Where the session of a user begins that had a request after a time."""
        words = self._words
        for at in places:
            if words[at] == user and words[at + _TOUCHED_MS] > after_ms:
                return at
        return None
