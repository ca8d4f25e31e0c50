"""Releases and sessions that several replicas share through Redis. Values are bytes of arrays or JSON.

A release is stored in pieces under keys that contain its version. The key `index` names the current version and is set
last. A replica copies a version into its folder once and answers from there; requests do not wait for Redis.
"""

import json
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from segue.errors import InputError
from segue.runs.profiles import ENTRY, Profiles, add_play
from segue.serving.known_tracks import change_of, with_kept
from segue.serving.profile_memory import forget_old, merged, newest_of
from segue.serving.release import HEAD, Release, parse_head, read_head
from segue.serving.release_store import FolderStore, Index, StoreUnreachableError, changed_meanwhile, damaged
from segue.serving.session_memory import MappedSessions, Noted, Played
from segue.serving.settings import ProfileSettings, RedisSettings, SessionSettings

_Answer = TypeVar("_Answer")
_PIECE_BYTES = 8 * 1024 * 1024
_MOST_PIECES = 10_000
_MOST_CONNECTIONS = 64

# A restart of Redis closes the connections of a pool. With protocol 3, its default, redis-py 8 hands them out without a
# check. With protocol 2 it checks them; what that misses fails at once, and one retry replaces the connection. Timeouts
# are not retried: a Redis that hangs would delay a request twice.
_PROTOCOL = 2
_LOST = (redis.ConnectionError,)
# Exceptions when a connection is lost; uvloop raises RuntimeError for one that was reset while idle.
_LOST_BY_UVLOOP: Any = (*_LOST, RuntimeError)

_UNREACHABLE = (redis.RedisError, OSError)  # exceptions of redis-py when Redis does not answer
# The same in an event loop of uvloop: a new connection, too, may be reset before its first command.
_UNSHARED = (*_UNREACHABLE, RuntimeError)


