"""Connections to Redis: a restart closes them, and the next request must not notice it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import psutil
import pytest
import uvloop

from segue.catalog import Catalog, Id
from segue.errors import InputError
from segue.runs.profiles import DAY_MS, Profiles, entries_of_events
from segue.serving import redis_store
from segue.serving.redis_store import RedisProfiles, RedisSessions, RedisStore
from segue.serving.release_store import StoreUnreachableError
from segue.serving.session_memory import MappedSessions, Noted
from segue.serving.settings import ProfileSettings, RedisSettings, SessionSettings
from tests.e2e.running import PATIENCE_S, Redis, redis_server, until
from tests.serving.conftest import START_MS, arm, make_release

pytestmark = pytest.mark.timing
LOOP = uvloop.new_event_loop
"""Makes the event loop of these tests: the one that the service uses."""

LIMITS = SessionSettings(capacity=4096, max_tracks=16, idle_s=60)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Redis]:
    with redis_server(tmp_path / "redis") as running:
        yield running


def settings(folder: Path, timeout_s: float = PATIENCE_S) -> RedisSettings:
    return RedisSettings(kind="redis", folder=str(folder / "store"), keep=2, name="test", timeout_s=timeout_s)


@asynccontextmanager
async def sessions_at(folder: Path, port: int, *, timeout_s: float = PATIENCE_S) -> AsyncIterator[RedisSessions]:
    local = MappedSessions(folder / "sessions.bin", LIMITS)
    sessions = RedisSessions(f"redis://127.0.0.1:{port}", settings(folder, timeout_s=timeout_s), LIMITS, local)
    try:
        yield sessions
    finally:
        await sessions.close()


@asynccontextmanager
async def profiles_at(folder: Path, port: int, **given: Any) -> AsyncIterator[RedisProfiles]:
    limits = ProfileSettings(max_tracks=3, days=30)
    profiles = RedisProfiles(f"redis://127.0.0.1:{port}", settings(folder, **given), limits)
    try:
        yield profiles
    finally:
        await profiles.close()


async def play_at_once(sessions: RedisSessions, users: range, track: int) -> list[list[int]]:
    played = await asyncio.gather(*(sessions.play(user, track, 0.5, 0) for user in users))
    return [session.tracks for session in played]


def num_unread(port: int) -> int:
    """Connections to a server of this machine with bytes that it has not read yet."""
    fields = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    received = (queues.split(":")[1] for _, local, _, _, queues, *_ in fields if local.endswith(f":{port:04X}"))
    return sum(int(queue, 16) > 0 for queue in received)


class Clock:
    """What `RedisSessions` reads instead of the time: pauses end when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        monkeypatch.setattr(redis_store, "time", self)

    def monotonic(self) -> float:
        return self.now_s


def open_connections(sessions: RedisSessions) -> list[Any]:
    return list(sessions._redis.connection_pool._available_connections)


@pytest.mark.parametrize("when", ["seen by the event loop", "unseen", "in flight", "reset"])
async def test_the_requests_after_a_restart_of_redis_share_their_sessions(
    tmp_path: Path, server: Redis, when: str
) -> None:
    users = range(40)

    async with sessions_at(tmp_path, server.port) as sessions:
        await play_at_once(sessions, users, 1)
        assert len(open_connections(sessions)) == len(users)
        assert server.process is not None
        in_flight = None
        opened = open_connections(sessions)
        if when in ("in flight", "reset"):
            process = psutil.Process(server.process.pid)
            process.suspend()
            await until(lambda: process.status() == psutil.STATUS_STOPPED)
        if when == "in flight":
            in_flight = asyncio.create_task(play_at_once(sessions, users, 2))
        if when == "reset":  # the kernel resets connections with bytes that were not read
            for connection in opened:
                connection._writer.write(b"PING\r\n")
        if when in ("in flight", "reset"):
            await until(lambda: num_unread(server.port) == len(users))
        server.stop()
        if when in ("seen by the event loop", "reset"):
            await until(lambda: all(one._reader.at_eof() or one._reader.exception() for one in opened))
        server.start()
        if in_flight is not None:
            assert await in_flight == [[2]] * len(users)
        else:
            assert (await sessions.play(0, 2, 0.5, 0)).tracks == [2], (
                "Redis is empty; the sessions of this machine are not"
            )
            assert sessions.problem is None
            assert await play_at_once(sessions, users[1:], 2) == [[2]] * (len(users) - 1)
        assert sessions.problem is None
        assert (await sessions.play(0, 3, 0.5, 0)).tracks == [2, 3]


