"""Releases and sessions that several replicas share through Redis. Values are bytes of arrays or JSON.

A release lies in pieces under keys of its own version; `index` says which version is current, and is set last. A
replica copies a version into its folder once and answers from there, so it needs Redis for what is new, not for each
answer.
"""

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import redis
import redis.asyncio

from src.errors import InputError, check_number
from src.serving.release import HEAD, Release, check_head, read_head
from src.serving.release_store import FolderStore, Index, StoreUnreachableError, damaged
from src.serving.session_memory import SessionMemory, check_limits

_PIECE_BYTES = 8 * 1024 * 1024
_MOST_PIECES = 10_000
_MOST_CONNECTIONS = 64

UNREACHABLE = (redis.RedisError, OSError)
"""What redis-py raises where Redis does not answer."""


class RedisStore:
    """Releases in Redis, and the folder that this replica copies them to.

    Args:
        url: `redis://host:port/db`, with user and password where Redis wants them.
        name: opens every key, so that several services can share one Redis.
        local: where versions are copied to.
        keep: how many versions are kept.
        timeout_s: seconds to wait for an answer.

    Raises:
        InputError: the URL is none.
    """

    def __init__(self, *, url: str, name: str, local: FolderStore, keep: int, timeout_s: int | float) -> None:
        check_number("store.timeout_s", timeout_s, above=0)
        self.where, self.local = _without_password(url), local
        self._prefix, self._keep = f"{name}:", keep
        try:
            self._redis = redis.Redis.from_url(url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s)
        except ValueError as error:
            raise InputError(f"store.url={self.where!r} is no address of a Redis: {error}") from None

    def index(self) -> Index:
        """Its versions.

        Raises:
            InputError: Redis does not answer, or the index is damaged.
        """
        with self._answering():
            return Index.parse(self._get("index"), f"{self.where}, key {self._key('index')}")

    def publish(self, version: str) -> str:
        """Put a version of the local folder into Redis and make it current, all at once.

        Raises:
            InputError: Redis does not answer, or has no room.
        """
        folder = self.local.path(version)
        head = read_head(folder)
        with self._answering():
            for name in head["arrays"]:
                for number, piece in enumerate(_pieces(folder / f"{name}.npy")):
                    self._redis.set(self._key(version, name, number), piece)
            self._redis.set(self._key(version, HEAD), json.dumps(head))
            for old in self._change(lambda index: index.after_load(version, self._keep)):
                self._delete(old)
        return version

    def rollback(self) -> str:
        """Serve the version before the current one; returns which that is.

        Raises:
            InputError: there is none, or it is damaged, or Redis does not answer.
        """
        with self._answering():
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
        """Bring the current version here and make it current here; returns which that is.

        Raises:
            InputError: Redis does not answer, holds no release, or a damaged one; what is served stays as it is.
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
        with self._answering():
            return self.local.load(lambda folder: self._copy(version, folder))

    def _copy(self, version: str, folder: Path) -> None:
        where = f"release {version} in {self.where}"
        text = self._get(version, HEAD)
        try:
            head = check_head(json.loads(text or b"null"), where)
        except (ValueError, RecursionError):
            raise InputError(f"{where} is damaged; load it again") from None
        if head["version"] != version:
            raise InputError(f"{where} is damaged: it calls itself {head['version']!r}; load it again")
        for name in head["arrays"]:
            with (folder / f"{name}.npy").open("wb") as file:
                for number in range(_MOST_PIECES):
                    piece = self._get(version, name, number)
                    if piece is None:
                        break
                    file.write(piece)
        (folder / HEAD).write_text(json.dumps(head), encoding="utf-8")

    def _change(self, change: Any) -> list[str]:
        """Set a new index, unless somebody else did meanwhile, in which case it is made from theirs."""
        gone: list[str] = []

        def work(pipe: Any) -> None:
            nonlocal gone
            index, gone = change(Index.parse(pipe.get(self._key("index")), self.where))
            pipe.multi()
            pipe.set(self._key("index"), json.dumps(index.json()))

        self._redis.transaction(work, self._key("index"))
        return gone

    def _delete(self, version: str) -> None:
        pattern = self._key(version, "*")
        for key in self._redis.scan_iter(match=pattern, count=1000):
            self._redis.unlink(key)

    def _get(self, *parts: object) -> bytes | None:
        return cast("bytes | None", self._redis.get(self._key(*parts)))  # bytes, as nothing is decoded

    def _key(self, *parts: object) -> str:
        return self._prefix + ":".join(map(str, parts))

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except UNREACHABLE as error:
            raise StoreUnreachableError(f"Redis at {self.where} does not answer as it should: {error}") from None


class RedisSessions:
    """Sessions in Redis, for several replicas; while it does not answer, those of this machine.

    Args:
        url: of Redis.
        name: opens every key.
        local: takes over while Redis does not answer.
        capacity: is Redis' own to limit (`maxmemory`); checked all the same.
        max_tracks: tracks of a session that are remembered; older ones are forgotten.
        idle_s: seconds after which a session that went silent is over.
        timeout_s: seconds to wait for an answer, and until a Redis that gave none is asked again.
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
        # requests beyond its connections wait for one; an unbounded or a plain pool would call that a failure
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            url,
            max_connections=_MOST_CONNECTIONS,
            timeout=timeout_s,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
        )
        self._redis: Any = redis.asyncio.Redis.from_pool(pool)
        self._prefix, self._local = f"{name}:session:", local
        self._max_tracks, self._idle_ms, self._pause_s = max_tracks, int(idle_s * 1000), timeout_s
        self._problem: str | None = None
        self._away_until_s = 0.0

    @property
    def problem(self) -> str | None:
        """What is wrong; nothing where no request has met it lately, as only a request finds out that it is over."""
        is_news = time.monotonic() < self._away_until_s + self._pause_s
        return self._problem if is_news else None

    async def play(self, user: int, track: int, now_ms: int) -> list[int]:
        """Note that a user has played a track; returns all tracks of the session in order, this one last."""
        key = f"{self._prefix}{user}"
        if self._may_ask():
            try:
                async with self._redis.pipeline(transaction=True) as pipe:
                    pipe.rpush(key, track).ltrim(key, -self._max_tracks, -1).pexpire(key, self._idle_ms)
                    answers = await pipe.lrange(key, 0, -1).execute()
                self._is_back()
                return [int(track) for track in answers[-1] if track.removeprefix(b"-").isdigit()]  # ours alone
            except UNREACHABLE as error:
                self._is_away(error)
        return await self._local.play(user, track, now_ms)

    async def end(self, user: int) -> None:
        """The session is over."""
        await self._local.end(user)
        if self._may_ask():
            try:
                await self._redis.unlink(f"{self._prefix}{user}")
                self._is_back()
            except UNREACHABLE as error:
                self._is_away(error)

    async def close(self) -> None:
        """Let go of the connections."""
        await self._redis.aclose()

    def _may_ask(self) -> bool:
        """Whether to ask Redis: while it is away one request in each pause does, so that all others need not wait."""
        now_s = time.monotonic()
        if now_s < self._away_until_s:
            return False
        if self._problem is not None:
            self._away_until_s = now_s + self._pause_s
        return True

    def _is_back(self) -> None:
        self._problem, self._away_until_s = None, 0.0

    def _is_away(self, error: Exception) -> None:
        self._problem = f"sessions are not shared: Redis does not answer ({error})"
        self._away_until_s = time.monotonic() + self._pause_s


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            yield piece


def _without_password(url: str) -> str:
    head, at, tail = url.rpartition("@")
    return f"{head.split('://')[0]}://…@{tail}" if at else url
