"""An arm that knows its listeners: what it knows at each request, compared with what the log says."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare

from segue.picking.listener_scores import FEATURES
from segue.runs.profiles import DAY_MS, ENTRY, LOVED, MOST_TRACKS, Profiles, add_play, entries_of_events, hour_of
from segue.runs.profiles import FILE as PROFILES
from segue.runs.recommendations import Recommendations
from segue.runs.session_vectors import FILE, SessionVectors
from segue.simulation import traffic
from segue.simulation.arm_profiles import ArmProfiles
from segue.simulation.listener import start
from segue.simulation.listening import TRACK_MS, Heard, ListeningTest, RunPlayer
from segue.simulation.policies import Lists, hints
from segue.simulation.world import World
from segue.statistics.discovery import DISCOVERY
from tests.conftest import make_vectors
from tests.picking.test_picker import SURE
from tests.simulation.running import MIDNIGHT, run
from tests.simulation.test_policies import crowd_of, lists_file

NOTHING = np.zeros(0, np.int64), np.zeros(0, ENTRY)
HOW: dict[str, Any] = {"pick": "ranked", "artist_gap": 2, "context": None, "num_lists": 2}


def an_arm(world: World, folder: Path, **changes: Any) -> Lists:
    return Lists.of(path=str(folder / "r.jsonl"), world=world, **HOW | changes)


def profiles_of(arm: Lists) -> ArmProfiles:
    assert arm.profiles is not None
    return arm.profiles


def write_run(world: World, folder: Path, **weights: float) -> Path:
    """The files of a run with `context=listener`, without profiles."""
    lists_file(world, folder / "r.jsonl", num_kept=20)
    numbers = np.array([weights.get(name, 0.0) for name in FEATURES], np.float32)
    vectors = make_vectors(len(world.catalog), skipped=1.0, context="listener", listener=numbers)
    vectors.write(folder / FILE, world.catalog)
    return folder


@pytest.fixture
def folder(world: World, tmp_path: Path) -> Path:
    return write_run(world, tmp_path, heard=1.0, share=0.5, last_hour=-2.0, artist_plays=0.1)


def write_profiles(world: World, folder: Path, user: int, *plays: tuple[int, float, int]) -> None:
    """Of one listener: row of each track, the share played of it, and the time."""
    tracks, shares, times = zip(*plays, strict=True)
    keys = world.catalog.keys[list(tracks)]
    who = np.full(len(plays), world.listeners.user_ids[user], np.int64)
    of_events = entries_of_events(who, keys, np.array(shares, np.float32), np.array(times, np.int64))
    Profiles.of(*of_events).write(folder / PROFILES)


def test_an_arm_knows_at_each_request_what_the_log_says_of_earlier_sessions(
    world: World, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time, and the entry of each track: with `add_play` of one line after another. On two days, in several tasks."""
    monkeypatch.setattr(traffic, "SHARD", 20)
    monkeypatch.setattr(traffic, "TASK", 40)
    known = defaultdict[tuple[int, int], list[np.ndarray]](list)
    usual = ArmProfiles.of

    def watched(profiles: ArmProfiles, crowd: Any, some: Any) -> Any:
        past = usual(profiles, crowd, some)
        lines = zip(crowd.users[some].tolist(), past.now_ms.tolist(), past.entries, past.rows, strict=True)
        for user, now, entries, rows in lines:
            known[user, now].append(entries[rows >= 0])
        return past

    monkeypatch.setattr(ArmProfiles, "of", watched)
    run(world, folder / "run", policies={"C": an_arm(world, folder)}, days=2, sessions=150, track_seconds=9000.0)
    user_of = {key: row for row, key in enumerate(world.listeners.user_ids.tolist())}
    profiles = defaultdict[int, np.ndarray](lambda: np.zeros(MOST_TRACKS, ENTRY))
    session, num_waited = defaultdict[int, list[tuple[int, float, int]]](list), 0
    for day in (1, 2):
        for line in map(json.loads, (folder / f"run/logs/day-{day}/data.json").read_text().splitlines()):
            user, track = user_of[line["user"]], int(world.catalog.rows_of([line["track"]])[0])
            session[user].append((track, line["time"], line["timestamp"]))
            if line["message"] == "next":
                (found,) = known.pop((user, line["timestamp"]))
                heard = {row for row, _, _ in session[user]}
                expected = profiles[user][profiles[user]["plays"] > 0]
                expected = expected[~np.isin(expected["track"], list(heard))]
                found, expected = (one[np.argsort(one["track"])] for one in (found, expected))
                assert len(found) == len(expected)
                for name in ENTRY.names or ():
                    np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-3)
                num_waited += len(expected) > 0
            else:
                for play_of in session.pop(user):
                    add_play(profiles[user], *play_of)
    assert not known
    assert num_waited > 200


