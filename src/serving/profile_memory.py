"""What each listener has heard in all of their sessions, in a file of bounded size that the workers of a machine share.

Listeners and tracks are the keys of their ids (`catalog.key_of`). E entries of a profile.

The file is in the store, because it outlives services and releases. As in the file of sessions, a listener belongs to a
bucket with eight places, and a new one in a full bucket replaces the one whose last visit is longest ago. The owners of
the places are mapped into memory. The profiles follow them and are read and written as files are: what was never
written takes no room on the disk, and a full disk is an error and not the end of the process.
"""

import json
import mmap
import os
import re
from collections.abc import Container, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
from filelock import FileLock

from segue.atomic import write_record, write_whole
from segue.catalog import changes
from segue.errors import InputError
from segue.runs.profiles import DAY_MS, ENTRY, Profiles, add_play
from segue.serving.log_writer import FILE_MODE
from segue.serving.session_memory import MIX, WAYS, Locked
from segue.serving.settings import ProfileSettings

FILE, REMOVED = "profiles.bin", "removed.json"
"""Names of the file, and of that of listeners who were removed and when, in the folder of the store."""
_FEW_DAYS = 30  # with fewer, a day more is too much
_WORD, _PAGE = 8, 4096
# what a place has of its owner, in words of eight bytes
_VISIT_MS, _NUM, _WORDS = 1, 2, 3  # the first one is the key
_LAYOUT = re.compile(rb"segue profiles 1, (\d+) buckets of 8, (\d+) tracks\n")
_LOCK_OF_HEAD = 2**40  # no bucket


def merged(own: np.ndarray, others: np.ndarray, most: int) -> np.ndarray:
    """The entries of two profiles of one listener. No play counts twice: of a track in both, the newer entry is kept.

    Args:
        own: entries; of two that are equally new, these are kept.
        others: entries.
        most: number of entries, at most; the newest are kept.
    """
    every = np.concatenate([own[own["plays"] > 0], others])
    order = np.lexsort((np.arange(len(every)), -every["last_ms"], every["track"]))
    every = every[order]
    every = every[np.flatnonzero(changes(every["track"]))]
    return every[np.argsort(-every["last_ms"], kind="stable")[:most]]


