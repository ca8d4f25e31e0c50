"""The event log of one worker, in the predecessor's format.

Every event is written to the operating system before the response is sent. Therefore every answered request is in the
log, even if the worker is killed. `fsync` sets what a power failure can lose:

- `always`: nothing; a response waits until its event is on the disk;
- `interval`: the events of about the last second;
- `never`: the events that the operating system has not written yet, about half a minute on Linux.
"""

import asyncio
import contextlib
import itertools
import logging
import mmap
import os
import tempfile
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path

from segue.errors import InputError
from segue.serving.settings import LogSettings

FILE_MODE = 0o640
"""Of the files that say what a user has played: the owner writes, the group reads. The umask can take away more."""

_PROBE_BYTES = 64 * 1024  # free bytes that a full disk must have before lines are written again

_PROBE_S = 1.0

_log = logging.getLogger("segue.serving")


class LogUnavailableError(Exception):
    """The event log cannot be written at the moment; the message says why."""


class EventLogWriter:
    """Appends lines to `data.json` and rotates it: `data.json.1` is the previous file, and so on.

    Only one event loop of one process may use a folder. A file has at most `max_bytes`, unless a single line is larger.

    Args:
        folder: folder of the file; it is created if it is missing.
        settings: of the log.
        on_write: is called with the number of lines of each write.

    Raises:
        InputError: the file cannot be written.
    """

    def __init__(self, folder: Path, settings: LogSettings, on_write: Callable[[int], None] = lambda _: None) -> None:
        self.path, self._settings, self._on_write = folder / "data.json", settings, on_write
        self._batch: list[tuple[bytes, asyncio.Future[None]]] = []
        self._unsynced: list[asyncio.Future[None]] = []
        self._syncing: asyncio.Task[None] | None = None
        self._is_dirty = False
        self.problem: str | None = None
        self.num_lines = self.num_waiting = 0  # lines wait until they are as safe as `fsync` promises
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._descriptor = _opened(self.path)
            self._size = self._whole_bytes()
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {error.strerror}") from None

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
        self.num_waiting += 1
        return written

    async def run(self) -> None:
        """Each second, call fsync and check whether a full disk has room again; runs until it is cancelled."""
        while True:
            await asyncio.sleep(_PROBE_S)
            if self.problem is not None and await asyncio.to_thread(self._has_room):
                _log.warning("event log %s can be written again", self.path)
                self.problem = None
            if self._settings.fsync == "interval" and self._is_dirty:
                self._is_dirty = False
                await self._sync([])

    async def close(self) -> None:
        """Write the remaining lines and call fsync; later lines are refused."""
        self.problem = "the service is stopping, and its event log is closed"
        self._flush()
        while self._syncing is not None:
            await asyncio.wait([self._syncing])
        with contextlib.suppress(OSError):
            os.fsync(self._descriptor)
        os.close(self._descriptor)

    def _whole_bytes(self) -> int:
        """The size of the file, whose last line is removed if it is incomplete.

        A power failure does that: the request was not answered, or the line cannot be read any more.
        """
        if not (size := os.fstat(self._descriptor).st_size):
            return 0
        with mmap.mmap(self._descriptor, size, access=mmap.ACCESS_READ) as text:
            whole = text.rfind(b"\n") + 1
        if whole < size:
            os.ftruncate(self._descriptor, whole)
            _log.warning(
                "event log %s ended in an incomplete line of %d bytes, which is removed", self.path, size - whole
            )
        return whole

    def _flush(self) -> None:
        batch, self._batch = self._batch, []
        while batch:
            ends = list(itertools.accumulate(len(line) for line, _ in batch))
            num_lines = bisect_right(ends, self._settings.max_bytes - self._size)
            try:
                if not num_lines and self._size:
                    self._rotate()
                    continue
                num_lines = num_lines or 1  # larger than a file
                self._write(b"".join(line for line, _ in batch[:num_lines]))
            except OSError as error:
                self._fail(error, [written for _, written in batch])
                return
            self.num_lines += num_lines
            self._on_write(num_lines)
            futures, batch = [written for _, written in batch[:num_lines]], batch[num_lines:]
            if self._settings.fsync != "always":
                self._is_dirty = True
                self._resolve(futures)
                continue
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
        descriptor = _opened(fresh, os.O_TRUNC)
        try:
            if self._settings.fsync != "never":
                os.fsync(self._descriptor)
            for number in range(self._settings.backups, 0, -1):
                before = self.path if number == 1 else self.path.with_name(f"data.json.{number - 1}")
                with contextlib.suppress(FileNotFoundError):
                    before.replace(self.path.with_name(f"data.json.{number}"))
            fresh.replace(self.path)
        except OSError:
            os.close(descriptor)
            raise
        os.close(self._descriptor)
        self._descriptor, self._size = descriptor, 0

    async def _sync_all(self) -> None:
        while self._unsynced:
            futures, self._unsynced = self._unsynced, []
            await self._sync(futures)
        self._syncing = None

    async def _sync(self, futures: list[asyncio.Future[None]]) -> None:
        try:
            descriptor = os.dup(self._descriptor)  # a rotation may close the original meanwhile
            try:
                await asyncio.to_thread(os.fsync, descriptor)
            finally:
                os.close(descriptor)
            self._resolve(futures)
        except OSError as error:
            self._fail(error, futures)

    def _fail(self, error: OSError, futures: Sequence[asyncio.Future[None]]) -> None:
        self.problem = f"event log {self.path} cannot be written: {error.strerror}"
        _log.error("%s; requests get 503 until it can", self.problem)
        self._resolve(futures, LogUnavailableError(self.problem))

    def _resolve(self, futures: Sequence[asyncio.Future[None]], error: Exception | None = None) -> None:
        self.num_waiting -= len(futures)
        for future in futures:
            if future.done():  # its request was cancelled
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

    def _has_room(self) -> bool:
        with contextlib.suppress(OSError), tempfile.TemporaryFile(dir=self.path.parent, buffering=0) as probe:
            is_whole = probe.write(bytes(_PROBE_BYTES)) == _PROBE_BYTES
            os.fsync(probe.fileno())
            return is_whole
        return False


def _opened(path: Path, more: int = 0) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | more, FILE_MODE)


def now_ms() -> int:
    """Milliseconds since 1970, UTC."""
    return time.time_ns() // 1_000_000
