"""What simulated listeners remember, over sessions, days, processes and runs; and the control of 2026."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.errors import InputError
from segue.runs.recommendations import Recommendations
from segue.simulation.memory import Memory
from segue.simulation.past_days import past_days
from segue.simulation.policies import Lists, Policy, Random
from segue.simulation.world import World
from tests.simulation.running import log_of, run
from tests.test_control_2026 import POLICY, chances_of


def write_lists(world: World, path: Path) -> list[list[int]]:
    """Three of the other tracks of a block of five; every third track has no list, so that anchors lack a candidate."""
    num = len(world.catalog)
    others = np.random.default_rng(3).permuted(np.tile(np.arange(1, 5), (num, 1)), axis=1)[:, :3]
    rows = np.arange(num)[:, None] // 5 * 5 + (np.arange(num)[:, None] + others) % 5
    rows[::3] = -1
    Recommendations(rows=rows, scores=np.full(rows.shape, np.nan, np.float32)).write(
        path, world.catalog, format="botify"
    )
    return [[row for row in own if row >= 0] for own in rows.tolist()]


@pytest.fixture
def arms(world: World, tmp_path: Path) -> Callable[[], dict[str, Policy]]:
    write_lists(world, tmp_path / "r.jsonl")
    return lambda: {
        "C": Lists.of(path=str(tmp_path / "r.jsonl"), policy=POLICY, world=world),
        "T1": Random(world=world),
    }


def test_every_answer_of_the_control_of_2026_has_the_probability_of_the_slow_loop(
    world: World, tmp_path: Path, arms: Callable[[], dict[str, Policy]]
) -> None:
    """From the log alone: a ring of ten plays for each listener, over sessions and days."""
    lists = write_lists(world, tmp_path / "r.jsonl")
    record = run(world, tmp_path / "run", arms(), sessions=90, days=2)
    rings, over_sessions, fallbacks = defaultdict[int, list[tuple[int, int]]](list), 0, 0
    row_of = {int(track): row for row, track in enumerate(world.catalog.track_ids.tolist())}
    since_start = defaultdict[int, int](int)
    for event in log_of(tmp_path / "run"):
        ring = rings[event["user"]]
        ring.insert(0, (row_of[event["track"]], round(100 * event["time"])))
        del ring[10:]
        since_start[event["user"]] += 1
        if event["message"] == "last":
            since_start[event["user"]] = 0
        elif event["experiments"]["TEST"] == "C":
            expected = chances_of(ring, lists, len(world.catalog))[row_of[event["recommendation"]]]
            assert event["propensity"] == pytest.approx(float(expected), rel=1e-9)
            over_sessions += since_start[event["user"]] < len(ring)
            fallbacks += event["propensity"] == pytest.approx(1 / len(world.catalog))
    assert over_sessions > 30, "plays of earlier sessions count"
    assert record["arms"]["C"]["fallbacks"] == fallbacks


def test_a_log_that_cannot_be_read_is_named(
    world: World, tmp_path: Path, arms: Callable[[], dict[str, Policy]]
) -> None:
    run(world, tmp_path / "one", arms())
    (tmp_path / "one/logs/day-1/data.json").write_text("nothing\n")
    with pytest.raises(InputError, match=r"cannot read .*day-1/data.json.*repeat the run of this day"):
        run(world, tmp_path / "two", arms(), after=tmp_path / "one")


def test_a_past_day_is_what_was_simulated(world: World, tmp_path: Path, arms: Callable[[], dict[str, Policy]]) -> None:
    run(world, tmp_path / "run", arms(), days=2)
    by_user = defaultdict[int, list[tuple[int, int, int]]](list)
    for day, plays, _ in past_days(tmp_path.glob("run/logs/*"), world):
        assert plays.hundredths.sum() == plays.shares.sum()
        for user, track, share in zip(plays.users.repeat(plays.lengths), plays.tracks, plays.shares, strict=True):
            by_user[int(world.listeners.user_ids[user])].append((day, int(world.catalog.track_ids[track]), int(share)))
    expected = defaultdict[int, list[tuple[int, int]]](list)
    for event in log_of(tmp_path / "run"):
        expected[event["user"]].append((event["track"], round(100 * event["time"])))
    assert {user: [one[1:] for one in own] for user, own in by_user.items()} == expected
    assert [one[0] for own in by_user.values() for one in own] == [
        day for own in by_user.values() for day in sorted(one[0] for one in own)
    ]


additions = st.lists(st.lists(st.lists(st.integers(0, 99), max_size=6), min_size=3, max_size=3), max_size=5)


@settings(max_examples=60)
@given(days=additions, length=st.integers(1, 5))
def test_the_last_plays_are_kept_newest_first(days: list[list[list[int]]], length: int) -> None:
    memory, expected = Memory.empty(4, length), [list[tuple[int, int]]() for _ in range(3)]
    listeners = np.array([3, 0, 2])
    for day, of_day in enumerate(days):
        flat = [track for own in of_day for track in own]
        tracks, shares = np.array(flat, np.int32), np.array(flat, np.uint8)
        memory.add(listeners, np.array([len(own) for own in of_day], np.int64), tracks, shares, day)
        expected = [
            ([(track, day) for track in own[::-1]] + old)[:length] for own, old in zip(of_day, expected, strict=True)
        ]
    past = memory.past(listeners, 7)
    for number, own in enumerate(expected):
        filled = own + [(-1, 0)] * (length - len(own))
        assert past.tracks[:, number].tolist() == [track for track, _ in filled]
        assert past.ages[: len(own), number].tolist() == [7 - day for _, day in own]
        assert past.shares[: len(own), number].tolist() == [track for track, _ in own]
    assert (memory.plays["track"][1] == -1).all(), "who played nothing remembers nothing"