def test_an_arm_begins_with_the_profiles_of_its_run(world: World, folder: Path) -> None:
    """A track that was loved is recommended, although it is in no list; others of the same artist are not."""
    crowd, rng = crowd_of(world, 1)
    far = int((crowd.current[0] + 200) % len(world.catalog))
    write_run(world, folder, heard=100.0)
    write_profiles(world, folder, int(crowd.users[0]), (far, 1.0, MIDNIGHT - DAY_MS))
    arm = an_arm(world, folder)
    profiles_of(arm).prepare(MIDNIGHT, 1000)
    arm.begin(crowd, rng)
    assert arm.recommend(crowd).tracks.tolist() == [far]
    write_profiles(world, folder, int(crowd.users[0]) + 1, (far, 1.0, MIDNIGHT - DAY_MS))
    other = an_arm(world, folder)
    other.begin(crowd, rng)
    assert other.recommend(crowd).tracks.tolist() != [far]
    assert arm.description["profiles"] != other.description["profiles"]


def test_plays_that_the_run_has_learned_from_are_not_added_again(world: World, folder: Path) -> None:
    write_profiles(world, folder, 0, (3, 1.0, MIDNIGHT))
    profiles = ArmProfiles(Profiles.read(folder / PROFILES), world)
    times, rows = MIDNIGHT + np.array([-1, 0, 1]), np.array([0, 0, 0])
    profiles.learn(rows, np.array([3, 3, 3]), np.full(3, 50, np.uint8), times)
    (entries,) = profiles.remembered([0]).values()
    assert entries["plays"].tolist() == pytest.approx([2])
    assert entries["shares"].tolist() == pytest.approx([1.5])


@pytest.mark.parametrize(
    ("pick", "familiar"), [("weighted", 0.0), ("weighted", 0.3), ("uniform", 0.5), ("weighted", 1.0)]
)
def test_propensities_of_an_arm_are_the_frequencies_of_its_picks(
    world: World, folder: Path, profiles: Profiles, pick: str, familiar: float
) -> None:
    write_run(world, folder, share=20.0)  # the best is known
    profiles.write(folder / PROFILES)
    arm, num = an_arm(world, folder, pick=pick, artist_gap=0, familiar=familiar), 2000
    profiles_of(arm).prepare(MIDNIGHT, 1000)
    crowd = start(world, np.full(num, 1), np.full(num, 0.5), np.full(num, 0.5))
    arm.begin(crowd, np.random.default_rng(5))
    picked = arm.recommend(crowd)
    chances = dict(zip(picked.tracks.tolist(), picked.propensities.tolist(), strict=True))
    assert all(chances[row] == pytest.approx(p) for row, p in zip(*map(np.ndarray.tolist, picked), strict=True))
    assert sum(chances.values()) == pytest.approx(1)
    assert len(chances) > 1
    found = np.array([(picked.tracks == row).sum() for row in chances])
    assert chisquare(found, num * np.array(list(chances.values()))).pvalue > SURE


def test_listeners_and_tracks_of_another_world_are_left_out(world: World) -> None:
    owner, track = np.array([10**9, int(world.listeners.user_ids[3])]).repeat(2), world.catalog.keys[[0, 1]]
    tracks = np.array([track[0], 10**9, 10**9, track[1]])
    given = Profiles.of(*entries_of_events(np.sort(owner), tracks, np.ones(4, np.float32), np.arange(4)))
    owner_of_three = int(np.sort(owner)[0] != 10**9) * 3
    found = ArmProfiles(given, world).remembered(range(len(world.listeners)))
    assert list(found) == [3]
    assert found[3]["track"].tolist() == [0 if owner_of_three == 3 else 1]


@pytest.mark.parametrize(("end", "days"), [(MIDNIGHT - 60_000, 0), (MIDNIGHT - 59_999, 1), (MIDNIGHT + 5 * DAY_MS, 6)])
def test_profiles_that_end_after_the_first_day_began_are_so_many_days_older(
    world: World, folder: Path, end: int, days: int
) -> None:
    """The hour of the day stays the same, and what was an hour before the end still is."""
    write_profiles(world, folder, 3, (5, 1.0, end), (6, 1.0, end - 3_600_000))
    profiles = ArmProfiles(Profiles.read(folder / PROFILES), world)
    profiles.prepare(MIDNIGHT, 1000)
    (entries,) = profiles.remembered([3]).values()
    assert entries["last_ms"].tolist() == [end - days * DAY_MS, end - 3_600_000 - days * DAY_MS]
    np.testing.assert_allclose(entries["hour"][0], hour_of(end), atol=1e-6)


