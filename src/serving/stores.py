"""Builds the stores of the settings: a folder of this machine, and Redis if replicas share releases."""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

from segue.serving.release_store import FolderStore, ReleaseStore, SharedStore
from segue.serving.session_memory import MappedSessions, SessionMemory
from segue.serving.settings import REDIS, ServiceSettings


class Stores(NamedTuple):
    """The stores of releases: a folder that is served from, and Redis if replicas share it."""

    local: FolderStore
    shared: SharedStore | None

    @property
    def source(self) -> ReleaseStore:
        """The store that decides which version is current."""
        return self.local if self.shared is None else self.shared


def make_stores(settings: ServiceSettings) -> Stores:
    """The stores of releases."""
    given = settings.store
    local = FolderStore(Path(given["folder"]), keep=given["keep"])
    url = os.environ.get(REDIS)
    if given["kind"] != "redis" or url is None:
        return Stores(local, None)
    from segue.serving.redis_store import RedisStore

    timeout_s = given["timeout_s"]
    return Stores(local, RedisStore(url=url, name=given["name"], local=local, keep=given["keep"], timeout_s=timeout_s))


def make_sessions(settings: ServiceSettings) -> tuple[SessionMemory, list[Callable[[], Awaitable[None]]]]:
    """The memory of sessions, and coroutines that close it."""
    local = MappedSessions(Path(settings.run_dir, "sessions.bin"), **settings.sessions)
    url = os.environ.get(REDIS)
    if settings.store["kind"] != "redis" or url is None:
        return local, []
    from segue.serving.redis_store import RedisSessions

    given = settings.store
    shared = RedisSessions(url=url, name=given["name"], local=local, timeout_s=given["timeout_s"], **settings.sessions)
    return shared, [shared.close]
