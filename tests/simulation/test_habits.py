"""The law of each habit, that none changes anything while it is off, and runs that go on."""

import hashlib
import json
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from segue.errors import InputError
from segue.simulation.habits import HIT_DAYS, Habits, hit_of
from segue.simulation.listener import Crowd, Past, listen, start
from segue.simulation.policies import Policy, Popular, Random
from segue.simulation.world import World
from tests.simulation.test_memory import log_of, run

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
@given(days=st.lists(plays, min_size=1, max_size=5), fatigue=st.floats(0.1, 5), recovery=st.floats(0.5, 30))
def test_a_track_is_worth_less_by_the_plays_of_the_last_days(
    world: World, days: list[list[tuple[int, int, int]]], fatigue: float, recovery: float
) -> None:
    habits, tracks = Habits(fatigue=fatigue, recovery_days=recovery), np.arange(len(days)) % 4
    worth = habits.worth(crowd_of(world, len(days), past_of(days)), tracks)
    assert worth is not None
    for track, own, found in zip(tracks.tolist(), days, worth.tolist(), strict=True):
        heard = sum(share / 100 * 0.5 ** (age / recovery) for played, share, age in own if played == track)
        assert found == pytest.approx(np.exp(-fatigue * heard))


def test_what_is_worth_half_is_played_half(world: World) -> None:
    crowd, rng = crowd_of(world, 300), np.random.default_rng(0)
    tracks, draws = rng.integers(len(world.catalog), size=300), rng.random(300)
    usual, half = (listen(world, crowd, tracks, draws, worth) for worth in (None, np.full(300, 0.5)))
    assert np.abs(half.shares[-1] - usual.shares[-1] / 2).max() <= 1
    assert usual.shares[-1].max() > 90
    assert Habits().worth(crowd, tracks) is None


def test_favourites_return_in_their_share_of_the_sessions_and_as_often_as_they_were_loved(world: World) -> None:
    num = 4000
    loved = [(5, 100, 1), (5, 80, 3), (9, 90, 2), (7, 79, 1)]
    crowd = crowd_of(world, num, past_of([loved] * num))
    found = Habits(favourites=0.4).begin(world, crowd, 1, np.random.default_rng(1).random((2, num)))
    changed = found.tracks[0] != crowd.tracks[0]
    assert stats.binomtest(int(changed.sum()), num, 0.4).pvalue > SURE
    counts = Counter(found.tracks[0, changed].tolist())
    assert {*counts} == {5, 9}
    assert stats.binomtest(counts[5], counts.total(), 2 / 3).pvalue > SURE
    for session in np.flatnonzero(changed)[:50]:
        interests = world.embeddings[world.listeners.interests[crowd.users[session]]]
        about = interests[(interests @ world.embeddings[found.tracks[0, session]]).argmax()]
        assert (found.taste[session] == about).all(), "the session is about the interest that is nearest to it"
    assert (found.artists[0] == world.catalog.artist_of[found.tracks[0]]).all()
    assert (found.taste[~changed] == crowd.taste[~changed]).all()


def test_who_has_loved_nothing_has_no_favourite(world: World) -> None:
    crowd = crowd_of(world, 200, past_of([[(3, 70, 1)]] * 200))
    found = Habits(favourites=1.0).begin(world, crowd, 1, np.random.default_rng(1).random((2, 200)))
    assert (found.tracks == crowd.tracks).all()


def test_some_days_have_a_hit_and_it_begins_its_share_of_the_sessions(world: World) -> None:
    hits = [hit_of(world, day) for day in range(1, 401)]
    days = [day for day, hit in enumerate(hits, 1) if hit >= 0]
    assert stats.binomtest(len(days), 400, HIT_DAYS).pvalue > SURE
    assert len({hit for hit in hits if hit >= 0}) > 50, "another one each time"
    crowd, draws = crowd_of(world, 3000), np.random.default_rng(4).random((2, 3000))
    habits = Habits(hits=0.3)
    found = habits.begin(world, crowd, days[0], draws)
    with_hit = found.tracks[0] == hits[days[0] - 1]
    assert stats.binomtest(int(with_hit.sum()), 3000, 0.3).pvalue > SURE
    assert (found.taste == crowd.taste).all()
    quiet = next(day for day, hit in enumerate(hits, 1) if hit < 0)
    assert (habits.begin(world, crowd, quiet, draws).tracks == crowd.tracks).all()


def test_interests_drift_slowly_to_near_tracks_and_alike_for_everybody_who_asks(world: World) -> None:
    habits, moved = Habits(drift=0.3), list[float]()
    for day in range(2, 8):
        before, after = (habits.world_on(world, one).listeners.interests for one in (day - 1, day))
        number_of, neighbours = habits.world_on(world, day - 1).interest_neighbours
        assert (after[..., None] == neighbours[number_of[before]]).any(2)[after != before].all()
        itself = (neighbours[number_of[before]] == before[..., None]).any(2)
        moved.append((after != before).sum() / (before.size - itself.sum() / 10))
    assert np.mean(moved) == pytest.approx(0.3, abs=0.05)
    assert (habits.world_on(world, 7).listeners.interests == habits.world_on(world, 7).listeners.interests).all()
    assert habits.world_on(world, 1) is world
    assert Habits().world_on(world, 9) is world


