"""Traffic: days, shards, workers, clocks and logs."""

import json
from collections import defaultdict
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from src.assignment import treatments
from src.errors import InputError
from src.recommendations import Recommendations
from src.simulation import traffic
from src.simulation.event_lines import Events, encode
from src.simulation.experiment import run_experiment
from src.simulation.listener import Crowd
from src.simulation.policies import Lists, Policy, Popular, Random, StickyArtist, TrueNeighbours
from src.simulation.traffic import Day
from src.simulation.world import World

MIDNIGHT = 1_767_571_200_000


def run(world: World, folder: Path, **changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "policies": {
            "C": Random(world=world),
            "T1": StickyArtist(world=world),
            "T2": Popular(num_tracks=20, world=world),
        },
        "experiment": "TEST",
        "sessions": 400,
        "days": 1,
        "workers": 1,
        "seed": 1,
        "first_day": "2026-01-05",
        "track_seconds": 200.0,
        "write_logs": True,
        "after": None,
        "provenance": {"command": "test"},
        "progress": lambda _: nullcontext(lambda *_: None),
    }
    return run_experiment(world=world, folder=folder, **{**settings, **changes})


def events_of(folder: Path) -> list[dict[str, Any]]:
    paths = sorted(folder.glob("logs/*/data.json"))
    return [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def played(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("played")
    return folder, run(world, folder, days=2)


def test_a_line_has_the_keys_and_types_of_the_service(played: tuple[Path, dict[str, Any]]) -> None:
    events = events_of(played[0])
    assert list(events[0]) == [
        "message", "timestamp", "user", "track", "time", "latency", "recommendation", "experiments",
    ]  # fmt: skip
    for event in events:
        assert event["message"] in ("next", "last")
        assert (event["recommendation"] is None) == (event["message"] == "last")
        assert isinstance(event["time"], float)
        assert 0 <= event["time"] <= 1
        assert list(event["experiments"]) == ["TEST"]


def test_the_clock_never_goes_back_and_sessions_of_a_listener_never_overlap(
    played: tuple[Path, dict[str, Any]],
) -> None:
    events = events_of(played[0])
    times = [event["timestamp"] for event in events]
    assert times == sorted(times)
    assert times[0] >= MIDNIGHT
    by_user = defaultdict(list)
    for event in events:
        by_user[event["user"]].append(event)
    for own in by_user.values():
        for before, after in pairwise(own):
            assert after["timestamp"] > before["timestamp"]
            if before["message"] == "next":  # the track that was recommended is the one that is heard next
                assert after["track"] == before["recommendation"]
            else:  # a new session, heard in full, after a rest
                assert after["time"] == 1.0
                assert after["timestamp"] - before["timestamp"] >= 60_000
        assert own[-1]["message"] == "last"


def test_a_listener_has_one_arm_and_it_is_the_assigned_one(played: tuple[Path, dict[str, Any]]) -> None:
    events = events_of(played[0])
    users = np.array([event["user"] for event in events])
    arms = treatments(users, experiment="TEST", num_arms=3)
    assert [event["experiments"]["TEST"] for event in events] == [("C", "T1", "T2")[arm] for arm in arms.tolist()]


def test_the_record_says_what_the_log_says(played: tuple[Path, dict[str, Any]]) -> None:
    """The A/B sheet in a slow loop: the mean over listeners of their time, or tracks, over their sessions."""
    folder, record = played
    assert json.loads((folder / "simulation.json").read_text())["arms"] == record["arms"]
    sums: dict[str, dict[int, list[float]]] = {arm: defaultdict(lambda: [0.0, 0, 0]) for arm in ("C", "T1", "T2")}
    for event in events_of(folder):
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


def test_days_follow_each_other_and_differ(played: tuple[Path, dict[str, Any]]) -> None:
    folder, record = played
    one, two = (path.read_text().splitlines() for path in sorted(folder.glob("logs/*/data.json")))
    assert json.loads(one[-1])["timestamp"] < json.loads(two[0])["timestamp"]
    assert json.loads(two[0])["timestamp"] >= MIDNIGHT + 24 * 3600 * 1000
    assert [json.loads(line)["track"] for line in one[:50]] != [json.loads(line)["track"] for line in two[:50]]
    assert [day["day"] for day in record["days"]] == [1, 2]


def test_the_same_seed_gives_the_same_logs_whatever_the_number_of_workers(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traffic, "SHARD", 8)  # so that there is work for several
    logs = []
    for workers in (1, 3):
        run(world, tmp_path / str(workers), workers=workers)
        logs.append((tmp_path / str(workers) / "logs" / "day-1" / "data.json").read_bytes())
    assert logs[0] == logs[1]
    run(world, tmp_path / "other", seed=2)
    assert (tmp_path / "other" / "logs" / "day-1" / "data.json").read_bytes() != logs[0]


def test_tasks_side_by_side_are_played_as_one_after_another(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traffic, "SHARD", 8)
    monkeypatch.setattr(traffic, "TASK", 16)
    rows = (np.arange(len(world.catalog))[:, None] + 1 + np.arange(3)) % len(world.catalog)
    scores = np.full(rows.shape, np.nan, np.float32)
    Recommendations(rows=rows, scores=scores).write(tmp_path / "r.jsonl", world.catalog)

    def logs(side_by_side: int) -> bytes:
        monkeypatch.setattr(traffic, "SIDE_BY_SIDE", side_by_side)
        policies = {
            "C": Random(world=world),
            "T1": StickyArtist(world=world),
            "T2": Lists(path=str(tmp_path / "r.jsonl"), pick="ranked", artist_gap=1, world=world),
            "T3": TrueNeighbours(num_tracks=9, world=world),
        }
        folder = tmp_path / str(side_by_side)
        run(world, folder, sessions=1000, policies=policies)
        return (folder / "logs/day-1/data.json").read_bytes()

    one_by_one = logs(1)
    assert logs(3) == one_by_one
    assert logs(1000) == one_by_one


def test_lines_are_what_json_makes_of_their_fields() -> None:
    rng, num = np.random.default_rng(0), 500
    events = Events(
        timestamps=rng.integers(2**41, size=num),
        users=rng.integers(-(2**63), 2**63 - 1, size=num),
        tracks=rng.integers(10**6, size=num),
        shares=(np.arange(num) % 101).astype(np.uint8),
        following=np.where(rng.random(num) < 0.3, -1, rng.integers(10**6, size=num)),
        arms=rng.integers(2, size=num),
    )
    arms = [{'Ü "quoted"': "C"}, {'Ü "quoted"': "T1"}]
    columns = (getattr(events, name).tolist() for name in Events.__dataclass_fields__)
    lines = [
        json.dumps(
            {
                "message": "next" if following >= 0 else "last",
                "timestamp": timestamp,
                "user": user,
                "track": track,
                "time": share / 100,
                "latency": 0.0,
                "recommendation": following if following >= 0 else None,
                "experiments": arms[arm],
            },
            ensure_ascii=False,
        )
        for timestamp, user, track, share, following, arm in zip(*columns, strict=True)
    ]
    assert encode(events, [json.dumps(arm, ensure_ascii=False) for arm in arms]).decode().splitlines() == lines


def test_an_arm_is_played_alike_whatever_the_others_play(world: World, tmp_path: Path) -> None:
    one = run(world, tmp_path / "a")
    other = run(
        world,
        tmp_path / "b",
        policies={"C": Random(world=world), "T1": Random(world=world), "T2": Random(world=world)},
    )
    assert one["arms"]["C"] == other["arms"]["C"]
    assert one["arms"]["T1"] != other["arms"]["T1"]


def test_a_run_that_goes_on_from_another_equals_one_run_of_both_days(
    played: tuple[Path, dict[str, Any]], world: World, tmp_path: Path
) -> None:
    run(world, tmp_path / "one")
    run(world, tmp_path / "two", after=tmp_path / "one")
    assert events_of(tmp_path / "two") == events_of(played[0])
    assert json.loads((tmp_path / "two" / "simulation.json").read_text())["last_day"] == 2


def test_a_day_that_takes_longer_than_a_day_pushes_the_next_one_back(world: World, tmp_path: Path) -> None:
    """60 listeners cannot hear 6,000 sessions in 24 hours one after another."""
    run(world, tmp_path, days=2, sessions=6_000, track_seconds=600.0)
    first, second = sorted(tmp_path.glob("logs/*/data.json"))
    last = json.loads(first.read_text().splitlines()[-1])["timestamp"]
    begin = json.loads(second.read_text().split("\n", 1)[0])["timestamp"]
    assert last > MIDNIGHT + 24 * 3600 * 1000
    assert begin > last


class Failing(Policy):
    """Recommends at random, until it fails."""

    def recommend(self, crowd: Crowd) -> Any:
        if crowd.place.max(initial=0) >= 0 and self.fallbacks >= 12:
            raise InputError("the recommender is gone")
        self.fallbacks += 1
        return self._any_track(len(crowd))


def test_what_was_played_before_a_recommender_failed_is_kept_whole(world: World, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the recommender is gone"):
        run(world, tmp_path, policies={"C": Failing(world=world)}, sessions=2000)
    events = events_of(tmp_path)
    assert events
    open_sessions: set[int] = set()
    for event in events:
        (open_sessions.add if event["message"] == "next" else open_sessions.discard)(event["user"])
    assert not open_sessions
    record = json.loads((tmp_path / "simulation.json").read_text())
    assert record["complete"] is False
    assert record["arms"]["C"]["sessions"] == sum(event["message"] == "last" for event in events)
    assert not list(tmp_path.rglob("*.partial*"))


def test_an_interruption_keeps_whole_sessions(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic, "SHARD", 8)
    seen = []

    def interrupt(*_: Any) -> None:
        seen.append(1)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(world, tmp_path, progress=lambda _: nullcontext(interrupt))
    events = events_of(tmp_path)
    assert sum(event["message"] == "last" for event in events) > 0
    record = json.loads((tmp_path / "simulation.json").read_text())
    assert record["complete"] is False
    assert sum(row["sessions"] for row in record["arms"].values()) == sum(e["message"] == "last" for e in events)


def test_without_logs_the_numbers_are_the_same(world: World, tmp_path: Path) -> None:
    quiet = run(world, tmp_path / "quiet", write_logs=False)
    assert quiet["arms"] == run(world, tmp_path / "loud")["arms"]
    assert not list(tmp_path.glob("quiet/logs/*"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sessions": 0}, "sessions must be a whole number of at least 1 and at most 100000000, got 0"),
        ({"days": 0}, "days must be a whole number"),
        ({"workers": 0}, "workers must be a whole number"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"track_seconds": 0.0}, "track_seconds must be a number above 0"),
        ({"first_day": "soon"}, "first_day must be a date such as 2026-01-05, got 'soon'"),
        ({"experiment": ""}, "experiment must have a name"),
        ({"after": Path("/nowhere")}, "after=/nowhere: cannot go on from"),
    ],
)
def test_a_setting_out_of_bounds_is_refused(world: World, tmp_path: Path, changes: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(world, tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_going_on_in_another_world_is_refused(world: World, tmp_path: Path) -> None:
    run(world, tmp_path / "one")
    path = tmp_path / "one" / "simulation.json"
    path.write_text(path.read_text().replace(world.digest(), "0" * 16))
    with pytest.raises(InputError, match="made in another world"):
        run(world, tmp_path / "two", after=tmp_path / "one")


def test_an_arm_that_nobody_gets_is_refused(world: World) -> None:
    names = ["C", *(f"T{number}" for number in range(1, 10))]
    few = world.listeners
    one = type(world)(
        catalog=world.catalog,
        top_tracks=world.top_tracks,
        embeddings=world.embeddings,
        listeners=type(few)(**{name: getattr(few, name)[:3] for name in few.__dataclass_fields__}),
    )
    with pytest.raises(InputError, match="gets none of the 3 listeners of this world"):
        Day.plan(one, day=1, sessions=10, experiment="TEST", arms=names, seed=1)


def test_listeners_are_drawn_with_replacement_and_alike(world: World) -> None:
    plan = Day.plan(world, day=1, sessions=60_000, experiment="TEST", arms=["C"], seed=1)
    assert plan.num_visits.sum() == 60_000
    assert stats.chisquare(plan.num_visits).pvalue > 1e-4
