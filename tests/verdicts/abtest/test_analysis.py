"""The A/B analysis: the published spreadsheet in a slow loop, and error rates on synthetic experiments."""

import json
import math
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from segue.errors import InputError
from segue.statistics.design import minimal_detectable_effect
from segue.statistics.intervals import GroupSummary
from segue.verdicts.abtest.analysis import analyse
from segue.verdicts.abtest.log import read_users
from segue.verdicts.abtest.result import Analysis, Effect
from segue.verdicts.abtest.users import Users
from tests.statistics.rates import repeat, skewed, within_four_standard_errors
from tests.verdicts.abtest.users import pre_period, settings, users_of, users_of_sessions

READING: dict[str, Any] = {"interleaved": "separate", "session_gap_minutes": 30.0, "unfinished": "drop"}


def slow_sheet(lines: list[dict[str, Any]], experiment: str) -> dict[tuple[str, str], dict[str, float]]:
    """The published spreadsheet, one event at a time."""
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


def test_the_analysis_of_the_real_log_equals_the_published_spreadsheet(real_data: Path) -> None:
    folder = real_data / "botify-2023" / "logs"
    users = read_users(folder, experiment="MY_RECOMMENDER", max_rejected=0.01, **READING)
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


def test_an_arm_with_one_user_is_rejected() -> None:
    with pytest.raises(
        InputError, match="arm T1 of experiment TEST has 1 user; a comparison needs at least two users in each arm"
    ):
        analyse(users_of([1.0, 2.0, 3.0], [0, 0, 1]), settings())


def test_an_arm_without_a_finished_session_is_rejected_and_its_unfinished_ones_are_counted() -> None:
    users = users_of([1.0, 2.0, 3.0, 4.0], [0, 0, 1, 1])
    each = replace(users.each, is_finished=users.arm_of == 0)
    message = (
        r"T1 of experiment TEST has 0 users with a finished session \(2 have no `last`; unfinished=keep counts them"
    )
    with pytest.raises(InputError, match=message):
        analyse(users_of_sessions(each), settings())


def test_a_primary_metric_that_the_log_does_not_have_is_rejected() -> None:
    with pytest.raises(
        InputError, match=r"analysis\.primary=fallback_percent: the log has no fallbacks; choose another"
    ):
        analyse(users_of([1.0, 2.0, 3.0, 4.0], [0, 0, 1, 1]), settings(primary="fallback_percent"))


def test_with_the_users_needed_the_detectable_effect_is_the_one_asked_for() -> None:
    rng = np.random.default_rng(1)
    analysis = analyse(users_of(rng.normal(4, 3, 1000), np.arange(1000) % 2), settings())
    effect = analysis.effect("T1", "mean_time_per_session")
    assert effect.users_needed is not None
    grown = GroupSummary(num=effect.users_needed["5"] // 2, mean=effect.control_mean, variance=9.0)
    assert minimal_detectable_effect(grown, grown, 0.05, 0.8) == pytest.approx(5, rel=0.08)


def test_cuped_removes_almost_all_variance_if_the_pre_period_predicts_the_values() -> None:
    rng = np.random.default_rng(2)
    habit = rng.exponential(3, 2000)
    arm_of = np.arange(2000) % 2
    now = users_of(habit + 0.3 * arm_of + rng.normal(0, 0.1, 2000), arm_of)
    effect = analyse(now, settings(), pre_period(users_of(habit, arm_of))).effect("T1", "mean_time_per_session")
    assert effect.cuped_variance_saved_percent > 99
    assert effect.cuped.upper_percent - effect.cuped.lower_percent < 0.1 * (
        effect.relative.upper_percent - effect.relative.lower_percent
    )
    truth = 100 * 0.3 / 3
    assert effect.cuped.lower_percent < truth < effect.cuped.upper_percent


@pytest.mark.parametrize(
    ("period", "message"),
    [
        (
            users_of([1.0, 2.0], [0, 1]),
            "pre overlaps the experiment: its last event is at 2000 ms, the first event of the experiment is at 1000",
        ),
        (pre_period(users_of([1.0, 2.0], [0, 1], user_keys=[8, 9])), "pre has no user of the experiment"),
        (pre_period(users_of([], [])), "pre has no completed session"),
    ],
)
def test_an_unusable_pre_period_is_rejected(period: Users, message: str) -> None:
    with pytest.raises(InputError, match=message):
        analyse(users_of([1.0, 2.0, 3.0, 4.0], [0, 1, 0, 1]), settings(), period)


NUM_EXPERIMENTS, ALPHA = 1000, 0.05


def simulate_experiments(lift: float, num: int, **changes: Any) -> list[Analysis]:
    rng = np.random.default_rng(7)
    arm_of = np.arange(num) % 2
    short = settings(bootstrap_rounds=0, slices=False, always_valid_percent=None, **changes)
    return repeat(
        NUM_EXPERIMENTS, lambda: analyse(users_of(skewed(rng, num) * np.where(arm_of, 1 + lift, 1.0), arm_of), short)
    )


def primary(analysis: Analysis) -> Effect:
    return analysis.effect("T1", "mean_time_per_session")


@pytest.fixture(scope="module")
def null() -> list[Analysis]:
    """A/A: both arms are the same."""
    return simulate_experiments(0.0, 600)


@pytest.fixture(scope="module")
def lifted() -> list[Analysis]:
    """A/B: the treatment mean is 20 % higher."""
    return simulate_experiments(0.2, 600)


def test_the_rate_of_false_alarms_equals_alpha(null: list[Analysis]) -> None:
    assert within_four_standard_errors(sum(primary(one).significant for one in null), ALPHA, NUM_EXPERIMENTS)


def test_with_holms_correction_the_rate_of_any_false_alarm_is_at_most_alpha(null: list[Analysis]) -> None:
    alarms = sum(any(effect.holm_significant for effect in one.effects) for one in null)
    assert alarms / NUM_EXPERIMENTS < ALPHA + 4 * (ALPHA * (1 - ALPHA) / NUM_EXPERIMENTS) ** 0.5


@pytest.mark.parametrize("truth", [0.0, 20.0])
def test_relative_intervals_cover_the_true_effect_at_their_level(
    null: list[Analysis], lifted: list[Analysis], truth: float
) -> None:
    experiments = [primary(one) for one in (lifted if truth else null)]
    covered = sum(one.relative.lower_percent < truth < one.relative.upper_percent for one in experiments)
    assert within_four_standard_errors(covered, 1 - ALPHA, NUM_EXPERIMENTS)


def test_welchs_interval_of_the_relative_effect_is_narrower_than_fiellers_if_there_is_an_effect(
    lifted: list[Analysis],
) -> None:
    """The reason for the second interval: Welch's treats the control mean as a constant."""
    experiments = [primary(one) for one in lifted]
    welch_width = np.mean([one.upper_percent - one.lower_percent for one in experiments])
    assert (
        np.mean([one.relative.upper_percent - one.relative.lower_percent for one in experiments]) > 1.05 * welch_width
    )


def test_counting_sessions_instead_of_users_increases_false_alarms() -> None:
    """The reason for the unit: sessions of one user are similar."""
    rng = np.random.default_rng(12)
    alarms = 0
    for _ in range(400):
        habits = rng.gamma(0.8, 3.0, 200)
        sessions = np.repeat(habits, 20) + rng.normal(0, 1, 4000)
        arm_of = np.repeat(np.arange(200) % 2, 20)
        alarms += stats.ttest_ind(sessions[arm_of == 0], sessions[arm_of == 1], equal_var=False).pvalue < ALPHA
    assert alarms / 400 > 0.3