async def test_shares_and_the_last_answer_are_shared_until_the_next_track(tmp_path: Path, server: Redis) -> None:
    first, second = -(2**63) + 1, 2**63 - 1  # as the keys of ids that are texts may be
    answer = Noted(first, 0.25, False, "0123456789ab")

    async with sessions_at(tmp_path, server.port) as sessions:
        await sessions.play(1, first, 0.5, 9)
        played = await sessions.play(1, second, 1.0, 9)
        assert played == ([first, second], [0.5, 1.0])
        assert await sessions.look(1, 9) is None
        await sessions.note(1, answer)
        assert await sessions.look(1, 9) == (played, answer)
        await sessions.play(1, 502, 0.0, 9)
        assert await sessions.look(1, 9) is None
        await sessions.note(1, answer)
        await sessions.end(1)
        assert await sessions.look(1, 9) is None
        server.stop()
        played = await sessions.play(1, 600, 0.25, 9)
        await sessions.note(1, answer)
        assert await sessions.look(1, 9) == (played, answer) == (([600], [0.25]), answer)


async def test_health_reports_a_redis_that_is_down_and_no_problem_once_it_answers(
    tmp_path: Path, server: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)

    async with sessions_at(tmp_path, server.port) as sessions:
        await sessions.play(1, 1, 0.5, 0)
        server.stop()
        assert (await sessions.play(1, 2, 0.5, 0)).tracks == [2]
        assert "Redis does not answer" in str(sessions.problem)
        server.start()
        clock.now_s += 3 * PATIENCE_S - 1
        assert sessions.problem is not None
        clock.now_s += 1  # no request finds out
        assert sessions.problem is None
        asking = asyncio.create_task(sessions.play(1, 3, 0.5, 0))
        await asyncio.sleep(0)  # it has begun to ask; that is no news of Redis
        assert sessions.problem is None
        assert (await asking).tracks == [3]
        assert sessions.problem is None


