"""The event log of one worker, in the predecessor's format.

Every event is written to the operating system before the response is sent. Therefore every answered request is in the
log, even if the worker is killed. `fsync` sets what a power failure can lose:

- `always`: nothing; a response waits until its event is on the disk;
- `interval`: the events of about the last `fsync_interval_s` seconds;
- `never`: the events that the operating system has not written yet, about half a minute on Linux.
"""

import asyncio
import contextlib
import itertools
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from segue.errors import InputError, check_number

FSYNC = ("always", "interval", "never")

FILE_MODE = 0o640
"""Of the files that say what a user has played: the owner writes, the group reads. The umask can take away more."""

_PROBE_BYTES = 64 * 1024
"""Free bytes that a full disk must have before lines are written again."""

_PROBE_S = 1.0

_BLOCK_BYTES = 64 * 1024
"""Bytes that are read at once to find the end of the last whole line."""

_log = logging.getLogger("segue.serving")


class LogUnavailableError(Exception):
    """The event log cannot be written at the moment; the message says why."""


class EventLogWriter:
    """Appends lines to `data.json` and rotates it: `data.json.1` is the previous file, and so on.

    Only one event loop of one process may use a folder.

    Args:
        folder: folder of the file; it is created if it is missing.
        fsync: one of `FSYNC`, see the top of this module.
        fsync_interval_s: seconds between two calls of fsync with `interval`.
        max_bytes: largest size of a file, unless a single line is larger; 100 MB in the predecessor.
        backups: number of rotated files that are kept; ten in the predecessor.
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
        """Lines that are not yet as safe as `fsync` promises."""
        return len(self._batch) + len(self._unsynced) + self._num_in_sync

    def append(self, line: bytes) -> asyncio.Future[None]:
        """Add a line; await the returned future before the response is sent.

        Raises:
            LogUnavailableError: lines cannot be written now; the future may raise it as well.
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
        """Call fsync at its interval, and check whether a full disk has room again; runs until it is cancelled."""
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
        """Write the remaining lines and call fsync; later lines are refused."""
        self.problem = "the service is stopping, and its event log is closed"
        self._flush()
        while self._syncing is not None:
            await asyncio.wait([self._syncing])
        with contextlib.suppress(OSError):
            os.fsync(self._descriptor)
        os.close(self._descriptor)

    def _open(self) -> None:
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, FILE_MODE)
        self._size = os.fstat(self._descriptor).st_size
        torn = self._torn_bytes()
        if torn:  # by a power failure: its request was not answered, or the line cannot be read any more
            self._size -= torn
            os.ftruncate(self._descriptor, self._size)
            _log.warning("event log %s ended in an incomplete line of %d bytes, which is removed", self.path, torn)

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
        """How many of these lines, counted from the first, fit into the file."""
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
        """Write all of the data or none of it."""
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
        fresh = self.path.with_name(".next")  # first: if the disk is full, nothing has changed
        descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, FILE_MODE)
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
            descriptor = os.dup(self._descriptor)  # a rotation may close the original meanwhile
            try:
                await asyncio.get_running_loop().run_in_executor(None, os.fsync, descriptor)
            finally:
                os.close(descriptor)
            _resolve(futures or [], None)
        except OSError as error:
            self._fail(error, futures or [])

    def _fail(self, error: OSError, futures: list[asyncio.Future[None]]) -> None:
        self.problem = f"event log {self.path} cannot be written: {error.strerror}"
        _log.error("%s; requests get 503 until it can", self.problem)
        _resolve(futures, LogUnavailableError(self.problem))

    def _has_room(self) -> bool:
        probe = self.path.with_name(".probe")
        try:
            descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, FILE_MODE)
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
    """Refuse invalid settings of a log.

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
        if future.done():  # its request was cancelled
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)


def now_ms() -> int:
    """Milliseconds since 1970, UTC."""
    return time.time_ns() // 1_000_000