class _File:
    """The file, with the sizes that its first line names.

    Args:
        path: the file; it is created if it is missing.
        settings: its sizes, if it is created.

    Raises:
        InputError: the disk has no room for the owners of the places, or it is another file.
    """

    def __init__(self, path: Path, settings: ProfileSettings) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        with Locked(self._descriptor, _LOCK_OF_HEAD, range(0)):
            if not os.pread(self._descriptor, _PAGE, 0).strip(b"\0"):
                self._create(path, -(-settings.capacity // WAYS), settings.max_tracks)
            head = re.match(_LAYOUT, os.pread(self._descriptor, _PAGE, 0))
        if head is None or os.fstat(self._descriptor).st_size != _sizes(int(head[1]), int(head[2]))[1]:
            raise InputError(f"{path} has no profiles of this version; move it away, and profiles begin from nothing")
        self.num_buckets, self.most = int(head[1]), int(head[2])
        self._start, _ = _sizes(self.num_buckets, self.most)
        owners = mmap.mmap(self._descriptor, self._start)
        self._words = memoryview(owners).cast("q")[_PAGE // _WORD :]  # faster than numpy for single numbers
        self._visits = np.frombuffer(owners, np.int64, self.num_places * _WORDS, _PAGE)[_VISIT_MS::_WORDS]

    def _create(self, path: Path, num_buckets: int, most: int) -> None:
        start, size = _sizes(num_buckets, most)
        try:  # a hole would kill the process that writes to a mapped page while the disk is full
            os.posix_fallocate(self._descriptor, 0, start)
            os.ftruncate(self._descriptor, size)
        except OSError as error:
            os.ftruncate(self._descriptor, 0)
            raise InputError(
                f"{path} needs {start} bytes at once: {error.strerror}; free disk space, or set a smaller "
                "profiles.capacity"
            ) from None
        os.pwrite(self._descriptor, f"segue profiles 1, {num_buckets} buckets of 8, {most} tracks\n".encode(), 0)

    @property
    def num_places(self) -> int:
        return self.num_buckets * WAYS

    @property
    def num_owners(self) -> int:
        return int((self._visits > 0).sum())

    def bucket(self, user: int) -> Locked:
        bucket = ((user * MIX) % 2**64) * self.num_buckets >> 64
        return Locked(self._descriptor, bucket, range(bucket * WAYS, (bucket + 1) * WAYS))

    def find(self, places: range, user: int) -> int | None:
        words = self._words
        for place in places:
            if words[place * _WORDS] == user and words[place * _WORDS + _VISIT_MS]:
                return place
        return None

    def oldest(self, places: range) -> int:
        return min(places, key=lambda place: self._words[place * _WORDS + _VISIT_MS])

    def taken(self, places: range, user: int) -> int:
        """The place of a listener; for a new one that of the owner whose last visit is oldest, who is removed."""
        if (place := self.find(places, user)) is None:
            place = self.oldest(places)
            if self.visit_ms(place) or self.num(place):  # also after an end between the entries and their owner
                self.clear(place)
        return place

    def visit_ms(self, place: int) -> int:
        """Time of the last visit of the owner; 0 if there is none."""
        return int(self._words[place * _WORDS + _VISIT_MS])

    def num(self, place: int) -> int:
        return int(self._words[place * _WORDS + _NUM])

    def read(self, place: int, num_empty: int = 0) -> np.ndarray:
        """The entries of a place, and some empty ones after them."""
        num = self.num(place)
        size = num * ENTRY.itemsize
        entries = bytearray(size + min(num_empty, self.most - num) * ENTRY.itemsize)
        os.preadv(self._descriptor, [memoryview(entries)[:size]], self._at(place))
        return np.frombuffer(entries, ENTRY)

    def write(self, place: int, entries: np.ndarray, first: int = 0) -> None:
        """Write entries from one on; those of a place that are read end with the last one that was written."""
        os.pwrite(self._descriptor, entries.tobytes(), self._at(place) + first * ENTRY.itemsize)
        self._words[place * _WORDS + _NUM] = max(self.num(place), first + len(entries))

    def clear(self, place: int) -> None:
        """Remove the owner of a place, and write zeros over what it has heard."""
        num, first = self.num(place), place * _WORDS
        self._words[first + _VISIT_MS] = self._words[first + _NUM] = self._words[first] = 0
        os.pwrite(self._descriptor, bytes(num * ENTRY.itemsize), self._at(place))

    def own(self, place: int, user: int, visit_ms: int) -> None:
        """Note the visit of an owner."""
        first = place * _WORDS
        self._words[first], self._words[first + _VISIT_MS] = user, visit_ms

    def owners(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """The key, the last visit and the entries of each owner."""
        for place in np.flatnonzero(self._visits).tolist():
            with Locked(self._descriptor, place // WAYS, range(0)):
                if visit_ms := self.visit_ms(place):
                    yield int(self._words[place * _WORDS]), visit_ms, self.read(place)

    def clear_before(self, time_ms: int) -> None:
        """Remove the owners whose last visit was before a time."""
        for place in np.flatnonzero((self._visits > 0) & (self._visits < time_ms)).tolist():
            with Locked(self._descriptor, place // WAYS, range(0)):
                if self.visit_ms(place) < time_ms:
                    self.clear(place)

    def _at(self, place: int) -> int:
        return self._start + place * self.most * ENTRY.itemsize


def _sizes(num_buckets: int, most: int) -> tuple[int, int]:
    """Where the profiles begin, and the size of the file."""
    start = _PAGE + -(-num_buckets * WAYS * _WORDS * _WORD // _PAGE) * _PAGE
    return start, start + num_buckets * WAYS * most * ENTRY.itemsize


class MappedProfiles:
    """Profiles in a file that the workers of one machine share.

    Args:
        folder: of the file, which is created when it is first needed.
        settings: its sizes, and what is forgotten. A file that is already there keeps its sizes, see `resize`.
    """

    def __init__(self, folder: Path, settings: ProfileSettings) -> None:
        self._path, self._removed, self.settings = folder / FILE, folder / REMOVED, settings
        self._nobody_is_removed = FileLock(self._removed.with_suffix(".lock"))  # meanwhile
        self.problem: str | None = None

    @cached_property
    def _file(self) -> _File:
        return _File(self._path, self.settings)

    async def open(self) -> None:
        """Create the file if it is missing.

        Raises:
            InputError: the disk has no room for it, or it is another file.
        """
        assert self._file

    def resize(self) -> int:
        """Copy the file into one of other sizes, if the settings have changed; only while nobody uses it.

        Returns:
            How many listeners found no room.

        Raises:
            InputError: the disk has no room for it.
        """
        if not self._path.exists():
            return 0
        if (self._file.num_buckets, self._file.most) == (-(-self.settings.capacity // WAYS), self.settings.max_tracks):
            return 0
        old, num_before = self._file, self._file.num_owners

        def copy(partial: Path) -> None:
            self._file = _File(partial, self.settings)
            for user, visit_ms, entries in old.owners():
                _add(self._file, user, visit_ms, entries)

        try:
            write_whole(self._path, copy)
        except BaseException:
            self._file = old
            raise
        return num_before - self._file.num_owners

    async def play(self, user: int, track: int, share: float, now_ms: int) -> np.ndarray:
        """Add a play to the profile of a listener; returns all of it."""
        file = self._file
        try:
            with file.bucket(user) as places:
                place = file.taken(places, user)
                profile = file.read(place, 1)
                # once a day, as it takes a third of all this
                if file.visit_ms(place) // DAY_MS != now_ms // DAY_MS or self.settings.days < _FEW_DAYS:
                    forget_old(profile, now_ms - self.settings.days_ms)
                    file.write(place, profile[: file.num(place)])
                changed = add_play(profile, track, share, now_ms)
                file.write(place, profile[changed : changed + 1], changed)
                file.own(place, user, max(now_ms, file.visit_ms(place)))
            self.problem = None
        except OSError as error:
            self.problem = f"{self._path} cannot be written: {error.strerror}; no play is kept in it"
            return np.zeros(0, ENTRY)
        return profile

    async def look(self, user: int, now_ms: int) -> np.ndarray:
        """The profile of a listener; empty without one."""
        if self._path.exists():
            with self._file.bucket(user) as places:
                if (place := self._file.find(places, user)) is not None:
                    profile = self._file.read(place)
                    forget_old(profile, now_ms - self.settings.days_ms)
                    return profile[profile["plays"] > 0]
        return np.zeros(0, ENTRY)

    async def forget(self, user: int, now_ms: int) -> bool:
        """Remove a listener, also from profiles that are merged later; returns whether there was a profile."""
        with self._nobody_is_removed:
            removed = self._removed_ms() | {user: now_ms}
            write_record({str(one): ms for one, ms in removed.items()}, self._removed)
        if not self._path.exists():
            return False
        with self._file.bucket(user) as places:
            if (place := self._file.find(places, user)) is not None:
                self._file.clear(place)
        return place is not None

    def _removed_ms(self) -> dict[int, int]:
        """When listeners were removed. None is left out: a run of any age may have them, and `days` may grow."""
        try:
            given = json.loads(self._removed.read_bytes()) if self._removed.exists() else {}
            return {int(user): int(ms) for user, ms in given.items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise InputError(
                f"{self._removed} is damaged ({error}), and says which listeners no run may bring back; put a copy in "
                "its place, or delete it and remove these listeners again"
            ) from None

    async def merge(self, profiles: Profiles, now_ms: int) -> int:
        """Add what a run knows of listeners; returns how many of them found no room.

        A listener whose last visit is earlier than those of all others of a full bucket finds none. Listeners without a
        visit for long are removed.

        Args:
            profiles: of the run.
            now_ms: the time.
        """
        if not len(profiles.listeners) and not self._path.exists():
            return 0
        file, left_out = self._file, 0
        file.clear_before(now_ms - self.settings.days_ms)
        with self._nobody_is_removed:
            removed = self._removed_ms()
            for user, entries in newest_of(profiles, file.most, removed, now_ms - self.settings.days_ms):
                if self.settings.remember == "consenting" and not len(await self.look(user, now_ms)):
                    continue
                left_out += not _add(file, user, int(entries["last_ms"].max()), entries)
        return left_out


def _add(file: _File, user: int, visit_ms: int, entries: np.ndarray) -> bool:
    """Add entries to the profile of a listener; returns whether there was room."""
    with file.bucket(user) as places:
        if file.find(places, user) is None and file.visit_ms(file.oldest(places)) >= visit_ms:
            return False
        place = file.taken(places, user)
        entries = merged(file.read(place), entries, file.most)
        file.write(place, entries)
        file.own(place, user, max(file.visit_ms(place), visit_ms))
    return True


def forget_old(profile: np.ndarray, before_ms: int) -> None:
    """Empty the entries whose last play was before a time."""
    profile[profile["last_ms"] < before_ms] = np.zeros((), ENTRY)


def newest_of(
    profiles: Profiles, most: int, removed: Container[int], before_ms: int
) -> Iterator[tuple[int, np.ndarray]]:
    """The newest entries of each listener; those without any are left out.

    Args:
        profiles: of many listeners.
        most: number of entries of a listener, at most.
        removed: listeners who were removed. They are left out: an entry may have plays of before and after.
        before_ms: entries whose last play was before it are left out.

    Yields:
        The key of a listener, and the entries.
    """
    first = 0
    for user, end in zip(profiles.listeners.tolist(), profiles.ends.tolist(), strict=True):
        entries, first = profiles.entries[first:end], end
        if user in removed:
            continue
        entries = entries[entries["last_ms"] > before_ms]
        if len(entries) > most:
            entries = entries[np.argpartition(-entries["last_ms"], most - 1)[:most]]
        if len(entries):
            yield user, entries
