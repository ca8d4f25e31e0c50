"""Traffic: days, shards, workers, times of events, and logs."""

import concurrent.futures
import json
import multiprocessing
import signal
from collections import defaultdict
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from segue.assignment import treatments
from segue.errors import InputError
from segue.runs.profiles import DAY_MS
from segue.simulation import traffic
from segue.simulation.event_lines import Events, write_events
from segue.simulation.listener import Crowd
from segue.simulation.policies import Lists, Policy, Random, StickyArtist, TrueNeighbours
from segue.simulation.traffic import Day
from segue.simulation.world import World
from segue.statistics.discovery import DISCOVERY
from tests.odd_ids import ODD_IDS, with_texts
from tests.simulation.running import MIDNIGHT, log_of, run
from tests.simulation.test_arm_profiles import an_arm, write_profiles, write_run
from tests.test_control_2026 import POLICY


@pytest.fixture(scope="module")
def played(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("played")
    return folder, run(world, folder, days=2)


def test_an_event_has_the_keys_and_types_of_the_service(played: tuple[Path, dict[str, Any]]) -> None:
    events = log_of(played[0])
    keys = ["message", "timestamp", "user", "track", "time", "latency", "recommendation", "experiments"]
    added = {"next": ["propensity", "release"], "last": []}
    for event in events:
        assert list(event) == [*keys, *added[event["message"]]]
        assert event["message"] in ("next", "last")
        assert (event["recommendation"] is None) == (event["message"] == "last")
        assert isinstance(event["time"], float)
        assert 0 <= event["time"] <= 1
        assert list(event["experiments"]) == ["TEST"]


def test_events_are_sorted_by_time_and_sessions_of_a_listener_never_overlap(
    played: tuple[Path, dict[str, Any]],
) -> None:
    events = log_of(played[0])
    times = [event["timestamp"] for event in events]
    assert times == sorted(times)
    assert times[0] >= MIDNIGHT
    by_user = defaultdict(list)
    for event in events:
        by_user[event["user"]].append(event)
    for own in by_user.values():
        for previous, following in pairwise(own):
            assert following["timestamp"] > previous["timestamp"]
            if previous["message"] == "next":  # the recommended track is played next
                assert following["track"] == previous["recommendation"]
            else:  # a new session after a rest; its first track is played in full
                assert following["time"] == 1.0
                assert following["timestamp"] - previous["timestamp"] >= 60_000
        assert own[-1]["message"] == "last"


def test_a_listener_has_the_assigned_arm_in_every_event(played: tuple[Path, dict[str, Any]]) -> None:
    events = log_of(played[0])
    users = np.array([event["user"] for event in events])
    arms = treatments(users, experiment="TEST", num_arms=3)
    assert [event["experiments"]["TEST"] for event in events] == [("C", "T1", "T2")[arm] for arm in arms.tolist()]


def test_the_means_of_the_record_are_those_of_the_log(played: tuple[Path, dict[str, Any]]) -> None:
    """A slow loop: the mean over listeners of time per session, and of tracks per session."""
    folder, record = played
    assert json.loads((folder / "simulation.json").read_text())["arms"] == record["arms"]
    sums: dict[str, dict[int, list[float]]] = {arm: defaultdict(lambda: [0.0, 0, 0]) for arm in ("C", "T1", "T2")}
    for event in log_of(folder):
        own = sums[event["experiments"]["TEST"]][event["user"]]
        own[0] += event["time"]
        own[1] += 1
        own[2] += event["message"] == "last"
    for arm, users in sums.items():
        row = record["arms"][arm]
        assert row["sessions"] == sum(sessions for _, _, sessions in users.values())
        assert row["steps"] == sum(tracks - sessions for _, tracks, sessions in users.values())
        assert row["listeners"] == len(users)
        times = np.array([time / sessions for time, _, sessions in users.values()])
        assert row["mean_time_per_session"] == pytest.approx(times.mean(), abs=1e-9)
        low, high = stats.t.interval(0.95, len(times) - 1, times.mean(), stats.sem(times))
        assert row["mean_time_per_session_lower"] == pytest.approx(low)
        assert row["mean_time_per_session_upper"] == pytest.approx(high)
        tracks = np.mean([tracks / sessions for _, tracks, sessions in users.values()])
        assert row["mean_tracks_per_session"] == pytest.approx(tracks)
    assert sum(row["sessions"] for row in record["arms"].values()) == 800


def test_days_are_consecutive_and_have_different_traffic(played: tuple[Path, dict[str, Any]]) -> None:
    folder, record = played
    one, two = (path.read_text().splitlines() for path in sorted(folder.glob("logs/*/data.json")))
    assert json.loads(one[-1])["timestamp"] < json.loads(two[0])["timestamp"]
    assert json.loads(two[0])["timestamp"] >= MIDNIGHT + 24 * 3600 * 1000
    assert [json.loads(line)["track"] for line in one[:50]] != [json.loads(line)["track"] for line in two[:50]]
    assert [day["day"] for day in record["days"]] == [1, 2]


def arms_of_every_kind(world: World, folder: Path) -> dict[str, Policy]:
    """Rules, lists, the memory of listeners and their profiles; the files of a run are in the folder."""
    path = str(folder / "r.jsonl")
    return {
        "C": Random(world=world),
        "T1": StickyArtist(world=world),
        "T2": Lists.of(path=path, pick="ranked", artist_gap=1, context="last", world=world),
        "T3": TrueNeighbours(num_tracks=9, world=world),
        "T4": Lists.of(path=path, policy=POLICY, world=world),
        "T5": an_arm(world, folder, familiar=0.5),
        "T6": an_arm(world, folder, pick="weighted"),
    }


def write_run_and_profiles(world: World, folder: Path) -> Path:
    write_run(world, folder, heard=1.0, share=0.5, last_hour=-2.0, artist_plays=0.1)
    write_profiles(world, folder, 0, (3, 1.0, MIDNIGHT), (7, 0.5, MIDNIGHT - 9 * DAY_MS))
    return folder


def test_the_logs_depend_neither_on_workers_nor_on_how_many_tasks_are_simulated_together(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traffic, "SHARD", 8)
    monkeypatch.setattr(traffic, "TASK", 16)
    folder = write_run_and_profiles(world, tmp_path)

    def logs(name: str, workers: int, num_together: int, **changes: Any) -> list[bytes]:
        monkeypatch.setattr(traffic, "MAX_TASKS_TOGETHER", num_together)
        run(world, tmp_path / name, arms_of_every_kind(world, folder), workers=workers, days=2, **changes)
        return [path.read_bytes() for path in sorted(tmp_path.glob(f"{name}/logs/*/data.json"))]

    alone = logs("alone", 1, 1)
    assert logs("together", 1, 1000) == logs("workers", 3, 3) == alone
    assert logs("other", 1, 1000, seed=2) != alone


@pytest.mark.parametrize("has_texts", [False, True])
def test_a_run_and_its_continuation_equal_one_run_of_both_days(world: World, tmp_path: Path, has_texts: bool) -> None:
    """Also in what listeners remember and know, and in the metrics of discovery."""
    world = replace(world, catalog=with_texts(world.catalog)) if has_texts else world
    folder = write_run_and_profiles(world, tmp_path)
    whole = run(world, tmp_path / "whole", arms_of_every_kind(world, folder), days=2)
    run(world, tmp_path / "one", arms_of_every_kind(world, folder))
    second = run(world, tmp_path / "two", arms_of_every_kind(world, folder), after=tmp_path / "one")
    assert log_of(tmp_path / "two") == log_of(tmp_path / "whole")
    assert second["days"][0]["arms"] == whole["days"][1]["arms"]
    assert second["last_day"] == 2


@pytest.mark.parametrize("has_texts", [False, True])
def test_a_line_of_a_log_equals_that_of_the_json_library(world: World, tmp_path: Path, has_texts: bool) -> None:
    rng, num = np.random.default_rng(0), 500
    if has_texts:
        users = np.array([*ODD_IDS, *map(str, range(len(ODD_IDS), len(world.listeners)))], object)
        listeners = replace(world.listeners, user_ids=users)
        world = replace(world, catalog=with_texts(world.catalog), listeners=listeners)
    users, tracks = world.listeners.user_ids.tolist(), world.catalog.track_ids.tolist()
    events = Events(
        timestamps=rng.integers(2**41, size=num),
        users=rng.integers(len(users), size=num),
        tracks=rng.integers(len(tracks), size=num),
        shares=(np.arange(num) % 101).astype(np.uint8),
        following=np.where(rng.random(num) < 0.3, -1, rng.integers(len(tracks), size=num)),
        arms=rng.integers(2, size=num),
        propensities=np.array([0.01, 1 / 3, 1e-7, np.nan])[rng.integers(4, size=num)],
    )
    arms = [{'Ü "quoted"': "C"}, {'Ü "quoted"': "T1"}]
    columns = (getattr(events, name).tolist() for name in Events.__dataclass_fields__)
    lines = []
    for timestamp, user, track, share, following, arm, propensity in zip(*columns, strict=True):
        is_next = following >= 0
        line = {"message": "next" if is_next else "last", "timestamp": timestamp, "user": users[user]}
        line |= {"track": tracks[track], "time": share / 100, "latency": 0.0}
        line |= {"recommendation": tracks[following] if is_next else None, "experiments": arms[arm]}
        if is_next:
            line |= {"propensity": None if np.isnan(propensity) else propensity, "release": "0a1b2c"}
        lines.append(json.dumps(line, ensure_ascii=False))
    labels = [json.dumps(arm, ensure_ascii=False) for arm in arms]
    write_events(events, world, labels, tmp_path / "data.json", release="0a1b2c")
    assert (tmp_path / "data.json").read_text(encoding="utf-8").splitlines() == lines


def test_a_recommendation_has_its_propensity_and_its_release(played: tuple[Path, dict[str, Any]], world: World) -> None:
    folder, catalog = played[0], world.catalog
    release, num_of = json.loads((folder / "logs/day-1/release.json").read_text()), np.bincount(catalog.artist_of)
    arms = {arm: given["policy"] for arm, given in release["arms"].items()}
    assert arms == {"C": "random", "T1": "sticky_artist", "T2": "popular"}
    for event in map(json.loads, (folder / "logs/day-1/data.json").read_text().splitlines()):
        if event["message"] == "next":
            others = int(num_of[catalog.artist_of[catalog.rows_of([event["track"]])[0]]]) - 1
            expected = {"C": 1 / len(catalog), "T1": 1 / (others or len(catalog)), "T2": 1 / 20}
            assert event["propensity"] == expected[event["experiments"]["TEST"]]
            assert event["release"] == release["version"]


def test_the_sessions_of_an_arm_do_not_depend_on_the_other_arms(world: World, tmp_path: Path) -> None:
    one = run(world, tmp_path / "a")
    other = run(world, tmp_path / "b", {arm: Random(world=world) for arm in ("C", "T1", "T2")})
    assert one["arms"]["C"] == other["arms"]["C"]
    assert one["arms"]["T1"] != other["arms"]["T1"]


def test_the_next_day_starts_later_if_the_sessions_of_a_day_take_more_than_24_hours(
    world: World, tmp_path: Path
) -> None:
    """60 listeners cannot finish 1,000 sessions of long tracks in 24 hours."""
    run(world, tmp_path, days=2, sessions=1_000, track_seconds=3600.0)
    first, second = sorted(tmp_path.glob("logs/*/data.json"))
    last = json.loads(first.read_text().splitlines()[-1])["timestamp"]
    begin = json.loads(second.read_text().split("\n", 1)[0])["timestamp"]
    assert last > MIDNIGHT + 24 * 3600 * 1000
    assert begin > last


class Failing(Random):
    """Recommends random tracks, then fails."""

    def recommend(self, crowd: Crowd) -> Any:
        if crowd.place.max(initial=0) >= 0 and self.fallbacks >= 12:
            raise InputError("the recommender is gone")
        self.fallbacks += 1
        return super().recommend(crowd)


def test_completed_sessions_are_kept_if_a_recommender_fails(world: World, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the recommender is gone"):
        run(world, tmp_path, policies={"C": Failing(world=world)}, sessions=2000)
    events = log_of(tmp_path)
    assert events
    open_sessions: set[int] = set()
    for event in events:
        (open_sessions.add if event["message"] == "next" else open_sessions.discard)(event["user"])
    assert not open_sessions
    record = json.loads((tmp_path / "simulation.json").read_text())
    assert record["complete"] is False
    assert record["arms"]["C"]["sessions"] == sum(event["message"] == "last" for event in events)
    assert not list(tmp_path.rglob("*.partial*"))


def test_completed_sessions_are_kept_after_an_interruption(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traffic, "SHARD", 8)
    calls = []

    def interrupt(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(world, tmp_path, progress=lambda _: nullcontext(interrupt))
    events = log_of(tmp_path)
    assert sum(event["message"] == "last" for event in events) > 0
    record = json.loads((tmp_path / "simulation.json").read_text())
    assert record["complete"] is False
    assert sum(row["sessions"] for row in record["arms"].values()) == sum(e["message"] == "last" for e in events)


@pytest.mark.timing
def test_an_interruption_ends_the_workers(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(futures: Any) -> Any:
        concurrent.futures.wait(futures)
        signal.raise_signal(signal.SIGINT)
        return iter(futures)

    monkeypatch.setattr(traffic, "as_completed", interrupted)
    before = set(multiprocessing.active_children())
    plan = Day.plan(world, day=1, sessions=50, experiment="E", arms=["C"], seed=1)
    how: dict[str, Any] = {"workers": 2, "keep_events": False}
    with pytest.raises(KeyboardInterrupt), traffic.Players(world, [Random(world=world)], **how) as players:
        list(players.play(plan.shards))
    assert set(multiprocessing.active_children()) == before


def test_without_logs_the_means_are_the_same(world: World, tmp_path: Path) -> None:
    without_logs = run(world, tmp_path / "without_logs", write_logs=False)
    arms = run(world, tmp_path / "with_logs")["arms"]
    assert arms["C"].keys() - without_logs["arms"]["C"].keys() >= {*DISCOVERY, "returning_listeners"}
    assert without_logs["arms"] == {
        arm: {name: row[name] for name in without_logs["arms"][arm]} for arm, row in arms.items()
    }
    assert not list(tmp_path.glob("without_logs/logs/*"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sessions": 0}, "sessions must be a whole number of at least 1 and at most 100000000, got 0"),
        ({"first_day": "soon"}, "first_day must be a date such as 2026-01-05, got 'soon'"),
        ({"experiment": ""}, "experiment is empty; choose a name with experiment=<name>"),
        ({"after": Path("/nowhere")}, "after=/nowhere: cannot read /nowhere/simulation.json .*; name the run folder"),
    ],
)
def test_a_setting_out_of_range_is_rejected(world: World, tmp_path: Path, changes: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(world, tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_continuing_in_another_world_is_rejected(world: World, tmp_path: Path) -> None:
    run(world, tmp_path / "one")
    path = tmp_path / "one" / "simulation.json"
    path.write_text(path.read_text().replace(world.digest(), "0" * 16))
    with pytest.raises(InputError, match=r"that run has another world; choose the same one"):
        run(world, tmp_path / "two", after=tmp_path / "one")


def test_an_arm_without_listeners_is_rejected(world: World) -> None:
    names = ["C", *(f"T{number}" for number in range(1, 10))]
    few = world.listeners
    one = replace(world, listeners=replace(few, **{name: getattr(few, name)[:3] for name in few.__dataclass_fields__}))
    with pytest.raises(InputError, match="has none of the 3 listeners of this world"):
        Day.plan(one, day=1, sessions=10, experiment="TEST", arms=names, seed=1)


def test_listeners_are_drawn_uniformly_with_replacement(world: World) -> None:
    plan = Day.plan(world, day=1, sessions=60_000, experiment="TEST", arms=["C"], seed=1)
    assert plan.num_visits.sum() == 60_000
    assert stats.chisquare(plan.num_visits).pvalue > 1e-4
