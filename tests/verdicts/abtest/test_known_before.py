"""What users knew before, from event logs, compared with a slow loop; and how it is shown."""

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from segue.errors import InputError
from segue.runs.profiles import DAY_MS, Profiles, entries_of_events
from segue.runs.profiles import FILE as PROFILES
from segue.simulation.policies import Policy, Popular, Random
from segue.simulation.world import World
from segue.statistics.discovery import DISCOVERY
from segue.verdicts.abtest.analysis import analyse
from segue.verdicts.abtest.known_before import compare_known
from segue.verdicts.abtest.log import read_users
from segue.verdicts.abtest.report import sections
from segue.verdicts.abtest.users import Users
from tests.simulation.running import MIDNIGHT
from tests.simulation.test_arm_profiles import an_arm, write_run
from tests.verdicts.abtest.test_log import READING
from tests.verdicts.abtest.users import settings
from tests.verdicts.offpolicy.played import simulate


def read(folder: Path, unfinished: str = "drop") -> Users:
    return read_users(folder, experiment=None, max_rejected=0.0, **READING | {"unfinished": unfinished})


def slow(
    run: Path, *, with_artists: bool = True, before: Mapping[int, Mapping[int, float]] = MappingProxyType({})
) -> dict[tuple[str, str], list[float]]:
    """The shares of each user with an earlier session, by arm and metric; `before`: shares of what they had heard."""
    artist_of = {}
    if with_artists:
        tracks = map(json.loads, (run / "tracks.json").read_text().splitlines())
        artist_of = {one["track"]: one["artist"] for one in tracks}
    known: dict[Any, set[Any]] = defaultdict(set)
    heard: dict[Any, set[Any]] = defaultdict(set)
    counts: dict[Any, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for user, tracks_of in before.items():
        heard[user], known[user] = {*tracks_of}, {track for track, share in tracks_of.items() if share >= 0.8}
    sessions, arm_of = defaultdict(list), {}
    for line in map(json.loads, (run / "logs/day-1/data.json").read_text().splitlines()):
        user = line["user"]
        arm_of[user] = line["experiments"]["TEST"]
        sessions[user].append((line["track"], line["time"]))
        if line["message"] != "last":
            continue
        own = sessions.pop(user)
        artists = {artist_of.get(track) for track in known[user]}
        for track, _ in own[1:] if heard[user] else ():
            found = track in known[user], track in heard[user], artist_of.get(track) in artists
            counts[user] = [a + b for a, b in zip(counts[user], (1, *found), strict=True)]
        known[user] |= {track for track, share in own if share >= 0.8}
        heard[user] |= {track for track, _ in own}
    shares = defaultdict[tuple[str, str], list[float]](list)
    for user, (asked, *rest) in counts.items():
        for name, count in zip(DISCOVERY[: 3 if with_artists else 2], rest, strict=False):
            shares[arm_of[user], name].append(count / asked)
    return shares


@pytest.fixture(scope="module")
def run(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    simulate(world, folder, {"C": Random(world=world), "T1": Popular(num_tracks=20, world=world)}, sessions=300)
    return folder


@pytest.mark.parametrize("has_catalogue", [True, False])
def test_the_means_and_intervals_are_those_of_the_loop(run: Path, tmp_path: Path, has_catalogue: bool) -> None:
    folder = run / "logs"
    if not has_catalogue:
        folder = tmp_path / "far" / "from" / "it"
        folder.mkdir(parents=True)
        (folder / "data.json").write_bytes((run / "logs/day-1/data.json").read_bytes())
        (folder.parent / "tracks.json").write_text("of another program")
        (folder.parents[1] / "tracks.json").write_bytes((run / "tracks.json").read_bytes())
    expected = slow(run, with_artists=has_catalogue)
    users = read(folder)
    found = compare_known(users.known, users.arms, 0.1)
    assert [one.metric for one in found] == [*DISCOVERY[: 3 if has_catalogue else 2]]
    for one in found:
        control, treatment = expected["C", one.metric], expected["T1", one.metric]
        assert (one.control_users, one.treatment_users) == (len(control), len(treatment))
        assert one.control_mean == pytest.approx(np.mean(control))
        assert one.treatment_mean == pytest.approx(np.mean(treatment))
        interval = stats.ttest_ind(treatment, control, equal_var=False).confidence_interval(0.9)
        assert (one.lower_percent, one.upper_percent) == pytest.approx((100 * interval.low, 100 * interval.high))
        assert one.effect_percent == pytest.approx(100 * (np.mean(treatment) - np.mean(control)))


def test_sessions_that_the_effects_leave_out_count_for_neither(run: Path, tmp_path: Path) -> None:
    text = (run / "logs/day-1/data.json").read_text()
    last = next(json.loads(line) for line in reversed(text.splitlines()) if '"last"' in line)
    more = [{**last, "message": "next", "timestamp": last["timestamp"] + 10**8 + n, "track": n} for n in range(3)]
    (tmp_path / "data.json").write_text(text + "".join(json.dumps(line) + "\n" for line in more))
    dropped, kept, before = (one.known for one in (read(tmp_path), read(tmp_path, "keep"), read(run / "logs")))
    names = [*DISCOVERY[:2]]
    assert dropped[names].equals(before[names])
    assert (kept[names] != before[names]).any(axis=None)


@pytest.mark.parametrize("days", [-1, 3])
def test_what_the_listeners_of_a_run_had_heard_before_the_first_day_is_known(
    world: World, tmp_path: Path, days: int
) -> None:
    """In the simulation; by the rule of the loop."""
    lists = write_run(world, tmp_path)
    everybody = world.listeners.user_ids.repeat(40)
    tracks = np.random.default_rng(0).permutation(np.tile(world.catalog.keys, 40))[: len(everybody)]
    shares = np.where(np.arange(len(tracks)) % 2, np.float32(0.85), np.float32(0.5))
    heard = entries_of_events(everybody, tracks, shares, np.full(len(tracks), MIDNIGHT + days * DAY_MS))
    Profiles.of(*heard).write(lists / PROFILES)
    arms: dict[str, Policy] = {"C": Random(world=world), "T1": an_arm(world, tmp_path)}
    simulate(world, tmp_path / "run", arms, sessions=300)
    found, plain = json.loads((tmp_path / "run/simulation.json").read_text())["arms"], slow(tmp_path / "run")
    played = slow(tmp_path / "run", before={user: dict(zip(*of, strict=True)) for user, of in by_user(*heard).items()})
    for arm in arms:
        assert found[arm]["returning_listeners"] == len(played[arm, "share_known"]) > len(plain[arm, "share_known"])
        for name in DISCOVERY:
            assert found[arm][name] == pytest.approx(np.mean(played[arm, name]))
    alone: dict[str, Policy] = {"C": Random(world=world), "T1": Popular(num_tracks=20, world=world)}
    simulate(world, tmp_path / "after", alone, sessions=300, after=tmp_path / "run")
    assert Profiles.read(tmp_path / "after" / PROFILES).listeners.tolist() == sorted(set(everybody.tolist()))


def test_what_an_arm_has_learned_from_the_logs_of_the_run_before_was_not_heard_before_these(
    world: World, tmp_path: Path
) -> None:
    simulate(world, tmp_path / "first", {"C": Random(world=world), "T1": Random(world=world)}, sessions=300)
    lines = [json.loads(line) for line in (tmp_path / "first/logs/day-1/data.json").read_text().splitlines()]
    columns = ([line[name] for line in lines] for name in ("user", "track", "time", "timestamp"))
    user, track, share, time_ms = (np.array(of) for of in columns)
    Profiles.of(*entries_of_events(user, track, share.astype(np.float32), time_ms)).write(
        write_run(world, tmp_path) / PROFILES
    )
    arms: dict[str, Policy] = {"C": Random(world=world), "T1": an_arm(world, tmp_path)}
    simulate(world, tmp_path / "second", arms, sessions=300, after=tmp_path / "first")
    assert not (tmp_path / "second" / PROFILES).exists()


def test_a_simulation_does_not_replace_the_profiles_of_a_run(world: World, tmp_path: Path) -> None:
    (tmp_path / PROFILES).write_text("of a run")
    with pytest.raises(InputError, match=r"already has profiles\.npz; choose another folder"):
        simulate(world, tmp_path, {"C": Random(world=world)}, sessions=10)
    assert (tmp_path / PROFILES).read_text() == "of a run"


def by_user(owner: np.ndarray, entries: np.ndarray) -> dict[int, tuple[list[int], list[float]]]:
    """The tracks of each listener and the largest share of each."""
    return {
        user: (entries["track"][owner == user].tolist(), entries["best"][owner == user].tolist())
        for user in np.unique(owner).tolist()
    }


def test_it_is_what_the_simulation_says(run: Path) -> None:
    users, arms = read(run / "logs"), json.loads((run / "simulation.json").read_text())["arms"]
    for one in compare_known(users.known, users.arms, 0.05):
        assert one.control_mean == pytest.approx(arms["C"][one.metric])
        assert one.treatment_mean == pytest.approx(arms["T1"][one.metric])
        assert one.treatment_users == arms["T1"]["returning_listeners"]


def test_it_is_shown_beside_the_effects_and_is_no_metric_of_the_verdict(run: Path) -> None:
    analysis = analyse(read(run / "logs"), settings())
    assert [one["metric"] for one in analysis.record()["discovery"]] == [*DISCOVERY]
    assert {one.metric for one in analysis.effects}.isdisjoint(DISCOVERY)
    assert any(heading.startswith("Discovery") for heading in sections(analysis))


def test_an_arm_with_one_returning_user_has_no_discovery() -> None:
    known = pd.DataFrame({"arm": [0, 0, 1], "share_known": [0.5, 0.0, 1.0]})
    assert compare_known(known, ["C", "T1"], 0.05) == []
