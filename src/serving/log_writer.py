"""The event log of one worker: the predecessor's lines, written in batches before they are answered.

A line is handed to the operating system before the answer goes out, so a worker that is killed has answered nothing
that is not on record. What a machine that loses its power can lose is set by `fsync`:

- `always`: nothing; an answer waits until its line is on the disk, together with all that came meanwhile;
- `interval`: what was answered in the last `fsync_interval_s` seconds or so;
- `never`: what the operating system had not written by itself, half a minute or so on Linux.
"""

import asyncio
import contextlib
import itertools
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from src.errors import InputError, check_number

FSYNC = ("always", "interval", "never")

_PROBE_BYTES = 64 * 1024
"""Room that a full disk must have again before lines are written."""

_PROBE_S = 1.0

_BLOCK_BYTES = 64 * 1024
"""Read at once in search of the end of the last whole line."""

_log = logging.getLogger("segue.serving")


class LogUnavailableError(Exception):
    """Nothing can be written now; says why."""


class EventLogWriter:
    """Appends lines to `data.json` and rotates it: `data.json.1` is the file before, and so on.

    Belongs to one event loop of one process, which has the folder to itself.

    Args:
        folder: of the file; is made where it is missing.
        fsync: one of `FSYNC`, see above.
        fsync_interval_s: seconds between two calls of fsync where it is `interval`.
        max_bytes: size that a file does not exceed, unless a single line does; 100 MB as published.
        backups: rotated files that are kept; ten as in the predecessor.
        on_write: is called with the number of lines of each write.

    Raises:
        InputError: a setting is out of range, or the file cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        fsync: str,
        fsync_interval_s: int | float,
        max_bytes: int,
        backups: int,
        on_write: Callable[[int], None] = lambda _: None,
    ) -> None:
        check_log(fsync=fsync, fsync_interval_s=fsync_interval_s, max_bytes=max_bytes, backups=backups)
        self.path = folder / "data.json"
        self._fsync, self._interval_s = fsync, fsync_interval_s
        self._max_bytes, self._backups, self._on_write = max_bytes, backups, on_write
        self._batch: list[tuple[bytes, asyncio.Future[None]]] = []
        self._unsynced: list[asyncio.Future[None]] = []
        self._num_in_sync = 0
        self._syncing: asyncio.Task[None] | None = None
        self._is_dirty = False
        self.problem: str | None = None
        self.num_lines = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._open()
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {error.strerror}") from None

    @property
    def num_waiting(self) -> int:
        """Lines that are not as safe yet as was promised."""
        return len(self._batch) + len(self._unsynced) + self._num_in_sync

    def append(self, line: bytes) -> asyncio.Future[None]:
        """Hand over a line; wait for what it returns before it is answered.

        Raises:
            LogUnavailableError: lines cannot be written now; also from what it returns.
        """
        if self.problem:
            raise LogUnavailableError(self.problem)
        loop = asyncio.get_running_loop()
        written = loop.create_future()
        if not self._batch:
            loop.call_soon(self._flush)
        self._batch.append((line, written))
        return written

    async def run(self) -> None:
        """Sync at its interval, and find out when a full disk has room again; until cancelled."""
        loop = asyncio.get_running_loop()
        last_sync = loop.time()
        while True:
            await asyncio.sleep(min(_PROBE_S, self._interval_s))
            if self.problem:
                has_room = await asyncio.to_thread(self._has_room)
                if has_room:
                    _log.warning("event log %s can be written again", self.path)
                    self.problem = None
            if self._fsync == "interval" and self._is_dirty and loop.time() - last_sync >= self._interval_s:
                self._is_dirty = False
                await self._sync_descriptor()
                last_sync = loop.time()

    async def close(self) -> None:
        """Write and sync what is left."""
        self._flush()
        while self._syncing is not None:
            await asyncio.wait([self._syncing])
        with contextlib.suppress(OSError):
            os.fsync(self._descriptor)
        os.close(self._descriptor)

    def _open(self) -> None:
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._size = os.fstat(self._descriptor).st_size
        torn = self._torn_bytes()
        if torn:  # by a power failure; it was never answered, or cannot be read any more
            self._size -= torn
            os.ftruncate(self._descriptor, self._size)
            _log.warning("event log %s ended in half a line of %d bytes, which is cut off", self.path, torn)

    def _torn_bytes(self) -> int:
        end = self._size
        while end > 0:
            start = max(end - _BLOCK_BYTES, 0)
            newline = os.pread(self._descriptor, end - start, start).rfind(b"\n")
            if newline >= 0:
                return self._size - (start + newline + 1)
            end = start
        return self._size

    def _flush(self) -> None:
        batch, self._batch = self._batch, []
        while batch:
            try:
                if self._size and not self._num_fitting(batch):
                    self._rotate()
                num_lines = self._num_fitting(batch) or 1
                self._write(b"".join(line for line, _ in batch[:num_lines]))
            except OSError as error:
                self._fail(error, [written for _, written in batch])
                return
            self._written([written for _, written in batch[:num_lines]])
            batch = batch[num_lines:]

    def _num_fitting(self, batch: list[tuple[bytes, asyncio.Future[None]]]) -> int:
        """How many of these lines, from the first, the file has room for."""
        ends = itertools.accumulate((len(line) for line, _ in batch), initial=self._size)
        return sum(end <= self._max_bytes for end in ends) - (self._size <= self._max_bytes)

    def _written(self, futures: list[asyncio.Future[None]]) -> None:
        self.num_lines += len(futures)
        self._on_write(len(futures))
        if self._fsync != "always":
            self._is_dirty = True
            _resolve(futures, None)
            return
        self._unsynced += futures
        if self._syncing is None:
            self._syncing = asyncio.get_running_loop().create_task(self._sync_all())

    def _write(self, data: bytes) -> None:
        """All of it or nothing."""
        done = 0
        try:
            while done < len(data):
                done += os.write(self._descriptor, data[done:])
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self._size)
            raise
        self._size += len(data)

    def _rotate(self) -> None:
        fresh = self.path.with_name(".next")  # first, since it may find no room; then all is as it was
        descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            self._shift()
            fresh.replace(self.path)
        except OSError:
            os.close(descriptor)
            raise
        os.close(self._descriptor)
        self._descriptor, self._size = descriptor, 0

    def _shift(self) -> None:
        if self._fsync != "never":
            os.fsync(self._descriptor)
        for number in range(self._backups, 0, -1):
            before = self.path if number == 1 else self.path.with_name(f"data.json.{number - 1}")
            with contextlib.suppress(FileNotFoundError):
                before.replace(self.path.with_name(f"data.json.{number}"))

    async def _sync_all(self) -> None:
        while self._unsynced:
            futures, self._unsynced = self._unsynced, []
            self._num_in_sync = len(futures)
            await self._sync_descriptor(futures)
            self._num_in_sync = 0
        self._syncing = None

    async def _sync_descriptor(self, futures: list[asyncio.Future[None]] | None = None) -> None:
        try:
            descriptor = os.dup(self._descriptor)  # a rotation may close ours meanwhile
            try:
                await asyncio.get_running_loop().run_in_executor(None, os.fsync, descriptor)
            finally:
                os.close(descriptor)
            _resolve(futures or [], None)
        except OSError as error:
            self._fail(error, futures or [])

    def _fail(self, error: OSError, futures: list[asyncio.Future[None]]) -> None:
        self.problem = f"event log {self.path} cannot be written: {error.strerror}"
        _log.error("%s; nothing is answered until it can", self.problem)
        _resolve(futures, LogUnavailableError(self.problem))

    def _has_room(self) -> bool:
        probe = self.path.with_name(".probe")
        try:
            descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
            try:
                if os.write(descriptor, bytes(_PROBE_BYTES)) < _PROBE_BYTES:
                    return False
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
                probe.unlink(missing_ok=True)
        except OSError:
            return False
        return True


def check_log(*, fsync: str, fsync_interval_s: int | float, max_bytes: int, backups: int) -> None:
    """Refuse settings of a log that cannot be.

    Raises:
        InputError: one is out of range.
    """
    if fsync not in FSYNC:
        raise InputError(f"log.fsync must be one of {', '.join(FSYNC)}, got {fsync!r}")
    check_number("log.fsync_interval_s", fsync_interval_s, above=0)
    check_number("log.max_bytes", max_bytes, whole=True, least=4096)
    check_number("log.backups", backups, whole=True, least=0, most=1000)


def _resolve(futures: list[asyncio.Future[None]], error: Exception | None) -> None:
    for future in futures:
        if future.done():  # who waited is gone
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)


def now_ms() -> int:
    """Milliseconds since 1970, UTC."""
    return time.time_ns() // 1_000_000
