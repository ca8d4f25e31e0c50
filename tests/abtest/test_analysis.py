"""The A/B analysis: the published sheet in a slow loop, and its promises."""

import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from src.abtest.analysis import analyse
from src.abtest.log import Users, read_users
from src.abtest.result import Analysis, Effect
from src.errors import InputError
from src.statistics.design import minimal_detectable_effect
from src.statistics.intervals import GroupSummary
from tests.abtest.users import before, settings, users_of
from tests.statistics.promises import skewed, within_four_errors


def slow_sheet(lines: list[dict[str, Any]], experiment: str) -> dict[tuple[str, str], dict[str, float]]:
    """The published sheet, one event at a time."""
    by_user = defaultdict(list)
    for line in lines:
        if experiment in line["experiments"]:
            by_user[line["user"]].append(line)
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for events in by_user.values():
        events.sort(key=lambda line: line["timestamp"])
        sessions = 1
        for one in events[:-1]:
            sessions += one["message"] == "last"
        tracks = len(events)
        time = math.fsum(line["time"] for line in events)
        latency = math.fsum(line["latency"] for line in events) * 1000
        own = values[events[0]["experiments"][experiment]]
        own["time"].append(time)
        own["sessions"].append(sessions)
        own["mean_request_latency"].append(latency / tracks)
        own["mean_tracks_per_session"].append(tracks / sessions)
        own["mean_time_per_session"].append(time / sessions)
    effects = {}
    for arm in sorted(set(values) - {"C"}):
        for metric in values[arm]:
            control, treatment = np.array(values["C"][metric], float), np.array(values[arm][metric], float)
            result = stats.ttest_ind(treatment, control, equal_var=False)
            low, high = result.confidence_interval(0.95)
            mean = control.mean()
            effects[arm, metric] = {
                "control_mean": mean,
                "treatment_mean": treatment.mean(),
                "effect_percent": (treatment.mean() - mean) / mean * 100,
                "lower_percent": low / mean * 100,
                "upper_percent": high / mean * 100,
                "p_value": result.pvalue,
            }
    return effects


def test_the_published_sheet_on_the_real_log(real_data: Path) -> None:
    folder = real_data / "botify-2023" / "logs"
    users = read_users(folder, experiment="MY_RECOMMENDER", max_rejected=0.01)
    analysis = analyse(users, settings())
    lines = [json.loads(line) for path in sorted(folder.rglob("data.json")) for line in path.read_text().splitlines()]
    expected = slow_sheet(lines, "MY_RECOMMENDER")
    assert len(expected) == len(analysis.effects) == 5
    for (treatment, metric), numbers in expected.items():
        effect = analysis.effect(treatment, metric)
        for name, number in numbers.items():
            assert getattr(effect, name) == pytest.approx(number, rel=1e-11, abs=1e-300), (metric, name)
        assert effect.significant == (numbers["p_value"] < 0.05)
    primary = analysis.effect("T1", "mean_time_per_session")
    assert (round(primary.control_mean, 2), round(primary.treatment_mean, 2)) == (4.76, 6.09)  # facts: 4.77, 6.09
    assert sum(users.guards.values()) == 0


def test_an_arm_with_one_user_cannot_be_compared() -> None:
    with pytest.raises(InputError, match="arm T1 of experiment TEST has 1 user"):
        analyse(users_of([1.0, 2.0, 3.0], [0, 0, 1]), settings())


