"""Lines of the log are complete, in order, and as safe as `fsync` promises before a request is answered."""

import asyncio
import errno
import logging
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.errors import InputError
from segue.serving import log_writer
from segue.serving.log_writer import EventLogWriter, LogUnavailableError
from segue.serving.settings import FSYNC, LogSettings
from tests.e2e.running import PATIENCE_S, settle, until

LINE = b'{"message": "next"}\n'


def open_log(folder: Path, **changes: Any) -> EventLogWriter:
    given: dict[str, Any] = {"fsync": "never", "max_bytes": 100_000_000, "backups": 10}
    return EventLogWriter(folder, LogSettings(**given | changes))


def lines_of(num: int, size: int = 40, first: int = 0) -> list[bytes]:
    """Numbered lines of some size."""
    return [f"{number:08d}".encode().ljust(size - 1, b".") + b"\n" for number in range(first, first + num)]


def written(folder: Path) -> list[bytes]:
    """All lines that are kept, oldest first."""
    rotated = sorted(folder.glob("data.json.*"), key=lambda path: -int(path.suffix[1:]))
    return [
        line
        for path in [*rotated, folder / "data.json"]
        if path.exists()
        for line in path.read_bytes().splitlines(True)
    ]


async def test_lines_are_written_in_the_order_they_were_added(tmp_path: Path) -> None:
    lines = lines_of(300)

    log = open_log(tmp_path / "logs" / "worker-1")
    waiting = []
    for number, line in enumerate(lines):
        waiting.append(log.append(line))
        if number % 7 == 0:
            await asyncio.sleep(0)
    await asyncio.gather(*waiting)
    assert written(tmp_path / "logs" / "worker-1") == lines, "they are with the system before they are answered"
    assert (log.num_lines, log.num_waiting, log.problem) == (300, 0, None)
    await log.close()


async def test_lines_of_one_turn_of_the_loop_are_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes, write = list[bytes](), os.write

    def noting(descriptor: int, data: bytes) -> int:
        writes.append(bytes(data))
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", noting)

    log = open_log(tmp_path)
    waiting = [log.append(line) for line in lines_of(50)]
    assert log.num_waiting == 50
    await asyncio.gather(*waiting)
    await log.append(LINE)
    await log.close()
    assert [line for line in writes if line.endswith(b"\n")] == [b"".join(lines_of(50)), LINE]


async def test_a_line_is_written_after_its_request_was_cancelled(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    gone, stays = log.append(b"gone\n"), log.append(b"stays\n")
    gone.cancel()
    await stays
    await log.close()
    assert written(tmp_path) == [b"gone\n", b"stays\n"]


@pytest.mark.parametrize("fsync", FSYNC)
async def test_closing_writes_and_syncs_the_remaining_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fsync: str
) -> None:
    synced, sync = list[int](), os.fsync

    def noting(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_size)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)

    log = open_log(tmp_path, fsync=fsync)
    waiting = [log.append(line) for line in lines_of(5)]
    await log.close()
    assert all(future.done() and future.exception() is None for future in waiting)
    assert written(tmp_path) == lines_of(5)
    assert synced[-1] == 5 * 40


batches = st.lists(st.lists(st.integers(10, 1500), min_size=1, max_size=6), max_size=25)


def send(folder: Path, sizes: list[list[int]], **changes: Any) -> list[bytes]:
    """Write batches of lines of these sizes; all of them."""
    sent: list[bytes] = []

    async def run() -> None:
        log = open_log(folder, **changes)
        for batch in sizes:
            lines = [lines_of(1, size, len(sent) + number)[0] for number, size in enumerate(batch)]
            await asyncio.gather(*map(log.append, lines))
            sent.extend(lines)
        await log.close()

    asyncio.run(run())
    return sent