class RedisStore:
    """Releases in Redis, and the folder that this replica copies them to.

    Args:
        url: `redis://host:port/db`, with user and password if Redis requires them.
        settings: of the store; its name is the prefix of every key, so that several services can share one Redis.

    Raises:
        InputError: the URL is invalid.
    """

    def __init__(self, url: str, settings: RedisSettings) -> None:
        head, at, tail = url.rpartition("@")
        self.where = f"{head.split('://')[0]}://…@{tail}" if at else url  # without user and password
        self.local, self._settings = FolderStore(Path(settings.folder), keep=settings.keep), settings
        try:
            self._redis = redis.Redis.from_url(
                url,
                socket_timeout=settings.timeout_s,
                socket_connect_timeout=settings.timeout_s,
                protocol=_PROTOCOL,
                retry=Retry(NoBackoff(), 1, supported_errors=_LOST),
            )
        except ValueError as error:
            raise InputError(f"store.url={self.where!r} is not an address of Redis: {error}") from None

    def index(self) -> Index:
        """The versions in this store.

        Raises:
            InputError: Redis does not answer, or the index is damaged.
        """
        with self._errors_as_input():
            return Index.parse(self._get("index"), f"{self.where}, key {self._key('index')}")

    def publish(self, version: str, *, before: str | None) -> str:
        """Copy a version from the local folder to Redis, make it current, and return it.

        Args:
            version: the version.
            before: the version that was current in Redis when it was loaded.

        Raises:
            InputError: Redis does not answer or has no memory left, or another command changed it meanwhile.
        """

        def change(index: Index) -> tuple[Index, list[str]]:
            if index.current != before:
                raise InputError(changed_meanwhile(self.where))
            return index.after_load(version, self._settings.keep)

        with self._errors_as_input():
            self._put(self.local.path(version))
            self._change(change)
        return version

    def _put(self, folder: Path) -> None:
        head = read_head(folder)
        for name in head["arrays"]:
            with (folder / f"{name}.npy").open("rb") as file:
                for number, piece in enumerate(iter(lambda: file.read(_PIECE_BYTES), b"")):
                    self._redis.set(self._key(head["version"], name, number), piece)
        self._redis.set(self._key(head["version"], HEAD), json.dumps(head))

    def rollback(self) -> str:
        """Make the version before the current one current, and return it.

        If it does not know all ids of the current one, a version that also knows these takes its place.

        Raises:
            InputError: there is no earlier version, it is damaged, Redis does not answer, or another command changed
                it meanwhile.
        """
        with self._errors_as_input(), tempfile.TemporaryDirectory() as folder:
            before = self.index()
            target = str(before.after_rollback(self.where).current)
            if (release := self._release(target, Path(folder, "target"))) is None:
                raise InputError(damaged(target, self.where))
            if (old := self._release(str(before.current), Path(folder, "current"))) is not None:
                (extended := Path(folder, "extended")).mkdir()
                release = with_kept(change_of(old, release), old, release, extended)
            version = release.version
            if version != target:
                self._put(release.folder)

            def change(index: Index) -> tuple[Index, list[str]]:
                if index.current != before.current:
                    raise InputError(changed_meanwhile(self.where))
                return index.after_rollback(self.where).replaced(target, version), [target] * (version != target)

            self._change(change)
        return version

    def _release(self, version: str, folder: Path) -> Release | None:
        """A version, which is copied into a new folder; None if it is damaged."""
        folder.mkdir()
        try:
            self._copy(version, folder)
            return Release(folder)
        except StoreUnreachableError:
            raise
        except InputError:
            return None

    def fetch(self) -> str:
        """Copy the current version to the local folder, make it current there, and return it.

        Raises:
            InputError: Redis does not answer, holds no release, or a damaged one; the local folder stays as it is.
        """
        if (version := self.index().current) is None:
            raise InputError(
                f"{self.where} holds no release; load one: serve.py load store=redis recommendations=<name>"
            )
        if self.local.index().current == version:
            return version
        if self.local.is_whole(version):
            self.local.switch(version)
            return version
        with self._errors_as_input():
            return self.local.load(lambda folder: self._copy(version, folder))

    def _copy(self, version: str, folder: Path) -> None:
        where = f"release {version} in {self.where}"
        head = parse_head(self._get(version, HEAD) or b"null", where)
        if head["version"] != version:
            raise InputError(f"{where} is damaged: its contents are of version {head['version']!r}; load it again")
        for name in head["arrays"]:
            with (folder / f"{name}.npy").open("wb") as file:
                for number in range(_MOST_PIECES):
                    if (piece := self._get(version, name, number)) is None:
                        break
                    file.write(piece)
        (folder / HEAD).write_text(json.dumps(head), encoding="utf-8")

    def _change(self, change: Callable[[Index], tuple[Index, list[str]]]) -> None:
        """Replace the index, then remove versions; if another process changed it, apply the change to the new one."""

        def work(pipe: Any) -> Any:
            index, removed = change(Index.parse(pipe.get(self._key("index")), self.where))
            pipe.multi()
            pipe.set(self._key("index"), json.dumps(asdict(index)))
            return removed

        removed = cast("list[str]", self._redis.transaction(work, self._key("index"), value_from_callable=True))
        for old in removed:
            for key in self._redis.scan_iter(match=self._key(old, "*"), count=1000):
                self._redis.unlink(key)

    def _get(self, *parts: object) -> bytes | None:
        return cast("bytes | None", self._redis.get(self._key(*parts)))  # bytes, as nothing is decoded

    def _key(self, *parts: object) -> str:
        return ":".join(map(str, (self._settings.name, *parts)))

    @contextmanager
    def _errors_as_input(self) -> Iterator[None]:
        try:
            yield
        except _UNREACHABLE as error:
            raise StoreUnreachableError(f"Redis at {self.where} does not answer as it should: {error}") from None


