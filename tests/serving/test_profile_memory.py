"""What listeners have heard is remembered within the limits of number and age, and no play is lost or counted twice."""

import asyncio
import multiprocessing
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from textwrap import dedent
from threading import Thread
from typing import Any

import numpy as np
import pytest

from segue.errors import InputError
from segue.runs.profiles import DAY_MS, ENTRY, Profiles, add_play, entries_of_events
from segue.serving import profile_memory
from segue.serving.profile_memory import FILE, REMOVED, MappedProfiles
from segue.serving.settings import ProfileSettings
from tests.conftest import ROOT
from tests.serving.conftest import START_MS
from tests.serving.test_session_memory import crowded

DAYS = 30.0


def make(folder: Path, *, capacity: int = 64, max_tracks: int = 8) -> MappedProfiles:
    return MappedProfiles(folder, ProfileSettings(capacity=capacity, max_tracks=max_tracks, days=DAYS))


def play(profiles: MappedProfiles, user: int, track: int, now_ms: int = START_MS, share: float = 1.0) -> np.ndarray:
    return asyncio.run(profiles.play(user, track, share, now_ms))


def tracks(profiles: MappedProfiles, user: int, now_ms: int = START_MS) -> dict[int, float]:
    """Plays of each track of a profile, rounded."""
    found = asyncio.run(profiles.look(user, now_ms))
    return dict(sorted(zip(found["track"].tolist(), found["plays"].round(2).tolist(), strict=True)))


def run_of(plays: list[tuple[int, int, int]]) -> Profiles:
    """The profiles of a run: listener, track and time of each play."""
    user, track, time_ms = (np.array(column, np.int64) for column in zip(*plays, strict=True))
    return Profiles.of(*entries_of_events(user, track, np.ones(len(plays), np.float32), time_ms, most=10**9))


def merge(profiles: MappedProfiles, plays: list[tuple[int, int, int]], now_ms: int = START_MS) -> int:
    return asyncio.run(profiles.merge(run_of(plays), now_ms))


def test_a_profile_is_that_of_all_plays_also_after_a_restart(tmp_path: Path) -> None:
    profiles, slow = make(tmp_path), np.zeros(8, ENTRY)
    rng = np.random.default_rng(0)
    for number in range(60):
        track, share, now_ms = int(rng.integers(12)) - 3, float(rng.random()), START_MS + number * 1000
        add_play(slow, track, share, now_ms)
        found = play(profiles, 7, track, now_ms, share)
        if number == 30:
            profiles = make(tmp_path)
    for one in (found, asyncio.run(make(tmp_path).look(7, START_MS))):
        one, expected = (np.sort(of, order="track") for of in (one, slow))
        assert all((one[name] == expected[name]).all() for name in ENTRY.names or ())
    assert not len(asyncio.run(profiles.look(8, START_MS)))


def test_a_million_plays_stay_a_bounded_profile(tmp_path: Path) -> None:
    profiles = make(tmp_path)
    track = np.arange(10**6)
    entries = np.zeros(len(track), ENTRY)
    entries["track"], entries["last_ms"], entries["plays"] = track, START_MS - 10**6 + track, 1
    asyncio.run(profiles.merge(Profiles.of(np.full(len(track), 7), entries), START_MS))
    assert list(tracks(profiles, 7)) == [*range(10**6 - 8, 10**6)]
    play(profiles, 7, -5)
    assert list(tracks(profiles, 7)) == [-5, *range(10**6 - 7, 10**6)], "the oldest makes room"


def test_the_file_takes_no_room_for_profiles_that_are_empty(tmp_path: Path) -> None:
    profiles = make(tmp_path, capacity=100_000, max_tracks=500)
    play(profiles, 7, 1)
    found = (tmp_path / FILE).stat()
    assert found.st_size > 2 * 10**9
    assert found.st_blocks * 512 < 4 * 10**6


def test_a_clock_that_goes_back_takes_nothing_away(tmp_path: Path) -> None:
    profiles = make(tmp_path)
    play(profiles, 7, 1, START_MS)
    found = play(profiles, 7, 1, START_MS - 10 * DAY_MS)
    assert (found["plays"][0], found["last_ms"][0]) == (2, START_MS)
    assert tracks(profiles, 7, START_MS - 10 * DAY_MS) == {1: 2}
    play(profiles, 7, 2, START_MS - 400 * DAY_MS)
    merge(profiles, [(8, 1, START_MS)])
    assert tracks(profiles, 7) == {1: 2}, "a visit with a wrong clock does not make the others older"


def test_a_track_that_was_not_played_again_is_forgotten_by_age(tmp_path: Path) -> None:
    profiles = make(tmp_path)
    play(profiles, 7, 1)
    play(profiles, 7, 2, START_MS + 20 * DAY_MS)
    now_ms = START_MS + 31 * DAY_MS
    assert list(tracks(profiles, 7, now_ms)) == [2]
    play(profiles, 7, 3, now_ms)
    assert list(tracks(profiles, 7, START_MS)) == [2, 3], "the place of the forgotten one is used again"