def test_interests_drift_for_years(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segue.simulation.habits._next_day", lambda before, _: replace(before))
    habits = Habits(drift=0.03125)  # of no other test
    far = habits.world_on(world, 3000)
    assert habits.world_on(world, 3000) is far, "no day is computed again"
    assert habits.world_on(world, 2) is not far


def with_play(crowd: Crowd, share: int) -> Crowd:
    """One more track in each session."""
    added = {"tracks": 0, "artists": 0, "shares": share}
    columns = {name: (getattr(crowd, name), value) for name, value in added.items()}
    return replace(
        crowd,
        **{
            name: np.concatenate([one, np.full((1, len(crowd)), value, one.dtype)])
            for name, (one, value) in columns.items()
        },
    )


@pytest.mark.parametrize(("leaving", "expected"), [(1.0, 1.0), (0.3, 0.3), (0.0, 0.0)])
def test_listeners_leave_after_bad_sessions_alone(world: World, leaving: float, expected: float) -> None:
    crowd = crowd_of(world, 2000)
    for share in (79, 10, 30):
        crowd = with_play(crowd, share)
    good = with_play(crowd, 80)
    draws = np.random.default_rng(5).random(2000)
    habits = Habits(leaving=leaving)
    assert stats.binomtest(int(habits.leave(crowd, draws).sum()), 2000, expected).pvalue > SURE
    assert not habits.leave(good, draws).any()


def arms(world: World) -> dict[str, Policy]:
    return {"C": Random(world=world), "T1": Popular(num_tracks=5, world=world)}


def test_who_left_does_not_come_back_also_not_in_the_next_run(world: World, tmp_path: Path) -> None:
    habits: dict[str, Any] = {"habits": Habits(leaving=0.5), "sessions": 200}
    whole = run(world, tmp_path / "whole", arms(world), days=3, **habits)
    run(world, tmp_path / "one", arms(world), days=2, **habits)
    after = run(world, tmp_path / "two", arms(world), after=tmp_path / "one", **habits)
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "two")
    assert (tmp_path / "whole/left.json").read_text() == (tmp_path / "two/left.json").read_text()
    assert whole["arms"]["C"]["left"] == after["arms"]["C"]["left"] > 5
    loved, left = defaultdict[int, list[bool]](list), {*json.loads((tmp_path / "whole/left.json").read_text())["left"]}
    is_loved, place = dict[int, bool](), defaultdict[int, int](int)
    for line in log_of(tmp_path / "whole"):
        user = line["user"]
        is_loved[user] = is_loved.get(user, False) or (place[user] > 0 and line["time"] >= 0.8)
        place[user] += 1
        if line["message"] == "last":
            loved[user].append(is_loved.pop(user))
            place[user] = 0
    assert all(not sessions[-1] for user, sessions in loved.items() if user in left), "the last session was a bad one"
    (tmp_path / "two/left.json").write_text("{")
    with pytest.raises(InputError, match=r"cannot read .*left.json.*repeat that run"):
        run(world, tmp_path / "three", arms(world), after=tmp_path / "two", **habits)


ALL = Habits(fatigue=1.0, favourites=0.3, drift=0.2, leaving=0.1, hits=0.3)


def test_a_run_with_all_habits_does_not_depend_on_workers_and_goes_on_where_it_ended(
    world: World, tmp_path: Path
) -> None:
    whole = run(world, tmp_path / "whole", arms(world), days=3, habits=ALL)
    run(world, tmp_path / "two", arms(world), days=3, workers=2, habits=ALL)
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "two")
    run(world, tmp_path / "begin", arms(world), days=2, habits=ALL)
    run(world, tmp_path / "end", arms(world), after=tmp_path / "begin", habits=ALL)
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "end")
    assert whole["habits"]["fatigue"] == 1.0


def test_what_is_heard_again_and_again_is_played_less(world: World, tmp_path: Path) -> None:
    usual, tired = (
        run(world, tmp_path / name, arms(world), days=4, habits=habits)["arms"]["T1"]["mean_time_per_session"]
        for name, habits in (("usual", Habits()), ("tired", Habits(fatigue=3.0)))
    )
    assert tired < usual - 0.3


def test_without_habits_the_log_and_the_record_are_as_before(world: World, tmp_path: Path) -> None:
    """The digest of a log that the code without habits wrote."""
    record = run(world, tmp_path / "run", arms(world), habits=Habits())
    assert "habits" not in record
    log = (tmp_path / "run/logs/day-1/data.json").read_bytes()
    assert hashlib.sha256(log).hexdigest()[:16] == "bc1bb0fc209a268e"
    assert not (tmp_path / "run/left.json").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fatigue": -1.0}, "habits.fatigue must be a number of at least 0 and at most 10, got -1.0"),
        ({"recovery_days": 0.0}, "habits.recovery_days must be a number above 0"),
        ({"favourites": 1.5}, "habits.favourites must be a number of at least 0 and at most 1"),
        ({"drift": 2.0}, "habits.drift must be"),
        ({"leaving": -0.1}, "habits.leaving must be"),
        ({"hits": 1.1}, "habits.hits must be"),
    ],
)
def test_a_habit_out_of_range_is_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Habits(**changes)
