"""The law of each habit, that none changes anything while it is off, and runs that go on."""

import hashlib
import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from segue.simulation.habits import RECOVERY_DAYS, Habits
from segue.simulation.listener import Crowd, Past, listen, start
from segue.simulation.policies import Policy, Popular, Random
from segue.simulation.world import World
from tests.simulation.running import log_of, run

SURE = 1e-4
"""Smallest p value that a statistical test at a fixed seed accepts; the seed was not selected."""


def crowd_of(world: World, num: int, past: Past | None = None) -> Crowd:
    rng = np.random.default_rng(2)
    return start(world, rng.integers(len(world.listeners), size=num), rng.random(num), rng.random(num), past)


def past_of(plays: list[list[tuple[int, int, int]]], length: int = 6) -> Past:
    """Earlier plays of sessions: track, share, and how many days ago."""
    filled = np.array([(own + [(-1, 0, 0)] * length)[:length] for own in plays]).transpose(2, 1, 0)
    return Past(filled[0].astype(np.int32), filled[1].astype(np.uint8), filled[2].astype(np.int32))


plays = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 100), st.integers(0, 30)), max_size=6)


@settings(max_examples=60)
@given(days=st.lists(plays, min_size=1, max_size=5), fatigue=st.floats(0.1, 5))
def test_a_track_is_worth_less_by_the_plays_of_the_last_days(
    world: World, days: list[list[tuple[int, int, int]]], fatigue: float
) -> None:
    habits, tracks = Habits(fatigue=fatigue), np.arange(len(days)) % 4
    worth = habits.worth(crowd_of(world, len(days), past_of(days)), tracks)
    assert worth is not None
    for track, own, found in zip(tracks.tolist(), days, worth.tolist(), strict=True):
        heard = sum(share / 100 * 0.5 ** (age / RECOVERY_DAYS) for played, share, age in own if played == track)
        assert found == pytest.approx(np.exp(-fatigue * heard))


def test_what_is_worth_half_is_played_half(world: World) -> None:
    crowd, rng = crowd_of(world, 300), np.random.default_rng(0)
    tracks, draws = rng.integers(len(world.catalog), size=300), rng.random(300)
    usual, half = (listen(world, crowd, tracks, draws, worth) for worth in (None, np.full(300, 0.5)))
    assert np.abs(half.shares[-1] - usual.shares[-1] / 2).max() <= 1
    assert usual.shares[-1].max() > 90
    assert Habits().worth(crowd, tracks) is None


@pytest.mark.parametrize(("leaving", "expected"), [(1.0, 1.0), (0.3, 0.3), (0.0, 0.0)])
def test_listeners_leave_after_bad_sessions_alone(world: World, leaving: float, expected: float) -> None:
    crowd, draws = crowd_of(world, 2000), np.random.default_rng(5).random(2000)
    of_one = np.zeros((4, 2000), np.int32)
    bad, good = (
        replace(crowd, tracks=of_one, artists=of_one, shares=np.array(own, np.uint8)[:, None].repeat(2000, axis=1))
        for own in ([100, 79, 10, 30], [100, 79, 10, 80])
    )
    habits = Habits(leaving=leaving)
    assert stats.binomtest(int(habits.leave(bad, draws).sum()), 2000, expected).pvalue > SURE
    assert not habits.leave(good, draws).any()


def arms(world: World) -> dict[str, Policy]:
    return {"C": Random(world=world), "T1": Popular(num_tracks=5, world=world)}


def test_who_left_does_not_come_back_also_not_in_the_next_run(world: World, tmp_path: Path) -> None:
    how: dict[str, Any] = {"habits": Habits(fatigue=1.0, leaving=0.5), "sessions": 200}
    whole = run(world, tmp_path / "whole", arms(world), days=3, **how)
    run(world, tmp_path / "workers", arms(world), days=3, workers=2, **how)
    run(world, tmp_path / "one", arms(world), days=2, **how)
    after = run(world, tmp_path / "two", arms(world), after=tmp_path / "one", **how)
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "two") == log_of(tmp_path / "workers")
    assert whole["left"] == after["left"]
    assert whole["habits"] == {"fatigue": 1.0, "leaving": 0.5}
    assert whole["arms"]["C"]["left"] == after["arms"]["C"]["left"] > 5
    loved, is_loved, place = defaultdict[int, list[bool]](list), dict[int, bool](), defaultdict[int, int](int)
    for line in log_of(tmp_path / "whole"):
        user = line["user"]
        is_loved[user] = is_loved.get(user, False) or (place[user] > 0 and line["time"] >= 0.8)
        place[user] += 1
        if line["message"] == "last":
            loved[user].append(is_loved.pop(user))
            place[user] = 0
    assert all(not loved[user][-1] for user in whole["left"]), "the last session was a bad one"
    rest = run(world, tmp_path / "rest", arms(world), after=tmp_path / "two", sessions=200)
    assert rest["left"] == whole["left"]
    assert not {line["user"] for line in log_of(tmp_path / "rest")[len(log_of(tmp_path / "two")) :]} & {*whole["left"]}


def test_what_is_heard_again_and_again_is_played_less(world: World, tmp_path: Path) -> None:
    usual, tired = (
        run(world, tmp_path / name, arms(world), days=4, sessions=150, habits=habits)["arms"]["T1"]
        for name, habits in (("usual", Habits()), ("tired", Habits(fatigue=3.0)))
    )
    assert tired["mean_time_per_session"] < usual["mean_time_per_session"] - 0.3


def test_without_habits_the_log_and_the_record_do_not_know_of_them(world: World, tmp_path: Path) -> None:
    """The digest is of a log of a run that has none; it changes with the draws of the picks."""
    run(world, tmp_path / "run", arms(world), sessions=150, habits=Habits())
    log = (tmp_path / "run/logs/day-1/data.json").read_bytes()
    assert hashlib.sha256(log).hexdigest()[:16] == "71a20f63de7ae912"
    assert not {"habits", "left"} & json.loads((tmp_path / "run/simulation.json").read_text()).keys()