def test_the_users_needed_find_the_effect_they_are_needed_for() -> None:
    rng = np.random.default_rng(1)
    analysis = analyse(users_of(rng.normal(4, 3, 1000), np.arange(1000) % 2), settings())
    effect = analysis.effect("T1", "mean_time_per_session")
    assert effect.users_needed is not None
    grown = GroupSummary(num=effect.users_needed["5"] // 2, mean=effect.control_mean, variance=9.0)
    assert minimal_detectable_effect(grown, grown, 0.05, 0.8) == pytest.approx(5, rel=0.08)


def test_an_earlier_period_that_predicts_everything_leaves_no_noise() -> None:
    rng = np.random.default_rng(2)
    habit = rng.exponential(3, 2000)
    arm_of = np.arange(2000) % 2
    now = users_of(habit + 0.3 * arm_of + rng.normal(0, 0.1, 2000), arm_of)
    effect = analyse(now, settings(), before(users_of(habit, arm_of))).effect("T1", "mean_time_per_session")
    assert effect.cuped_variance_saved_percent > 99
    assert effect.cuped_upper_percent - effect.cuped_lower_percent < 0.1 * (effect.upper_percent - effect.lower_percent)
    truth = 100 * 0.3 / 3
    assert effect.cuped_lower_percent < truth < effect.cuped_upper_percent


@pytest.mark.parametrize(
    ("earlier", "message"),
    [
        (users_of([1.0, 2.0], [0, 1]), "pre overlaps the experiment: its last event is at 2000 ms"),
        (before(users_of([1.0, 2.0], [0, 1], user_ids=[8, 9])), "pre has none of the experiment's users"),
        (before(users_of([], [])), "pre has no session that ended"),
    ],
)
def test_an_earlier_period_that_cannot_be_used_is_refused(earlier: Users, message: str) -> None:
    with pytest.raises(InputError, match=message):
        analyse(users_of([1.0, 2.0, 3.0, 4.0], [0, 1, 0, 1]), settings(), earlier)


NUM_EXPERIMENTS, ALPHA = 1500, 0.05


def made_up(lift: float, num: int, **changes: Any) -> list[Analysis]:
    rng = np.random.default_rng(7)
    arm_of = np.arange(num) % 2
    quick = settings(bootstrap_rounds=0, **changes)
    return [
        analyse(users_of(skewed(rng, num) * np.where(arm_of, 1 + lift, 1.0), arm_of), quick)
        for _ in range(NUM_EXPERIMENTS)
    ]


def primary(analysis: Analysis) -> Effect:
    return analysis.effect("T1", "mean_time_per_session")


@pytest.fixture(scope="module")
def null() -> list[Analysis]:
    """A/A: both arms are the same."""
    return made_up(0.0, 600)


@pytest.fixture(scope="module")
def lifted() -> list[Analysis]:
    """A/B: the treatment is a fifth better."""
    return made_up(0.2, 600)


def test_false_alarms_are_as_rare_as_promised(null: list[Analysis]) -> None:
    assert within_four_errors(sum(primary(one).significant for one in null), ALPHA, NUM_EXPERIMENTS)


def test_the_whole_family_together_raises_no_more_false_alarms(null: list[Analysis]) -> None:
    alarms = sum(any(effect.holm_significant for effect in one.effects) for one in null)
    assert alarms / NUM_EXPERIMENTS < ALPHA + 4 * (ALPHA * (1 - ALPHA) / NUM_EXPERIMENTS) ** 0.5


@pytest.mark.parametrize("truth", [0.0, 20.0])
def test_relative_intervals_hold_the_truth_as_often_as_promised(
    null: list[Analysis], lifted: list[Analysis], truth: float
) -> None:
    experiments = [primary(one) for one in (lifted if truth else null)]
    held = sum(one.relative_lower_percent < truth < one.relative_upper_percent for one in experiments)
    assert within_four_errors(held, 1 - ALPHA, NUM_EXPERIMENTS)


def test_the_sheets_interval_is_too_narrow_where_there_is_an_effect(lifted: list[Analysis]) -> None:
    """Why there is a second interval: holding the control mean for a constant leaves part of the noise out."""
    experiments = [primary(one) for one in lifted]
    sheet = np.mean([one.upper_percent - one.lower_percent for one in experiments])
    assert np.mean([one.relative_upper_percent - one.relative_lower_percent for one in experiments]) > 1.05 * sheet


def test_counting_sessions_instead_of_users_raises_false_alarms() -> None:
    """The reason for the unit: sessions of one user are alike."""
    rng = np.random.default_rng(12)
    alarms = 0
    for _ in range(400):
        habits = rng.gamma(0.8, 3.0, 200)
        sessions = np.repeat(habits, 20) + rng.normal(0, 1, 4000)
        arm_of = np.repeat(np.arange(200) % 2, 20)
        alarms += stats.ttest_ind(sessions[arm_of == 0], sessions[arm_of == 1], equal_var=False).pvalue < ALPHA
    assert alarms / 400 > 0.3
