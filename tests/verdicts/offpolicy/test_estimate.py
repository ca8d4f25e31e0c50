"""Estimates from logs: a slow loop, the truth of the simulator, what is refused, and the report."""

import json
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segue.errors import InputError
from segue.simulation.listener import listen, start
from segue.simulation.policies import Lists, Oracle, Policy, Popular, Random, StickyArtist
from segue.simulation.world import World
from segue.statistics.intervals import LEVEL
from segue.verdicts.offpolicy.estimate import estimate_table, remarks
from segue.verdicts.offpolicy.estimators import effective_sample_size, snips
from tests.verdicts.offpolicy.played import estimated, neighbours, simulate

MIXED = ("C", "T1", "T2", "T3")
LOG = "logs/day-1/data.json"


@pytest.fixture(scope="module")
def mixed(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The traffic of the default logs for training: half random, a quarter each of the two others."""
    run = tmp_path_factory.mktemp("mixed") / "run"
    arms = Random(world=world), Random(world=world), StickyArtist(world=world), Popular(num_tracks=100, world=world)
    simulate(world, run, dict(zip(MIXED, arms, strict=True)), seed=2)
    neighbours(world, run / "candidate.jsonl")
    return run


def sessions_of(run: Path) -> list[list[dict[str, Any]]]:
    open_sessions, done = defaultdict(list), []
    for line in (run / LOG).read_text().splitlines():
        event = json.loads(line)
        open_sessions[event["user"]].append(event)
        if event["message"] == "last":
            done.append(open_sessions.pop(event["user"]))
    return done


def test_the_estimate_is_that_of_a_slow_loop(world: World, mixed: Path, tmp_path: Path) -> None:
    """Lists of the next 150 tracks of the catalogue; the arms with random tracks alone have all of them."""
    found = estimated(mixed, str(neighbours(world, tmp_path / "wide.jsonl", num=150)))
    sessions = [one for one in sessions_of(mixed) if one[0]["experiments"]["TEST"] in ("C", "T1")]
    weights = np.zeros(len(sessions))
    for place, (first, second, *_) in enumerate(sessions):
        step = world.catalog.rows_of([second["track"]])[0] - world.catalog.rows_of([first["track"]])[0]
        weights[place] = (step % len(world.catalog) in range(1, 151)) / 150 / first["propensity"]
    of_first = np.array([one[0]["experiments"]["TEST"] == "C" for one in sessions])
    for own in (of_first, ~of_first):
        weights[own] *= effective_sample_size(weights[own]) / weights[own].sum()
    rewards, users = np.array([one[1]["time"] for one in sessions]), np.array([one[0]["user"] for one in sessions])
    expected = snips(weights, rewards, users, LEVEL)
    for name in ("value", "lower", "upper", "effective_sample_size"):
        assert getattr(found.first_step_snips, name) == pytest.approx(getattr(expected, name), rel=1e-9)
    assert (found.num_sessions, list(found.arms_left_out)) == (len(sessions), ["T2", "T3"])


@pytest.mark.parametrize("name", ["random", "popular", "sticky_artist", "uniform", "weighted"])
def test_the_truth_is_in_the_interval(world: World, mixed: Path, name: str) -> None:
    """At this fixed seed."""
    words: dict[str, Policy] = {
        "random": Random(world=world),
        "popular": Popular(num_tracks=100, world=world),
        "sticky_artist": StickyArtist(world=world),
    }
    policy, given = words.get(name), dict[str, Any](recommender=name)
    if policy is None:
        given = {"recommender": str(mixed / "candidate.jsonl"), "pick": name, "artist_gap": 1}
        policy = Lists.of(path=given["recommender"], pick=name, artist_gap=1, world=world)
    found = estimated(mixed, given)
    rng = np.random.default_rng(0)
    crowd = start(world, rng.integers(len(world.listeners), size=20_000), rng.random(20_000), rng.random(20_000))
    policy.begin(crowd, rng)
    truth = listen(world, crowd, policy.recommend(crowd).tracks, rng.random(20_000)).shares[-1].mean() / 100
    for one in (found.first_step_snips, found.first_step_dr):
        assert one.lower < truth < one.upper
        assert one.upper - one.lower < 0.5


def edited(run: Path, to: Path, change: Callable[[int, dict[str, Any]], dict[str, Any]]) -> Path:
    """A copy of a log whose lines are changed, given their number."""
    (to / LOG).parent.mkdir(parents=True)
    for name in ("tracks.json", "top_tracks.json"):
        (to / name).write_bytes((run / name).read_bytes())
    lines = [change(number, json.loads(line)) for number, line in enumerate((run / LOG).read_text().splitlines())]
    (to / LOG).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return to


@pytest.mark.parametrize("factor", [0.5, 2])
def test_wrong_propensities_of_an_arm_are_noticed(mixed: Path, tmp_path: Path, factor: float) -> None:
    def change(_: int, line: dict[str, Any]) -> dict[str, Any]:
        is_one = line["experiments"]["TEST"] == "T1" and "propensity" in line
        return line | {"propensity": line["propensity"] * factor} if is_one else line

    found = estimated(edited(mixed, tmp_path / "run", change), "random")
    assert found.arms_left_out["T1"] == pytest.approx(1 / factor)
    assert any(line.startswith("Arms that are left out") and f"{1 / factor:g} in T1" in line for line in remarks(found))


def test_an_arm_without_random_choice_supports_itself_alone(world: World, tmp_path: Path) -> None:
    """The oracle has one pick for each session."""
    simulate(world, tmp_path / "run", {"C": Random(world=world), "T1": Oracle(world=world)}, sessions=300)
    found = estimated(tmp_path / "run", "random")
    assert list(found.arms_left_out) == ["T1"]
    simulate(world, tmp_path / "alone", {"C": Oracle(world=world)}, sessions=300)
    with pytest.raises(InputError, match=r"no arm of the log could have made all picks .* in C; an arm with"):
        estimated(tmp_path / "alone", "random")


def test_too_few_sessions_of_the_candidate_are_refused(mixed: Path, tmp_path: Path) -> None:
    given = {"recommender": str(mixed / "candidate.jsonl"), "pick": "ranked"}
    with pytest.raises(InputError, match=r"sessions of the log are worth \d.\d of the candidate .*, less than 10; use"):
        estimated(mixed, given)
    nothing = edited(mixed, tmp_path / "run", lambda _, line: line | {"time": 2})
    with pytest.raises(InputError, match=r"none of 1500 sessions of the log can be used: 1,500 sessions with a share"):
        estimated(nothing, given)


def test_the_report_has_the_candidate_and_the_arms_of_the_log(mixed: Path) -> None:
    found = estimated(mixed, "popular")
    table = estimate_table(found, "popular")
    assert [tuple(row[:2]) for row in table.rows[:2]] == [("popular", "robust"), ("popular", "SNIPS")]
    of_arm = {arm: [s for s in sessions_of(mixed) if s[0]["experiments"]["TEST"] == arm] for arm in MIXED}
    means = {arm: np.mean([session[1]["time"] for session in of_arm[arm]]) for arm in MIXED}
    assert {row[0]: float(str(row[2])) for row in table.rows[2:]} == pytest.approx(means, abs=6e-4)
    record = found.record()
    assert record["offline/first_step_dr"] == record["first_step_dr"]["value"] == found.first_step_dr.value


def test_the_report_says_what_was_left_out(mixed: Path, tmp_path: Path) -> None:
    def without(number: int, line: dict[str, Any]) -> dict[str, Any]:
        return line if number % 30 else {**line, "propensity": None}

    found = estimated(edited(mixed, tmp_path / "run", without), "popular")
    num = found.left_out["without_propensity"]
    assert 20 < num < 80
    assert remarks(found)[-1] == (
        f"Left out, {num / 1500:.1%} of the sessions of the log: {num} sessions whose recommendation has no propensity "
        "in (0, 1]. If they differ from the others, the estimates are biased."
    )
    few = replace(found, first_step_snips=replace(found.first_step_snips, effective_sample_size=16.0))
    assert any(line.startswith("With an effective sample size below 30, fewer than 95 %") for line in remarks(few))
    assert re.match(r"[\d,]+ sessions of the log are worth 16 of the candidate", remarks(few)[0])