class _Client:
    """Asks Redis for the requests of a worker. While it does not answer, only one request in each pause tries.

    Args:
        url: address of Redis.
        settings: of the store. After a failure Redis is asked again when `timeout_s` seconds have passed.
        lack: what is missing meanwhile, as the beginning of a line.
    """

    def __init__(self, url: str, settings: RedisSettings, lack: str) -> None:
        # more requests than connections wait for a free one; a plain pool would raise an error instead
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            url,
            max_connections=_MOST_CONNECTIONS,
            timeout=settings.timeout_s,
            socket_timeout=settings.timeout_s,
            socket_connect_timeout=settings.timeout_s,
            protocol=_PROTOCOL,
            retry=AsyncRetry(NoBackoff(), 1, supported_errors=_LOST_BY_UVLOOP),
        )
        self._redis: Any = redis.asyncio.Redis.from_pool(pool)
        self._name, self._pause_s, self._lack = settings.name, settings.timeout_s, lack
        self._problem: str | None = None
        self._paused_until_s = self._recent_until_s = 0.0

    @property
    def problem(self) -> str | None:
        """What is missing and why; None if no recent request failed, because only a request finds out."""
        return self._problem if time.monotonic() < self._recent_until_s else None

    async def _tried(self, work: Callable[[Any], Awaitable[_Answer]]) -> _Answer | None:
        """What `work` returns, which gets a pipeline; None where Redis does not answer.

        While it does not answer, only one request in each pause tries, and no other waits.
        """
        if (now_s := time.monotonic()) < self._paused_until_s:
            return None
        if self._problem is not None:
            self._paused_until_s = now_s + self._pause_s
        try:
            async with self._redis.pipeline(transaction=True) as pipe:
                answer = await work(pipe)
        except _UNSHARED as error:
            now_s = time.monotonic()
            self._problem = f"{self._lack}: Redis does not answer ({error})"
            # the next request, too, may wait for the timeout
            self._paused_until_s, self._recent_until_s = now_s + self._pause_s, now_s + 3 * self._pause_s
            return None
        self._problem, self._paused_until_s = None, 0.0
        return answer

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()


class RedisSessions(_Client):
    """Sessions in Redis, shared by several replicas; while Redis does not answer, sessions of this machine.

    Users and tracks are the keys of their ids (`catalog.key_of`): no text of a request is in a key of Redis.

    Args:
        url: address of Redis.
        settings: of the store.
        limits: of the sessions; `capacity` is not used: `maxmemory` of Redis limits the number of sessions.
        local: is used while Redis does not answer.
    """

    def __init__(self, url: str, settings: RedisSettings, limits: SessionSettings, local: MappedSessions) -> None:
        super().__init__(url, settings, "sessions are not shared")
        self._local, self._max_tracks, self._idle_ms = local, limits.max_tracks, limits.idle_ms

    async def play(self, user: int, track: int, share: float, now_ms: int) -> Played:
        """Add a track to the session of a user; returns all of the session in order, this track last."""
        session, answer = self._keys(user)
        found = await self._ask(
            lambda pipe: (
                pipe.unlink(answer)
                .rpush(session, f"{track} {share}")
                .ltrim(session, -self._max_tracks, -1)
                .pexpire(session, self._idle_ms)
                .lrange(session, 0, -1)
            )
        )
        return _played(found[-1]) if found else await self._local.play(user, track, share, now_ms)

    async def note(self, user: int, answer: Noted) -> None:
        """Keep the answer to the last track of a user's session, for `look`."""
        _, key = self._keys(user)
        if not await self._ask(lambda pipe: pipe.set(key, json.dumps(answer), px=self._idle_ms)):
            await self._local.note(user, answer)

    async def look(self, user: int, now_ms: int) -> tuple[Played, Noted] | None:
        """What a user's session has played, and the answer noted since; None without a session or an answer."""
        session, answer = self._keys(user)
        if not (found := await self._ask(lambda pipe: pipe.lrange(session, 0, -1).get(answer))):
            return await self._local.look(user, now_ms)
        played = _played(found[0])
        return (played, Noted(*json.loads(found[1]))) if played.tracks and found[1] else None

    async def end(self, user: int) -> None:
        """End the session of a user."""
        await self._local.end(user)
        await self._ask(lambda pipe: pipe.unlink(*self._keys(user)))

    async def forget(self, user: int) -> None:
        """Remove what is known of a user.

        Raises:
            InputError: Redis does not answer.
        """
        await self._local.forget(user)
        with _as_input():
            await self._redis.unlink(*self._keys(user))

    def _keys(self, user: int) -> tuple[str, str]:
        return f"{self._name}:session:{user}", f"{self._name}:answer:{user}"

    async def _ask(self, add: Callable[[Any], object]) -> list[Any]:
        """The answers of Redis to some commands, which `add` adds to a transaction; none where it does not answer."""

        async def work(pipe: Any) -> list[Any]:
            add(pipe)
            return cast("list[Any]", await pipe.execute())

        return await self._tried(work) or []