@pytest.mark.parametrize("fsync", FSYNC)
@settings(max_examples=25)
@given(sizes=batches, backups=st.integers(0, 3) | st.just(200))
def test_rotation_keeps_the_latest_files_and_every_line_whole(
    fsync: str, sizes: list[list[int]], backups: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("log")
    sent, kept = send(folder, sizes, fsync=fsync, max_bytes=4096, backups=backups), written(folder)
    assert max(path.stat().st_size for path in folder.iterdir()) <= 4096
    names = {path.name for path in folder.iterdir()}
    assert names <= {"data.json", *(f"data.json.{number}" for number in range(1, backups + 1))}
    assert kept == sent[len(sent) - len(kept) :]
    if len(names) <= backups:
        assert kept == sent, "nothing is dropped before there are too many"


@pytest.mark.parametrize(("fsync", "is_synced"), [("always", True), ("interval", True), ("never", False)])
async def test_a_file_is_on_the_disk_before_it_is_rotated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fsync: str, is_synced: bool
) -> None:
    """No later fsync is of that file: nothing else would put its last lines on the disk."""
    synced, at_rotation = dict[int, int](), list[tuple[int, int]]()
    sync, rename = os.fsync, Path.replace

    def noting_sync(descriptor: int) -> None:
        sync(descriptor)
        synced[os.fstat(descriptor).st_ino] = os.fstat(descriptor).st_size

    def noting_rename(path: Path, target: Path) -> Path:
        if path.name == "data.json":
            at_rotation.append((path.stat().st_size, synced.get(path.stat().st_ino, 0)))
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", noting_sync)
    monkeypatch.setattr(Path, "replace", noting_rename)

    log = open_log(tmp_path, fsync=fsync, max_bytes=4096)
    await asyncio.gather(*(log.append(line) for line in lines_of(300)))  # in one turn: no sync is between
    await log.close()
    assert len(at_rotation) == 2
    assert all(size > 4000 and on_disk == (size if is_synced else 0) for size, on_disk in at_rotation)


def test_a_line_larger_than_max_bytes_gets_its_own_file(tmp_path: Path) -> None:
    sent = send(tmp_path, [[100], [9000], [100]], max_bytes=4096, backups=5)
    assert written(tmp_path) == sent
    assert [(tmp_path / name).stat().st_size for name in ("data.json.2", "data.json.1", "data.json")] == [
        100,
        9000,
        100,
    ]


def test_the_size_of_an_existing_file_counts(tmp_path: Path) -> None:
    first = send(tmp_path, [[3000]], max_bytes=4096, backups=5)
    send(tmp_path, [[3000]], max_bytes=4096, backups=5)
    assert (tmp_path / "data.json.1").read_bytes() == first[0]