async def test_connections_that_are_reset_before_their_first_command_leave_sessions_to_this_machine(
    tmp_path: Path, server: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def closed(*_: object, **__: object) -> None:
        raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")

    async with sessions_at(tmp_path, server.port) as sessions:
        monkeypatch.setattr("redis.asyncio.connection.AbstractConnection.send_packed_command", closed)
        assert (await sessions.play(1, 1, 0.5, 0)).tracks == [1]
        assert "the handler is closed" in str(sessions.problem)
        await sessions.end(1)


async def test_a_redis_that_hangs_is_asked_once_and_reported_until_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connections = []
    clock = Clock(monkeypatch)

    async with sessions_at(tmp_path, 1, timeout_s=0.2) as sessions:
        held = await asyncio.start_server(lambda reader, writer: connections.append((reader, writer)), "127.0.0.1", 0)
        sessions._redis.connection_pool.connection_kwargs["port"] = held.sockets[0].getsockname()[1]
        assert (await sessions.play(1, 1, 0.5, 0)).tracks == [1]
        await until(lambda: len(connections) == 1)
        assert "Timeout" in str(sessions.problem)
        assert (await sessions.play(2, 1, 0.5, 0)).tracks == [1]
        clock.now_s += 0.25
        asking = asyncio.create_task(sessions.play(1, 2, 0.5, 0))
        await until(lambda: len(connections) == 2)
        assert "Timeout" in str(sessions.problem), "while the next request waits"
        assert (await asking).tracks == [1, 2]
        assert len(connections) == 2
        for _, writer in connections:
            writer.close()
        held.close()


def test_the_first_look_for_a_release_after_a_restart_of_redis_reaches_it(tmp_path: Path, server: Redis) -> None:
    store = RedisStore(f"redis://127.0.0.1:{server.port}", settings(tmp_path))
    assert store.index().versions == []
    server.stop()
    server.start()
    assert store.index().versions == []
    server.stop()
    with pytest.raises(StoreUnreachableError, match=r"does not answer as it should: .*Connection refused"):
        store.index()  # a refused connection waits for no timeout


def write(*songs: str) -> Callable[[Path], object]:
    """A release in which each text is an id and the title of its song."""

    def write_into(folder: Path) -> object:
        catalog = Catalog.from_columns(songs, songs, [None] * len(songs), source="a test")
        return make_release(folder, catalog=catalog, arms={"C": arm("random")})

    return write_into


def known_to(store: RedisStore) -> tuple[set[Id], set[Id]]:
    """The ids that a replica recommends, and those that it keeps."""
    store.fetch()
    release = store.local.open()
    ids = [release.id_of(row) for row in range(len(release))]
    kept = {ids[row] for row in release.kept.tolist()}
    return set(ids) - kept, kept


def test_replicas_keep_ids_through_loads_and_rollbacks(tmp_path: Path, server: Redis) -> None:
    """A machine loads, another one serves, and each has a folder of its own."""
    loads, serves = (
        RedisStore(f"redis://127.0.0.1:{server.port}", settings(tmp_path / name)) for name in ("loads", "serves")
    )
    first = loads.local.load_next(write("a", "b"))
    loads.publish(first.version, before=None)
    assert known_to(serves) == ({"a", "b"}, set())
    second = loads.local.load_next(write("b", "c"))
    with pytest.raises(InputError, match=r"another command changed redis://.* while this one ran; type this"):
        loads.publish(second.version, before=None)
    assert loads.publish(second.version, before=first.version) == second.version
    assert known_to(serves) == ({"b", "c"}, {"a"})
    back = serves.rollback()
    assert loads.index().versions == [back, second.version]
    assert known_to(serves) == known_to(loads) == ({"a", "b"}, {"c"})
    with pytest.raises(InputError, match="has no version before"):
        serves.rollback()


def plays_of(profile: np.ndarray) -> dict[int, float]:
    return dict(sorted(zip(profile["track"].tolist(), profile["plays"].tolist(), strict=True)))


async def test_two_devices_at_once_lose_no_play_in_redis(tmp_path: Path, server: Redis) -> None:
    async with profiles_at(tmp_path, server.port) as profiles:
        found = await asyncio.gather(*(profiles.play(7, track, 1.0, START_MS) for track in [1, 2] * 20))
        assert max(len(one) for one in found) == 2
        assert plays_of(await profiles.look(7, START_MS)) == {1: 20, 2: 20}
        await profiles.play(7, 1, 1.0, START_MS - 10 * DAY_MS)
        assert plays_of(await profiles.look(7, START_MS)) == {1: 21, 2: 20}, "a clock that goes back takes nothing away"
        await profiles.play(7, 3, 1.0, START_MS + 1)
        await profiles.play(7, -4, 1.0, START_MS + 2)
        profile = await profiles.look(7, START_MS + 2)
        assert len(profile) == 3, "the oldest has made room"
        assert {3, -4} < set(profile["track"].tolist())
        assert set(plays_of(await profiles.look(7, START_MS + 30 * DAY_MS + 2))) == {-4}, "others are too old"
        assert 0 < await profiles._redis.pttl("test:profile:7") <= 30 * DAY_MS


async def test_redis_forgets_a_listener_and_takes_from_a_run_what_is_newer(tmp_path: Path, server: Redis) -> None:
    async with profiles_at(tmp_path, server.port) as profiles:
        await profiles.play(7, 1, 1.0, START_MS)
        users, tracks, times = np.array([7, 7, 8, 9]), np.array([1, 2, 1, 1]), np.array([-1, -1, -1, -1]) + START_MS
        given = Profiles.of(*entries_of_events(users, tracks, np.ones(4, np.float32), times))
        assert not await profiles.forget(9, START_MS)
        for _ in range(2):
            assert await profiles.merge(given, START_MS) == 0
            found = [plays_of(await profiles.look(user, START_MS)) for user in (7, 8, 9)]
            assert found == [{1: 1, 2: 1}, {1: 1}, {}]
        profiles.settings = replace(profiles.settings, remember="consenting")
        of_others = Profiles.of(*entries_of_events(users + 100, tracks, np.ones(4, np.float32), times))
        await profiles.merge(of_others, START_MS)
        assert not len(await profiles.look(107, START_MS))
        assert await profiles.forget(7, START_MS)
        assert not len(await profiles.look(7, START_MS))
        await profiles.forget(8, START_MS + 31 * DAY_MS)
        profiles.settings = replace(profiles.settings, remember="all", days=300)
        await profiles.merge(given, START_MS + 31 * DAY_MS)
        nums = [len(await profiles.look(user, START_MS + 31 * DAY_MS)) for user in (7, 8, 9)]
        assert nums == [0, 0, 0], "a removal does not become too old"


async def test_redis_brings_nobody_back_who_is_removed_while_a_run_is_added(tmp_path: Path, server: Redis) -> None:
    async with profiles_at(tmp_path, server.port) as profiles:
        users = np.arange(7, 10)
        given = Profiles.of(*entries_of_events(users, users, np.ones(3, np.float32), 0 * users + START_MS))
        change = profiles._change

        async def change_after_a_removal(user: int, *more: Any) -> np.ndarray:
            if user == 8:
                await profiles.forget(8, START_MS)
            if user == 9:
                raise OSError("Redis is full")
            return await change(user, *more)

        with (
            patch.object(profiles, "_change", change_after_a_removal),
            pytest.raises(StoreUnreachableError, match="Redis is full"),
        ):
            await profiles.merge(given, START_MS)
        assert [len(await profiles.look(user, START_MS)) for user in (7, 8, 9)] == [1, 0, 0]


async def test_a_smaller_profile_in_redis_keeps_the_newest_tracks(tmp_path: Path, server: Redis) -> None:
    async with profiles_at(tmp_path, server.port) as profiles:
        profiles.settings = replace(profiles.settings, max_tracks=6)
        for track in range(6):
            await profiles.play(7, track, 1.0, START_MS + track)
        profiles.settings = replace(profiles.settings, max_tracks=3)
        assert set(plays_of(await profiles.play(7, 9, 1.0, START_MS + 9))) == {4, 5, 9}


async def test_without_redis_no_profile_is_known_and_health_says_so(tmp_path: Path, server: Redis) -> None:
    async with profiles_at(tmp_path, server.port, timeout_s=5) as profiles:
        await profiles.play(7, 1, 1.0, START_MS)
        server.stop()
        assert not len(await profiles.play(7, 2, 1.0, START_MS))
        assert str(profiles.problem).startswith("profiles are not known and plays are not kept in them: Redis does not")
        with pytest.raises(InputError, match="Redis does not answer as it should"):
            await profiles.forget(7, START_MS)
        local = MappedSessions(tmp_path / "sessions.bin", SessionSettings(capacity=8))
        sessions = RedisSessions(f"redis://127.0.0.1:{server.port}", settings(tmp_path, 5), SessionSettings(), local)
        with pytest.raises(InputError, match="Redis does not answer"):
            await sessions.forget(7)
        await sessions.close()


async def test_bytes_that_are_no_profile_are_none(tmp_path: Path, server: Redis) -> None:
    async with profiles_at(tmp_path, server.port) as profiles:
        await profiles._redis.set("test:profile:7", b"of another version")
        assert not len(await profiles.look(7, START_MS))
        assert plays_of(await profiles.play(7, 2, 1.0, START_MS)) == {2: 1}
