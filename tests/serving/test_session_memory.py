"""The tracks of each user's session are remembered within the limits of time and number."""

import asyncio
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.serving.session_memory import MappedSessions, Noted, Played
from segue.serving.settings import SessionSettings
from tests.serving.conftest import START_MS

IDLE_S = 10
MINUTE_MS = 60_000


def make(folder: Path, *, capacity: int = 4096, max_tracks: int = 16, idle_s: float = IDLE_S) -> MappedSessions:
    limits = SessionSettings(capacity=capacity, max_tracks=max_tracks, idle_s=idle_s)
    return MappedSessions(folder / "sessions.bin", limits)


def play(sessions: MappedSessions, user: int, track: int, now_ms: int = START_MS) -> list[int]:
    return asyncio.run(sessions.play(user, track, 0.5, now_ms)).tracks


def test_a_clock_that_is_set_back_ends_no_session(tmp_path: Path) -> None:
    sessions = make(tmp_path)
    play(sessions, 1, 500)
    assert play(sessions, 1, 501, START_MS - 5_000) == [500, 501]


def crowded(num: int, capacity: int) -> list[int]:
    """Users of one bucket of eight, written from the multiplicative hash (Knuth, TAOCP 3, 6.4)."""
    num_buckets = -(-capacity // 8)

    def bucket(user: int) -> int:
        return (user * 0x9E3779B97F4A7C15 % 2**64) * num_buckets // 2**64

    users = (user for user in range(10**6) if bucket(user) == bucket(5))
    return [next(users) for _ in range(num)]


def test_a_new_user_in_a_full_bucket_replaces_the_one_idle_longest(tmp_path: Path) -> None:
    sessions = make(tmp_path, capacity=64, idle_s=3600)
    *users, late = crowded(9, 64)
    for number, user in enumerate(users):
        play(sessions, user, user, START_MS + number)
    play(sessions, users[0], 7, START_MS + 100)
    assert play(sessions, late, 8, START_MS + 200) == [8]
    for user in [users[0], *users[2:]]:
        assert play(sessions, user, 9, START_MS + 300)[0] == user, "all others keep their session"
    assert play(sessions, users[1], 9, START_MS + 400) == [9]


def test_an_ended_session_is_replaced_before_an_active_one(tmp_path: Path) -> None:
    sessions = make(tmp_path, capacity=8, idle_s=3600)
    for user in range(8):
        play(sessions, user, user, START_MS + user)
    asyncio.run(sessions.end(6))
    assert play(sessions, 100, 1, START_MS + 10) == [1]
    assert [play(sessions, user, 9, START_MS + 20) for user in (0, 1, 2, 3, 4, 5, 7)] == [
        [user, 9] for user in (0, 1, 2, 3, 4, 5, 7)
    ]


@pytest.mark.parametrize("stride", [1, 8, 1000, 2**40])
def test_users_are_spread_over_buckets(tmp_path: Path, stride: int) -> None:
    """With a quarter as many users as places, and ids in a pattern, almost all users are remembered."""
    sessions = make(tmp_path, capacity=1024, max_tracks=2, idle_s=3600)
    users = [number * stride for number in range(256)]

    async def everybody() -> int:
        for number, user in enumerate(users):
            await sessions.play(user, 1, 0.5, START_MS + number)
        return sum([len((await sessions.play(user, 2, 0.5, START_MS + 2000)).tracks) == 2 for user in users])

    assert asyncio.run(everybody()) >= 250


def test_memory_is_bounded(tmp_path: Path) -> None:
    sessions = make(tmp_path, capacity=64, max_tracks=4, idle_s=3600)
    size = (tmp_path / "sessions.bin").stat().st_size
    assert size <= 4096 + 64 * (128 + 4 * 12), "the bytes of a session do not depend on what is played"
    assert (tmp_path / "sessions.bin").stat().st_blocks * 512 >= size, "no holes: a write would fail"

    async def crowd() -> None:
        for user in range(3000):
            assert (await sessions.play(user * 10**14, user, 0.5, START_MS + user)).tracks == [user]

    asyncio.run(crowd())
    assert (tmp_path / "sessions.bin").stat().st_size == size


async def test_shares_and_the_last_answer_are_kept_until_the_next_track(tmp_path: Path) -> None:
    sessions, answer = make(tmp_path, max_tracks=3), Noted(700, 0.25, True, "0123456789ab")

    async def look(user: int, now_ms: int = START_MS) -> tuple[Played, Noted] | None:
        return await sessions.look(user, now_ms)

    for number in range(5):
        played = await sessions.play(1, 500 + number, number / 8, START_MS)
    assert played == ([502, 503, 504], [0.25, 0.375, 0.5])
    assert await look(1) is None, "nothing is noted"
    await sessions.note(2, answer)
    assert await look(2) is None, "no session"
    await sessions.note(1, answer)
    assert await look(1) == (played, answer)
    assert await make(tmp_path, max_tracks=3).look(1, START_MS) == (played, answer), "another worker has it too"
    assert await look(1, START_MS + IDLE_S * 1000) is None, "the session has ended"
    await sessions.play(1, 600, 1.0, START_MS)
    assert await look(1) is None
    await sessions.note(1, answer)
    await sessions.end(1)
    assert await look(1) is None


def test_a_file_of_another_layout_is_replaced_although_it_has_the_same_size(tmp_path: Path) -> None:
    path = tmp_path / "sessions.bin"
    make(tmp_path)
    path.write_bytes(b"\x01" * path.stat().st_size)
    assert play(make(tmp_path), int.from_bytes(b"\x01" * 8, "little"), 500) == [500]
    path.write_bytes(b"")
    assert play(make(tmp_path), 1, 501) == [501]
    assert play(make(tmp_path), 1, 502) == [501, 502]


def test_a_file_with_other_limits_is_replaced(tmp_path: Path) -> None:
    play(make(tmp_path), 1, 500)
    assert play(make(tmp_path), 1, 501) == [500, 501], "a worker that comes back finds what there was"
    assert play(make(tmp_path, max_tracks=5), 1, 502) == [502]


@st.composite
def calls(draw: st.DrawFn) -> list[tuple[str, int, int, int]]:
    call = st.tuples(
        st.sampled_from(["play", "play", "play", "end"]),
        st.sampled_from([0, 1, 2, 3, 10**18 - 1, 10**17, 255, 256]),
        st.sampled_from([0, 1, 2, 3, 4, 5, 2**63 - 1, -(2**63) + 1]),
        st.sampled_from([0, 1, 500, 9_999, 10_000, 10_001, MINUTE_MS]),
    )
    return draw(st.lists(call, max_size=40))


@settings(max_examples=80)
@given(steps=calls())
def test_users_never_see_each_others_tracks(
    steps: list[tuple[str, int, int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Compared with a dict, in a file with room for all users."""
    sessions = make(tmp_path_factory.mktemp("sessions"), max_tracks=4)
    now_ms, oracle = START_MS, dict[int, tuple[int, list[int]]]()

    for call, user, track, wait_ms in steps:
        now_ms += wait_ms
        if call == "end":
            asyncio.run(sessions.end(user))
            oracle.pop(user, None)
            continue
        touched_ms, before = oracle.get(user, (0, []))
        before = before if now_ms - touched_ms < IDLE_S * 1000 else []
        oracle[user] = (now_ms, [*before, track])
        played = asyncio.run(sessions.play(user, track, track % 8 / 8, now_ms))
        assert played.shares == [track % 8 / 8 for track in played.tracks]
        assert played.tracks == oracle[user][1][-4:]


def forked(target: Callable[..., Any], *args: Any) -> Any:
    process = multiprocessing.get_context("fork").Process(target=target, args=args)
    process.start()
    return process


def play_many(folder: Path, barrier: Any, tracks: list[int]) -> None:
    sessions = make(folder, max_tracks=5000, idle_s=3600)

    async def run() -> None:
        for track in tracks:
            await sessions.play(1, track, 0.5, START_MS)

    barrier.wait()
    asyncio.run(run())


@pytest.mark.timing
def test_processes_share_one_file_and_lose_nothing(tmp_path: Path) -> None:
    sessions = make(tmp_path, max_tracks=5000, idle_s=3600)
    work = [list(range(start, start + 1000)) for start in (0, 1000, 2000)]
    barrier = multiprocessing.get_context("fork").Barrier(len(work))
    processes = [forked(play_many, tmp_path, barrier, tracks) for tracks in work]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    played = play(sessions, 1, 9999)
    assert sorted(played) == [*range(3000), 9999]
    for tracks in work:
        assert [track for track in played if track in range(tracks[0], tracks[-1] + 1)] == tracks, (
            "each process' tracks in their order"
        )


def die_within(folder: Path) -> None:
    """A worker that is killed while it holds a bucket."""
    import fcntl
    import os

    sessions = make(folder)
    fcntl.lockf(sessions._descriptor, fcntl.LOCK_EX, 0)
    os._exit(9)


@pytest.mark.timing
def test_a_worker_that_dies_blocks_no_other_one(tmp_path: Path) -> None:
    sessions = make(tmp_path)
    play(sessions, 1, 500)
    process = forked(die_within, tmp_path)
    process.join()
    assert process.exitcode == 9
    assert play(sessions, 1, 501) == [500, 501]