@pytest.fixture(scope="module")
def profiles(world: World) -> Profiles:
    """Of all listeners but every fifth, who have played some tracks to 40 % or in full."""
    rng, num = np.random.default_rng(0), 900
    who = rng.choice(world.listeners.user_ids[np.arange(60) % 5 > 0], num).astype(np.int64)
    tracks, times = world.catalog.keys[rng.integers(400, size=num)], MIDNIGHT + rng.integers(30 * DAY_MS, size=num)
    return Profiles.of(*entries_of_events(who, tracks, rng.choice([0.4, 1.0], num).astype(np.float32), times))


def the_test(world: World, folder: Path, profiles: Profiles) -> Heard:
    """What the test listeners of a listening test hear from a run."""
    test = ListeningTest(world, sessions=400, seed=1, hits=20)
    run = RunPlayer(test, world.catalog, num_lists=2, profiles=profiles)
    lists = Recommendations.read(folder / "r.jsonl", world.catalog).rows
    return run.play("test", lists.astype(np.int64), SessionVectors.read(folder / FILE, world.catalog))


def test_a_listening_test_plays_what_an_arm_with_the_same_profiles_would(
    world: World, folder: Path, profiles: Profiles
) -> None:
    profiles.write(folder / PROFILES)
    heard = the_test(world, folder, profiles)
    arm = an_arm(world, folder, pick="uniform", artist_gap=0)
    profiles_of(arm).prepare(0, TRACK_MS)

    def choose(crowd: Any, draws: Any) -> Any:
        if len(crowd.tracks) == 1:
            arm.begin(crowd, np.random.default_rng(0))
        return arm.choose(crowd, draws)

    expected = ListeningTest(world, sessions=400, seed=1, hits=20).play(choose, "test")
    np.testing.assert_array_equal(heard.time, expected.time)
    assert not np.array_equal(heard.time, the_test(world, folder, Profiles.of(*NOTHING)).time)


def test_a_listening_test_counts_what_listeners_knew_before(world: World, profiles: Profiles) -> None:
    """By loops over the tracks that are recommended: all that a listener has not heard, in the order of the rows."""
    known, heard, artists = (defaultdict[int, set[int]](set) for _ in range(3))
    for user, line in enumerate(profiles.of_listeners(world.listeners.user_ids.astype(np.int64))):
        for entry in line[line["plays"] > 0]:
            row = int(world.catalog.rows_of([int(entry["track"])])[0])
            heard[user].add(row)
            if entry["best"] >= LOVED:
                known[user].add(row)
                artists[user].add(int(world.catalog.artist_of[row]))
    found = defaultdict[int, list[tuple[bool, bool, bool]]](list)

    def recommend(crowd: Any, draws: Any) -> Any:
        tracks = (draws * 400).astype(np.int64)
        for user, row in zip(crowd.users.tolist(), tracks.tolist(), strict=True):
            artist = int(world.catalog.artist_of[row])
            found[user].append((row in known[user], row in heard[user], artist in artists[user]))
        return tracks

    test = ListeningTest(world, sessions=400, seed=1, hits=20)
    result = test.play(recommend, "test", ArmProfiles(profiles, world)).discovery
    of_listeners = [np.mean(of_user, axis=0) for user, of_user in found.items() if heard[user]]
    assert len(of_listeners) < len(found)
    assert result == pytest.approx(dict(zip(DISCOVERY, np.mean(of_listeners, axis=0).tolist(), strict=True)))
    assert 0 < result["share_known"] < result["share_heard"] < result["share_known_artist"]
    assert test.play(recommend, "test", ArmProfiles(Profiles.of(*NOTHING), world)).discovery == {}


def test_the_run_decides_the_context_and_the_arm_can_leave_the_listener_out(world: World, folder: Path) -> None:
    arms = {context: an_arm(world, folder, context=context) for context in (None, "listener", "session")}
    arms["last"] = Lists.of(path=str(folder / "r.jsonl"), world=world, context="last")
    named = [arm.description.get("context", "last") for arm in arms.values()]
    assert named == ["listener", "listener", "session", "last"]
    assert hints({"C": arms["listener"]}) == [
        f"arm C: there is no {PROFILES} beside its lists; all listeners are new at first"
    ]


def test_learned_is_the_default_and_what_a_share_of_one_means(world: World, folder: Path) -> None:
    arms = [an_arm(world, folder), *(an_arm(world, folder, familiar=one) for one in ("learned", 1, 1.0))]
    assert all(arm.description == arms[0].description for arm in arms)
    assert "familiar" not in arms[0].description
    assert an_arm(world, folder, familiar=0).description["familiar"] == 0.0