class RedisProfiles(_Client):
    """Profiles in Redis, shared by several replicas. While it does not answer, none is known and no play is kept.

    A profile is the bytes of its entries, under the key of its listener (`catalog.key_of`).

    Args:
        url: address of Redis.
        settings: of the store.
        limits: of the profiles; `capacity` is not used: `maxmemory` of Redis limits their number.
    """

    def __init__(self, url: str, settings: RedisSettings, limits: ProfileSettings) -> None:
        super().__init__(url, settings, "profiles are not known and plays are not kept in them")
        self.settings = limits

    async def open(self) -> None:
        """Do nothing: Redis needs no preparation."""

    async def play(self, user: int, track: int, share: float, now_ms: int) -> np.ndarray:
        """Add a play to the profile of a listener; returns all of it."""

        def add(entries: np.ndarray) -> np.ndarray:
            if len(entries) > (most := self.settings.max_tracks):  # of a service with other sizes
                entries = merged(entries, entries[:0], most)
            profile = np.zeros(min(len(entries) + 1, most), ENTRY)
            profile[: len(entries)] = entries
            forget_old(profile, now_ms - self.settings.days_ms)
            add_play(profile, track, share, now_ms)
            return profile[profile["plays"] > 0]

        changed = await self._tried(partial(self._change, user, add))
        return np.zeros(0, ENTRY) if changed is None else changed

    async def _change(self, user: int, change: Callable[[np.ndarray], np.ndarray], pipe: Any) -> np.ndarray:
        """Replace a profile; if another request changed it meanwhile, apply the change to the new one."""
        key = self._key(user)
        while True:
            await pipe.watch(key)
            profile = change(_entries(await pipe.get(key)))
            pipe.multi()
            pipe.set(key, profile.tobytes(), px=self.settings.days_ms)
            try:
                await pipe.execute()
            except redis.WatchError:
                continue
            return profile

    async def look(self, user: int, now_ms: int) -> np.ndarray:
        """The profile of a listener; empty without one."""

        async def work(pipe: Any) -> np.ndarray:
            pipe.get(self._key(user))
            return _entries((await pipe.execute())[0])

        if (profile := await self._tried(work)) is None:
            return np.zeros(0, ENTRY)
        forget_old(profile, now_ms - self.settings.days_ms)
        return profile[profile["plays"] > 0]

    async def forget(self, user: int, now_ms: int) -> bool:
        """Remove a listener, also from profiles that are merged later; returns whether there was a profile.

        Raises:
            InputError: Redis does not answer.
        """
        with _as_input():
            await self._redis.hset(self._key("removed"), str(user), now_ms)
            return bool(await self._redis.unlink(self._key(user)))

    async def merge(self, profiles: Profiles, now_ms: int) -> int:
        """Add what a run knows of listeners; returns 0, because no listener is left out.

        Args:
            profiles: of the run.
            now_ms: the time.

        Raises:
            InputError: Redis does not answer, or has no memory left.
        """
        if not len(profiles.listeners):  # keys that are old have ended
            return 0
        most = self.settings.max_tracks
        with _as_input():
            removed = {*map(int, await self._redis.hkeys(self._key("removed")))}
            async with self._redis.pipeline(transaction=True) as pipe:
                for user, entries in newest_of(profiles, most, removed, now_ms - self.settings.days_ms):
                    if self.settings.remember == "consenting" and not await self._redis.exists(self._key(user)):
                        continue
                    await self._change(user, partial(merged, others=entries, most=most), pipe)
                    if await self._redis.hexists(self._key("removed"), str(user)):  # meanwhile
                        await self._redis.unlink(self._key(user))
        return 0

    def _key(self, of: object) -> str:
        return f"{self._name}:profile:{of}"


def _entries(value: bytes | None) -> np.ndarray:
    """The entries of a profile; none where they are of another form."""
    is_whole = value is not None and len(value) % ENTRY.itemsize == 0
    return np.frombuffer(value or b"", ENTRY).copy() if is_whole else np.zeros(0, ENTRY)


@contextmanager
def _as_input() -> Iterator[None]:
    try:
        yield
    except _UNSHARED as error:
        raise StoreUnreachableError(f"Redis does not answer as it should: {error}") from None


def _played(entries: list[bytes]) -> Played:
    plays = [entry.split() for entry in entries]
    return Played([int(track) for track, _ in plays], [float(share) for _, share in plays])
