"""Releases and sessions that several replicas share through Redis. Values are bytes of arrays or JSON.

A release is stored in pieces under keys that contain its version. The key `index` names the current version and is set
last. A replica copies a version into its folder once and answers from there; requests do not wait for Redis.
"""

import json
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from segue.errors import InputError, check_number
from segue.serving.release import HEAD, Release, check_head, read_head
from segue.serving.release_store import FolderStore, Index, StoreUnreachableError, damaged
from segue.serving.session_memory import Noted, Played, SessionMemory, check_limits

_PIECE_BYTES = 8 * 1024 * 1024
_MOST_PIECES = 10_000
_MOST_CONNECTIONS = 64

# A restart of Redis closes the connections of a pool. With protocol 3, its default, redis-py 8 hands them out without a
# check. With protocol 2 it checks them; what that misses fails at once, and one retry replaces the connection. Timeouts
# are not retried: a Redis that hangs would delay a request twice.
_PROTOCOL = 2
_LOST = (redis.ConnectionError,)
_LOST_BY_UVLOOP: Any = (*_LOST, RuntimeError)
"""Exceptions when a connection is lost; uvloop raises RuntimeError for one that was reset while idle."""

UNREACHABLE = (redis.RedisError, OSError)
"""Exceptions of redis-py when Redis does not answer."""
_UNSHARED = (*UNREACHABLE, RuntimeError)
"""The same in an event loop of uvloop: a new connection, too, may be reset before its first command."""


