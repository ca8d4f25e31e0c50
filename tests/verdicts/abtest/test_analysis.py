"""The A/B analysis: the published spreadsheet in a slow loop, CUPED, and what cannot be compared."""

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
from segue.verdicts.abtest.analysis import analyse
from segue.verdicts.abtest.log import read_users
from segue.verdicts.abtest.users import Users
from tests.verdicts.abtest.test_log import READING
from tests.verdicts.abtest.users import pre_period, settings, users_of, users_of_sessions


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


FOUR = users_of([1.0, 2.0, 3.0, 4.0], [0, 0, 1, 1])
UNFINISHED = users_of_sessions(replace(FOUR.each, is_finished=FOUR.arm_of == 0))


@pytest.mark.parametrize(
    ("users", "changes", "message"),
    [
        (users_of([1.0, 2.0, 3.0], [0, 0, 1]), {}, "arm T1 of experiment TEST has 1 users with a finished session"),
        (UNFINISHED, {}, r"has 0 users .*; unfinished=keep counts its 2 sessions without a `last`, arms=\[C\] leaves"),
        (FOUR, {"primary": "fallback_percent"}, r"analysis\.primary=fallback_percent: the log has no fallbacks"),
        (FOUR, {"guardrails": {"clicks": 5}}, r"analysis\.guardrails\.clicks is no metric; a guardrail is one of mean"),
        (FOUR, {"split": [1.0] * 3}, r"analysis\.split has 3 shares for the 2 arms C, T1; give one share for each arm"),
    ],
)
def test_a_comparison_that_cannot_be_made_is_rejected(users: Users, changes: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        analyse(users, settings(**changes))


@pytest.mark.parametrize(
    ("period", "message"),
    [
        (FOUR, "pre overlaps the experiment: its last event is at 2000 ms, the first event of the experiment"),
        (pre_period(users_of([1.0, 2.0], [0, 1], user_keys=np.array([8, 9]))), "pre has no user of the experiment"),
        (pre_period(users_of([], [])), "pre has no completed session"),
    ],
)
def test_an_unusable_pre_period_is_rejected(period: Users, message: str) -> None:
    with pytest.raises(InputError, match=message):
        analyse(FOUR, settings(), period)