def test_what_is_forgotten_leaves_the_file_with_the_first_play_of_a_day(tmp_path: Path) -> None:
    profiles, key = make(tmp_path), (987654321).to_bytes(8, "little")
    play(profiles, 7, 987654321)
    play(profiles, 7, 2, START_MS + 20 * DAY_MS)
    assert key in (tmp_path / FILE).read_bytes()
    assert len(play(profiles, 7, 2, START_MS + 31 * DAY_MS)) == 3, "two of them are empty"
    assert key not in (tmp_path / FILE).read_bytes()


def test_what_is_forgotten_within_days_is_forgotten_by_every_play(tmp_path: Path) -> None:
    profiles = MappedProfiles(tmp_path, ProfileSettings(capacity=64, days=0.5))
    start_ms = START_MS // DAY_MS * DAY_MS
    play(profiles, 7, 1, start_ms)
    assert {int(entry["track"]) for entry in play(profiles, 7, 2, start_ms + DAY_MS - 1) if entry["plays"]} == {2}


def test_a_file_that_is_shortened_under_a_service_is_no_end_of_the_process(tmp_path: Path) -> None:
    code = f"""
        import asyncio, os
        from pathlib import Path
        from segue.serving.profile_memory import FILE, MappedProfiles
        from segue.serving.settings import ProfileSettings

        folder = Path({str(tmp_path)!r})
        profiles = MappedProfiles(folder, ProfileSettings(capacity=64))
        async def work():
            await profiles.play(7, 1, 1.0, 1)
            os.truncate(folder / FILE, {3 * 4096})
            print(len(await profiles.look(7, 1)), (await profiles.play(7, 2, 1.0, 1))["track"].tolist())
        asyncio.run(work())"""
    ended = subprocess.run([sys.executable, "-c", dedent(code)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "0 [2, 0]\n")


def test_a_new_listener_in_a_full_bucket_replaces_the_one_whose_last_visit_is_oldest(tmp_path: Path) -> None:
    profiles = make(tmp_path)
    *users, late = crowded(9, 64)
    for number, user in enumerate(users):
        play(profiles, user, user, START_MS + number)
    play(profiles, users[0], 1, START_MS + 100)
    assert play(profiles, late, 9, START_MS + 200)["track"].tolist() == [9]
    assert not tracks(profiles, users[1])
    assert all(tracks(profiles, user) for user in [users[0], *users[2:]])


def devices(folder: Path, num: int) -> None:
    async def work() -> None:
        profiles = make(folder)
        for _ in range(num):
            await profiles.play(7, 1, 1.0, START_MS)

    asyncio.run(work())


def test_two_devices_at_once_lose_no_play(tmp_path: Path) -> None:
    context, num = multiprocessing.get_context("fork"), 300
    processes = [context.Process(target=devices, args=(tmp_path, num)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert tracks(make(tmp_path), 7) == {1: 2 * num}


def test_a_removed_listener_in_mid_session_begins_anew(tmp_path: Path) -> None:
    profiles = make(tmp_path)
    play(profiles, 7, 987654321)
    play(profiles, 8, 2)
    assert asyncio.run(profiles.forget(7, START_MS + 1))
    assert (987654321).to_bytes(8, "little") not in (tmp_path / FILE).read_bytes()
    assert not asyncio.run(profiles.forget(7, START_MS + 1))
    play(profiles, 7, 3, START_MS + 2)
    assert (tracks(profiles, 7), tracks(profiles, 8)) == ({3: 1}, {2: 1})


def test_what_a_removed_listener_had_played_does_not_come_back_with_a_run(tmp_path: Path) -> None:
    profiles = make(tmp_path)
    assert not asyncio.run(profiles.forget(7, START_MS)), "also before the first profile"
    run = [(7, 1, START_MS - 1), (7, 1, START_MS + 1), (8, 1, START_MS - 1)]
    merge(profiles, run)
    assert (tracks(profiles, 7), tracks(profiles, 8)) == ({}, {1: 1}), "an entry has plays of before and after"
    now_ms = START_MS + int((DAYS + 1) * DAY_MS)
    merge(profiles, run, now_ms)
    assert (tracks(profiles, 7), tracks(profiles, 8)) == ({}, {}), "too old"
    asyncio.run(profiles.forget(9, now_ms))
    profiles.settings = replace(profiles.settings, days=10 * DAYS)
    merge(profiles, run, now_ms)
    assert (tracks(profiles, 7), tracks(profiles, 8)) == ({}, {1: 1}), "a removal does not become too old"


def test_a_run_brings_nobody_back_who_is_removed_while_it_is_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profiles, add = make(tmp_path), profile_memory._add
    removal = Thread(target=lambda: asyncio.run(make(tmp_path).forget(7, START_MS)))

    def add_after_a_removal(*given: Any) -> bool:
        if removal.ident is None:
            removal.start()
            removal.join(0.2)
        return add(*given)

    monkeypatch.setattr(profile_memory, "_add", add_after_a_removal)
    merge(profiles, [(7, 1, START_MS), (8, 1, START_MS)])
    removal.join()
    assert (tracks(profiles, 7), tracks(profiles, 8)) == ({}, {1: 1})


@pytest.mark.parametrize("text", ["{", "[7]"])
def test_a_damaged_file_of_removals_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / REMOVED).write_text(text)
    with pytest.raises(InputError, match=r"removed.json is damaged .*, and says which listeners no run may bring back"):
        merge(make(tmp_path), [(7, 1, START_MS)])
    with pytest.raises(InputError, match="or delete it and remove these listeners again"):
        asyncio.run(make(tmp_path).forget(7, START_MS))


def test_a_run_tells_a_service_that_needs_consent_nothing_of_others(tmp_path: Path) -> None:
    profiles = MappedProfiles(tmp_path, ProfileSettings(remember="consenting", capacity=64))
    play(profiles, 7, 1)
    assert merge(profiles, [(7, 2, START_MS), (8, 1, START_MS)]) == 0
    assert (tracks(profiles, 7), tracks(profiles, 8)) == ({1: 1, 2: 1}, {})


def test_without_a_run_the_old_are_forgotten_and_no_file_is_created(tmp_path: Path) -> None:
    nobody = Profiles.of(np.zeros(0, np.int64), np.zeros(0, ENTRY))
    profiles, now_ms = make(tmp_path), START_MS + 40 * DAY_MS
    assert asyncio.run(profiles.merge(nobody, now_ms)) == 0
    assert not [*tmp_path.iterdir()]
    play(profiles, 7, 987654321)
    asyncio.run(profiles.merge(nobody, now_ms))
    assert (987654321).to_bytes(8, "little") not in (tmp_path / FILE).read_bytes()


def test_nobody_inherits_entries_that_were_written_without_their_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profiles = make(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(profiles._file, "own", lambda *_: None)  # the process was killed before
        play(profiles, 7, 1)
    play(make(tmp_path), 7, 2)
    assert tracks(make(tmp_path), 7) == {2: 1}


def test_a_run_adds_what_it_knows_better_and_counts_no_play_twice(tmp_path: Path) -> None:
    profiles = make(tmp_path)
    for track, now_ms in ((1, START_MS), (1, START_MS + 1), (2, START_MS), (4, START_MS)):
        play(profiles, 7, track, now_ms)
    of_log = [(7, 1, START_MS), (7, 1, START_MS + 1), (7, 2, START_MS - 5), (7, 2, START_MS + 5), (7, 3, START_MS)]
    for _ in range(2):
        assert merge(profiles, of_log) == 0
        assert tracks(profiles, 7) == {1: 2, 2: 2, 3: 1, 4: 1}


def test_a_run_takes_no_place_of_a_later_visitor(tmp_path: Path) -> None:
    profiles = make(tmp_path)
    *users, late = crowded(9, 64)
    for number, user in enumerate(users):
        play(profiles, user, user, START_MS + number)
    assert merge(profiles, [(late, 1, START_MS - 1)]) == 1
    assert merge(profiles, [(late, 1, START_MS + 5)]) == 0
    assert [user for user in users if not tracks(profiles, user)] == users[:1]


def test_other_sizes_keep_the_profiles(tmp_path: Path) -> None:
    profiles = make(tmp_path)
    for user in range(20):
        for track in range(8):
            play(profiles, user, track, START_MS + track)
    larger = make(tmp_path, capacity=128, max_tracks=5)
    assert tracks(larger, 7) == tracks(profiles, 7), "a command keeps the sizes of the service"
    make(tmp_path, capacity=128, max_tracks=5).resize()
    again = make(tmp_path)
    assert [list(tracks(again, user)) for user in range(20)] == [[3, 4, 5, 6, 7]] * 20
    assert len(play(again, 7, 9, START_MS + 9)) == 5
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    assert make(tmp_path, capacity=8).resize() == 12
    assert make(tmp_path, capacity=8).resize() == 0


def test_another_file_is_refused(tmp_path: Path) -> None:
    play(make(tmp_path), 7, 1)
    for given in (b"segue profiles 0", (tmp_path / FILE).read_bytes()[:-1], (tmp_path / FILE).read_bytes()[:5000]):
        (tmp_path / FILE).write_bytes(given)
        with pytest.raises(InputError, match=r"profiles\.bin has no profiles of this version; move it away"):
            play(make(tmp_path), 7, 1)


def test_a_full_disk_is_a_problem_and_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profiles = make(tmp_path)
    play(profiles, 7, 1)

    def fail(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.pwrite", fail)
        assert not len(play(profiles, 7, 2))
        assert (
            profiles.problem == f"{tmp_path / FILE} cannot be written: No space left on device; no play is kept in it"
        )
    assert len(play(profiles, 7, 3))
    assert profiles.problem is None
