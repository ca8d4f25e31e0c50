"""Builds the stores of the settings: in a folder of this machine, and in Redis if replicas share them."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Union

from segue.serving.profile_memory import MappedProfiles
from segue.serving.release_store import FolderStore
from segue.serving.session_memory import FILE as SESSIONS
from segue.serving.session_memory import MappedSessions
from segue.serving.settings import REDIS, ProfileSettings, RedisSettings, ServiceSettings, StoreSettings

if TYPE_CHECKING:
    from segue.serving.redis_store import RedisProfiles, RedisSessions, RedisStore

# The store that decides which version is current; `local` is its folder of this machine.
Store = Union[FolderStore, "RedisStore"]
# What remembers the tracks of the current session of each user, and the last answer where it is noted.
Sessions = Union[MappedSessions, "RedisSessions"]
# What each listener has heard in all of their sessions.
ProfileStore = Union[MappedProfiles, "RedisProfiles"]


def make_store(settings: ServiceSettings) -> Store:
    """The store of releases."""
    given = settings.store
    if not isinstance(given, RedisSettings):
        return FolderStore(Path(given.folder), keep=given.keep)
    from segue.serving.redis_store import RedisStore

    return RedisStore(os.environ[REDIS], given)


def make_sessions(settings: ServiceSettings) -> Sessions:
    """The memory of sessions."""
    local = MappedSessions(Path(settings.run_dir, SESSIONS), settings.sessions)
    if not isinstance(settings.store, RedisSettings):
        return local
    from segue.serving.redis_store import RedisSessions

    return RedisSessions(os.environ[REDIS], settings.store, settings.sessions, local)


def make_profiles(store: StoreSettings, profiles: ProfileSettings) -> ProfileStore:
    """The memory of listeners."""
    if not isinstance(store, RedisSettings):
        return MappedProfiles(Path(store.folder), profiles)
    from segue.serving.redis_store import RedisProfiles

    return RedisProfiles(os.environ[REDIS], store, profiles)