class HeldSync:
    """An fsync that waits until it is released."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.go, self.sizes = threading.Semaphore(0), threading.Semaphore(0), list[int]()
        monkeypatch.setattr(os, "fsync", self)

    def __call__(self, descriptor: int) -> None:
        self.sizes.append(os.fstat(descriptor).st_size)
        self.begun.release()
        assert self.go.acquire(timeout=PATIENCE_S)

    async def wait(self) -> None:
        await until(lambda: self.begun.acquire(blocking=False))


@pytest.mark.timing
async def test_always_waits_until_a_line_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync = HeldSync(monkeypatch)

    log = open_log(tmp_path, fsync="always")
    first = log.append(b"first\n")
    await sync.wait()
    later = [log.append(b"later\n"), log.append(b"later\n")]
    await settle()
    assert written(tmp_path) == [b"first\n", b"later\n", b"later\n"], "they are written, but may be lost"
    assert not first.done()
    assert log.num_waiting == 3, "those that are being synced too"
    sync.go.release()
    await sync.wait()
    assert first.done()
    assert not any(future.done() for future in later), "the first sync may not have seen them"
    sync.go.release()
    await asyncio.gather(*later)
    assert sync.sizes == [6, 18], "one sync for all that came meanwhile"
    assert log.num_waiting == 0
    sync.go.release()
    await log.close()


@pytest.mark.timing
async def test_closing_waits_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync = HeldSync(monkeypatch)

    log = open_log(tmp_path, fsync="always")
    line = log.append(LINE)
    await sync.wait()
    closing = asyncio.ensure_future(log.close())
    await settle()
    assert not closing.done()
    sync.go.release(2)
    await closing
    assert line.done()


async def test_a_failed_sync_fails_the_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    log = open_log(tmp_path, fsync="always")
    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", refuse)
        with pytest.raises(LogUnavailableError, match=r"data.json cannot be written: Input/output error"):
            await log.append(LINE)
    with pytest.raises(LogUnavailableError, match="cannot be written"):
        log.append(LINE)
    await log.close()


@pytest.mark.timing
@pytest.mark.parametrize(("fsync", "num_syncs"), [("interval", 1), ("never", 0)])
async def test_interval_syncs_new_lines_and_never_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fsync: str, num_syncs: int
) -> None:
    sizes: list[int] = []

    def noting(descriptor: int) -> None:
        if os.path.samestat(os.fstat(descriptor), (tmp_path / "data.json").stat()):
            sizes.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(os, "fsync", noting)
    monkeypatch.setattr(log_writer, "_PROBE_S", 0.02)

    async def two_turns(log: EventLogWriter) -> None:
        """Until upkeep has twice found that a problem is over; it syncs before it looks again."""
        for _ in range(2):
            log.problem = "a full disk"
            await until(lambda: log.problem is None)

    log = open_log(tmp_path, fsync=fsync)
    await log.append(LINE)
    assert sizes == [], "nobody waits for it"
    upkeep = asyncio.ensure_future(log.run())
    await until(lambda: len(sizes) == num_syncs)
    await two_turns(log)
    assert sizes == [len(LINE)] * num_syncs
    await log.append(LINE)
    await until(lambda: len(sizes) == 2 * num_syncs)
    await two_turns(log)
    assert sizes == [len(LINE), 2 * len(LINE)][: 2 * num_syncs]
    upkeep.cancel()
    await asyncio.wait([upkeep])
    await log.close()


async def test_a_batch_that_does_not_fit_on_the_disk_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write

    def half(descriptor: int, data: bytes) -> int:
        if len(data) <= len(LINE):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[: len(data) - 10])

    log = open_log(tmp_path)
    await log.append(LINE)
    with monkeypatch.context() as full:
        full.setattr(os, "write", half)
        results = await asyncio.gather(log.append(LINE), log.append(LINE), return_exceptions=True)
    assert [str(result) for result in results] == [
        f"event log {log.path} cannot be written: No space left on device"
    ] * 2
    assert written(tmp_path) == [LINE]
    await log.close()
    assert written(tmp_path) == [LINE]


@pytest.mark.timing
@pytest.mark.parametrize("num_refusals", [1, 3])
@pytest.mark.parametrize("fsync", FSYNC)
def test_a_full_disk_during_rotation_keeps_the_log_intact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fsync: str, num_refusals: int
) -> None:
    """If the disk is full during rotation, no answered line is lost, and the log recovers."""
    monkeypatch.setattr(log_writer, "_PROBE_S", 0.01)
    open_file, refused = os.open, 0

    def no_room(path: Any, flags: int, *more: Any, **others: Any) -> int:
        nonlocal refused
        if refused < num_refusals and flags & os.O_CREAT and "probe" not in str(path):
            refused += 1
            raise OSError(errno.ENOSPC, "No space left on device")
        return open_file(path, flags, *more, **others)

    async def run() -> list[bytes]:
        log = open_log(tmp_path, fsync=fsync, max_bytes=4096, backups=4)
        upkeep = asyncio.ensure_future(log.run())
        answered: list[bytes] = []
        for line in lines_of(4, 3000):
            await log.append(line)
            answered.append(line)
        monkeypatch.setattr(os, "open", no_room)
        for line in lines_of(num_refusals, 3000, 100):
            with pytest.raises(LogUnavailableError, match="No space left on device"):
                await log.append(line)
            await until(lambda: log.problem is None)
        for line in lines_of(1, 3000, 200):
            await log.append(line)
            answered.append(line)
        upkeep.cancel()
        await asyncio.wait([upkeep])
        await log.close()
        return answered

    assert asyncio.run(run()) == written(tmp_path)
    assert refused == num_refusals


@pytest.mark.parametrize("half", [b'{"half', b"x" * 70_000, bytes(200_000)])
@pytest.mark.parametrize("before", [[], [LINE, LINE]])
def test_an_incomplete_last_line_is_removed_and_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, before: list[bytes], half: bytes
) -> None:
    """A power failure can leave an incomplete line or zeros."""
    (tmp_path / "data.json").write_bytes(b"".join(before) + half)

    async def run() -> None:
        log = open_log(tmp_path)
        assert written(tmp_path) == before
        await log.append(b"after\n")
        await log.close()

    with caplog.at_level(logging.WARNING, "segue.serving"):
        asyncio.run(run())
    assert written(tmp_path) == [*before, b"after\n"]
    assert f"data.json ended in an incomplete line of {len(half)} bytes, which is removed" in caplog.text


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*file/data.json: (Not a directory|File exists)"):
        open_log(tmp_path / "file")
    (tmp_path / "folder" / "data.json").mkdir(parents=True)
    with pytest.raises(InputError, match=r"cannot write .*data.json: Is a directory"):
        open_log(tmp_path / "folder")