class RedisStore:
    """Releases in Redis, and the folder that this replica copies them to.

    Args:
        url: `redis://host:port/db`, with user and password if Redis requires them.
        name: prefix of every key, so that several services can share one Redis.
        local: the folder of this replica.
        keep: number of versions that are kept.
        timeout_s: seconds to wait for an answer.

    Raises:
        InputError: the URL is invalid.
    """

    def __init__(self, *, url: str, name: str, local: FolderStore, keep: int, timeout_s: int | float) -> None:
        check_number("store.timeout_s", timeout_s, above=0)
        self.where, self.local = _without_password(url), local
        self._prefix, self._keep = f"{name}:", keep
        try:
            self._redis = redis.Redis.from_url(
                url,
                socket_timeout=timeout_s,
                socket_connect_timeout=timeout_s,
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

    def publish(self, version: str) -> str:
        """Copy a version from the local folder to Redis and make it current.

        Raises:
            InputError: Redis does not answer, or has no memory left.
        """
        folder = self.local.path(version)
        head = read_head(folder)
        with self._errors_as_input():
            for name in head["arrays"]:
                for number, piece in enumerate(_pieces(folder / f"{name}.npy")):
                    self._redis.set(self._key(version, name, number), piece)
            self._redis.set(self._key(version, HEAD), json.dumps(head))
            for old in self._change(lambda index: index.after_load(version, self._keep)):
                self._delete(old)
        return version

    def rollback(self) -> str:
        """Make the version before the current one current, and return it.

        Raises:
            InputError: there is no earlier version, it is damaged, or Redis does not answer.
        """
        with self._errors_as_input():
            version = str(self.index().after_rollback(self.where).current)
            with tempfile.TemporaryDirectory() as folder:
                try:
                    self._copy(version, Path(folder))
                    Release(Path(folder))
                except StoreUnreachableError:
                    raise
                except InputError:
                    raise InputError(damaged(version, self.where)) from None
            self._change(lambda index: (index.after_rollback(self.where), []))
            return str(self.index().current)

    def fetch(self) -> str:
        """Copy the current version to the local folder, make it current there, and return it.

        Raises:
            InputError: Redis does not answer, holds no release, or a damaged one; the local folder stays as it is.
        """
        version = self.index().current
        if version is None:
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
        text = self._get(version, HEAD)
        try:
            head = check_head(json.loads(text or b"null"), where)
        except (ValueError, RecursionError):
            raise InputError(f"{where} is damaged; load it again") from None
        if head["version"] != version:
            raise InputError(f"{where} is damaged: its contents are of version {head['version']!r}; load it again")
        for name in head["arrays"]:
            with (folder / f"{name}.npy").open("wb") as file:
                for number in range(_MOST_PIECES):
                    piece = self._get(version, name, number)
                    if piece is None:
                        break
                    file.write(piece)
        (folder / HEAD).write_text(json.dumps(head), encoding="utf-8")

    def _change(self, change: Any) -> list[str]:
        """Replace the index; if another process changed it in the meantime, apply the change to the new one."""
        removed: list[str] = []

        def work(pipe: Any) -> None:
            nonlocal removed
            index, removed = change(Index.parse(pipe.get(self._key("index")), self.where))
            pipe.multi()
            pipe.set(self._key("index"), json.dumps(index.json()))

        self._redis.transaction(work, self._key("index"))
        return removed

    def _delete(self, version: str) -> None:
        pattern = self._key(version, "*")
        for key in self._redis.scan_iter(match=pattern, count=1000):
            self._redis.unlink(key)

    def _get(self, *parts: object) -> bytes | None:
        return cast("bytes | None", self._redis.get(self._key(*parts)))  # bytes, as nothing is decoded

    def _key(self, *parts: object) -> str:
        return self._prefix + ":".join(map(str, parts))

    @contextmanager
    def _errors_as_input(self) -> Iterator[None]:
        try:
            yield
        except UNREACHABLE as error:
            raise StoreUnreachableError(f"Redis at {self.where} does not answer as it should: {error}") from None


class RedisSessions:
    """Sessions in Redis, shared by several replicas; while Redis does not answer, sessions of this machine.

    Args:
        url: address of Redis.
        name: prefix of every key.
        local: is used while Redis does not answer.
        capacity: is checked but not used: `maxmemory` of Redis limits the number of sessions.
        max_tracks: number of tracks of a session that are remembered; older ones are forgotten.
        idle_s: seconds without a request after which a session has ended.
        timeout_s: seconds to wait for an answer, and to pause after a failure before Redis is asked again.
    """

    def __init__(
        self,
        *,
        url: str,
        name: str,
        local: SessionMemory,
        capacity: int,
        max_tracks: int,
        idle_s: int | float,
        timeout_s: int | float,
    ) -> None:
        check_limits(capacity, max_tracks, idle_s)
        # more requests than connections wait for a free one; a plain pool would raise an error instead
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            url,
            max_connections=_MOST_CONNECTIONS,
            timeout=timeout_s,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            protocol=_PROTOCOL,
            retry=AsyncRetry(NoBackoff(), 1, supported_errors=_LOST_BY_UVLOOP),
        )
        self._redis: Any = redis.asyncio.Redis.from_pool(pool)
        self._prefix, self._answers, self._local = f"{name}:session:", f"{name}:answer:", local
        self._max_tracks, self._idle_ms, self._pause_s = max_tracks, int(idle_s * 1000), timeout_s
        self._problem: str | None = None
        self._paused_until_s = self._recent_until_s = 0.0

    @property
    def problem(self) -> str | None:
        """Why sessions are not shared; None if no recent request failed, because only a request finds out."""
        return self._problem if time.monotonic() < self._recent_until_s else None

    async def play(self, user: int, track: int, share: float, now_ms: int) -> Played:
        """Add a track to the session of a user; returns all of the session in order, this track last."""
        key = f"{self._prefix}{user}"
        if self._should_ask():
            try:
                async with self._redis.pipeline(transaction=True) as pipe:
                    pipe.unlink(f"{self._answers}{user}")
                    pipe.rpush(key, f"{track} {share}").ltrim(key, -self._max_tracks, -1).pexpire(key, self._idle_ms)
                    answers = await pipe.lrange(key, 0, -1).execute()
                self._mark_available()
                return _played(answers[-1])
            except _UNSHARED as error:
                self._mark_unavailable(error)
        return await self._local.play(user, track, share, now_ms)

    async def note(self, user: int, answer: Noted) -> None:
        """Keep the answer to the last track of a user's session, for `look`."""
        if self._should_ask():
            try:
                await self._redis.set(f"{self._answers}{user}", json.dumps(answer), px=self._idle_ms)
                self._mark_available()
                return
            except _UNSHARED as error:
                self._mark_unavailable(error)
        await self._local.note(user, answer)

    async def look(self, user: int, now_ms: int) -> tuple[Played, Noted] | None:
        """What a user's session has played, and the answer noted since; None without a session or an answer."""
        if self._should_ask():
            try:
                async with self._redis.pipeline(transaction=True) as pipe:
                    pipe.lrange(f"{self._prefix}{user}", 0, -1)
                    session, answer = await pipe.get(f"{self._answers}{user}").execute()
                self._mark_available()
                played = _played(session)
                return (played, Noted(*json.loads(answer))) if played.tracks and answer else None
            except _UNSHARED as error:
                self._mark_unavailable(error)
        return await self._local.look(user, now_ms)

    async def end(self, user: int) -> None:
        """End the session of a user."""
        await self._local.end(user)
        if self._should_ask():
            try:
                await self._redis.unlink(f"{self._prefix}{user}", f"{self._answers}{user}")
                self._mark_available()
            except _UNSHARED as error:
                self._mark_unavailable(error)

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    def _should_ask(self) -> bool:
        """Whether to ask Redis; while it does not answer, only one request in each pause tries, and no other waits."""
        now_s = time.monotonic()
        if now_s < self._paused_until_s:
            return False
        if self._problem is not None:
            self._pause(now_s, is_recent=self.problem is not None)
        return True

    def _pause(self, now_s: float, *, is_recent: bool) -> None:
        """Ask no more for a while; a recent problem remains one until the next request has an answer."""
        self._paused_until_s = now_s + self._pause_s
        if is_recent:
            self._recent_until_s = self._paused_until_s + self._pause_s

    def _mark_available(self) -> None:
        self._problem, self._paused_until_s = None, 0.0

    def _mark_unavailable(self, error: Exception) -> None:
        self._problem = f"sessions are not shared: Redis does not answer ({error})"
        self._pause(time.monotonic(), is_recent=True)


_PLAY = re.compile(rb"(-?[0-9]{1,19})(?: (nan|[0-9.e-]{1,32}))?")


def _played(entries: list[bytes]) -> Played:
    """The entries of a session; those of older versions have a track and no share."""
    found = [match.groups() for entry in entries if (match := _PLAY.fullmatch(entry))]
    return Played([int(track) for track, _ in found], [float(share or b"nan") for _, share in found])


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            yield piece


def _without_password(url: str) -> str:
    head, at, tail = url.rpartition("@")
    return f"{head.split('://')[0]}://…@{tail}" if at else url
