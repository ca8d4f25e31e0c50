"""Removes one listener from what a service keeps: profiles, sessions, last plays, and event logs."""

import asyncio
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from segue.catalog import Id, id_problem, key_of
from segue.errors import InputError
from segue.serving.ids import as_json
from segue.serving.last_plays import make_last_plays
from segue.serving.loading import store_of
from segue.serving.log_writer import now_ms
from segue.serving.session_memory import FILE, MappedSessions
from segue.serving.settings import SETTINGS, RedisSettings, ServiceSettings, SessionSettings
from segue.serving.stores import make_profiles, make_sessions


class Removed(NamedTuple):
    """What was removed of a listener.

    Attributes:
        had_profile: whether there was a profile.
        num_lines: lines of event logs that were overwritten.
        num_files: event logs in which there were such lines.
    """

    had_profile: bool
    num_lines: int
    num_files: int


def forget(given: Mapping[str, Any]) -> Removed:
    """Remove a listener from profiles, sessions, last plays and event logs, also while the service runs.

    Event logs, sessions and last plays are those at `run_dir`, in the folder of the store, and below both.

    Args:
        given: the composed config.

    Raises:
        InputError: no listener is named, there is no such store, Redis does not answer, or a file cannot be written.
    """
    if (problem := id_problem(given["listener"])) is not None:
        raise InputError(f"forget: listener {problem}, got {given['listener']!r}; name one with forget listener=<id>")
    settings = ServiceSettings.of(given).of_service()
    with tempfile.TemporaryDirectory() as staging:
        store_of(given, staging)  # refuses a folder that is no store
    roots = Path(settings.run_dir), Path(settings.store.folder).parent
    folders = sorted({path.parent for root in roots for path in root.rglob(SETTINGS)})
    files = sorted({path for root in roots for path in root.rglob(FILE)})
    try:
        had_profile = asyncio.run(_forget_memory(key_of(given["listener"]), settings, files))
        nums = [*blank_lines(folders, given["listener"])]
    except OSError as error:
        raise InputError(f"cannot write {error.filename}: {error.strerror}; type this command again") from None
    return Removed(had_profile, sum(nums), sum(num > 0 for num in nums))


async def _forget_memory(user: int, settings: ServiceSettings, files: Iterable[Path]) -> bool:
    """Remove a listener from profiles, sessions and last plays; returns whether there was a profile."""
    profiles = make_profiles(settings.store, settings.profiles)
    had_profile = await profiles.forget(user, now_ms())
    for path in files:
        if (sessions := MappedSessions.as_it_is(path)) is not None:
            await sessions.forget(user)
    if isinstance(settings.store, RedisSettings):
        with tempfile.TemporaryDirectory() as elsewhere:
            store, sizes = replace(settings.store, folder=elsewhere), SessionSettings(capacity=8)
            empty = replace(settings, run_dir=elsewhere, store=store, sessions=sizes)
            for shared in (make_sessions(empty), make_last_plays(empty)):
                await shared.forget(user)
    return had_profile


def blank_lines(folders: Iterable[Path], user: Id) -> Iterable[int]:
    """Overwrite the lines of a listener with empty lines in the event logs of run folders.

    The files keep their sizes: a service that appends to one of them does not notice. Readers of logs skip empty lines.

    Args:
        folders: run folders.
        user: id of the listener.

    Yields:
        The number of lines of each file.
    """
    done, logs = set[tuple[int, int]](), [folder / "logs" for folder in folders]
    while True:  # a file that was rotated meanwhile has another name, and may have been missed under both
        num_done = len(done)
        for path in sorted(path for folder in logs for path in folder.glob("*/data.json*")):
            try:
                descriptor = os.open(path, os.O_RDWR)
            except FileNotFoundError:
                continue
            with os.fdopen(descriptor, "r+b") as file:
                found = os.fstat(descriptor)
                if (found.st_dev, found.st_ino) not in done:
                    done.add((found.st_dev, found.st_ino))
                    yield _blank(file, user)
        if len(done) == num_done:
            return


def _blank(file: Any, user: Id) -> int:
    key, at, num = key_of(user), 0, 0
    texts = {str(key).encode()} if key >= 0 else {as_json(user).encode(), json.dumps(user).encode()}
    for line in file:
        if any(text in line for text in texts) and _is_of(line, key):
            os.pwrite(file.fileno(), b"\n" * len(line), at)
            num += 1
        at += len(line)
    os.fsync(file.fileno())
    return num


def _is_of(line: bytes, key: int) -> bool:
    """Whether a line is an event of a listener."""
    try:
        user = json.loads(line)["user"]
    except (ValueError, TypeError, LookupError, RecursionError):
        return False
    return id_problem(user) is None and key_of(user) == key
