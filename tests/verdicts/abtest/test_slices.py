"""The effect by day and by segment: the parts, their family, and the change over time."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from segue.reports.markdown import document
from segue.verdicts.abtest.analysis import analyse
from segue.verdicts.abtest.picture import draw
from segue.verdicts.abtest.report import blocks
from segue.verdicts.abtest.result import Analysis
from segue.verdicts.abtest.slices import DAY_MS
from segue.verdicts.abtest.users import Sessions, Users
from segue.verdicts.abtest.verdict import doubts
from tests.statistics.rates import repeat
from tests.verdicts.abtest.users import pre_period, settings, users_of_sessions

DAYS = 4


def experiment(
    rng: np.random.Generator, lift_of_day: tuple[float, ...], users: int = 400, *, more_sessions: bool = False
) -> Users:
    """Users with one or two sessions on each day; on day d the treatment multiplies the time by 1 + lift_of_day[d]."""
    arm_of, habit = np.arange(users) % 2, rng.gamma(4.0, 1.0, users)
    times = 1 + rng.binomial(1, 0.5, (users, DAYS)) + (np.arange(users) % 2)[:, None] * more_sessions
    user = np.repeat(np.arange(users), times.sum(1))
    day = np.concatenate([np.repeat(np.arange(DAYS), row) for row in times])
    num = len(user)
    return users_of_sessions(
        Sessions(
            user_keys=user,
            arm_of=arm_of[user],
            started_ms=1000 + day * DAY_MS,
            tracks=np.full(num, 5),
            time=habit[user] * rng.gamma(4.0, 0.25, num) * (1 + arm_of[user] * np.array(lift_of_day)[day]),
            latency_ms=np.zeros(num),
            fallbacks=np.zeros(num, np.int64),
            is_finished=np.ones(num, bool),
        )
    )


def run(users: Users, *pre: Users, **changes: Any) -> Analysis:
    return analyse(users, settings(bootstrap_rounds=0, always_valid_percent=None, **changes), *pre)


def rows(analysis: Analysis, split: str) -> dict[str, Any]:
    return {one.part: one for one in analysis.slices if one.split == split}


def test_each_day_has_its_effect_and_a_fading_effect_is_noticed(tmp_path: Path) -> None:
    analysis = run(experiment(np.random.default_rng(1), (1.0, 0.8, 0.3, 0.0)))
    days = rows(analysis, "day")
    assert list(days) == ["1", "2", "3", "4"]
    assert days["1"].lower_percent > 50
    assert days["4"].upper_percent < 40
    assert analysis.changes["T1"].upper_percent < 0
    assert any(line.startswith("T1: the effect changes by -") for line in doubts(analysis))
    text = document(blocks(analysis))
    assert "## Mean time per session by day and by segment" in text
    assert "second half, the effect changes by -" in text
    draw(analysis, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_an_effect_that_stays_is_no_novelty_as_often_as_the_level_says() -> None:
    rng = np.random.default_rng(2)
    p_values = repeat(80, lambda: run(experiment(rng, (0.5,) * DAYS, 120)).changes["T1"].p_value)
    alarms = sum(p_value < 0.05 for p_value in p_values)
    assert alarms <= 80 * 0.05 + 4 * (80 * 0.05 * 0.95) ** 0.5


def test_each_split_is_a_family_and_its_intervals_agree_with_its_p_values() -> None:
    analysis = run(experiment(np.random.default_rng(3), (0.3, 0.12, 0.05, 0.0)))
    for split in ("day", "session", "activity"):
        found = rows(analysis, split)
        assert len(found) > 1
        for one in found.values():
            assert one.significant == (one.lower_percent > 0 or one.upper_percent < 0)
    users = analysis.users
    first_day = users.of(users.each.where(users.each.started_ms < DAY_MS))
    time = first_day.time / first_day.sessions
    alone = stats.ttest_ind(time[first_day.arm_of == 0], time[first_day.arm_of == 1], equal_var=False).pvalue
    assert rows(analysis, "day")["1"].holm_p_value == pytest.approx(DAYS * alone), "the smallest of four"


def test_the_first_session_of_each_user_is_a_segment() -> None:
    users = experiment(np.random.default_rng(4), (0.5,) * DAYS)
    segments = rows(run(users), "session")
    assert segments["first of a user"].control_users == segments["later"].control_users == 200
    first = users.each.time[np.append(True, np.diff(users.each.user_keys) > 0)]
    expected = 100 * (first[1::2].mean() / first[::2].mean() - 1)
    assert segments["first of a user"].effect_percent == pytest.approx(expected)


def test_activity_is_that_before_the_experiment_if_it_is_known() -> None:
    users = experiment(np.random.default_rng(5), (0.5,) * DAYS)
    before = experiment(np.random.default_rng(6), (0.0,) * DAYS)
    known = pre_period(before.of(before.each.where(before.each.user_keys < 300)))
    parts = rows(run(users, known), "activity")
    middle = int(np.median(known.sessions))
    assert list(parts) == [
        "no session before", f"1 to {middle} sessions before", f"more than {middle} sessions before",
    ]  # fmt: skip
    assert parts["no session before"].control_users == 50


def test_activity_in_the_experiment_is_no_segment_if_the_arms_differ_in_it() -> None:
    same, more = (
        run(experiment(np.random.default_rng(7), (0.5,) * DAYS, more_sessions=more)) for more in (False, True)
    )
    assert rows(same, "activity")
    assert not rows(more, "activity")


def test_a_segment_with_the_other_sign_is_noticed() -> None:
    users = experiment(np.random.default_rng(8), (0.0,) * DAYS, 2000)
    each = users.each
    is_first = np.append(True, np.diff(each.user_keys) > 0)
    time = each.time * np.where(each.arm_of == 1, np.where(is_first, 0.5, 1.3), 1.0)
    lines = doubts(run(users_of_sessions(replace(each, time=time))))
    assert any(
        line.startswith("T1: in the segment session = first of a user the effect has the other") for line in lines
    )


def test_a_user_with_a_wrong_clock_costs_one_day_and_not_all_days_between() -> None:
    users = experiment(np.random.default_rng(10), (0.0,) * DAYS)
    far = np.where(users.each.user_keys == 0, 10**15, users.each.started_ms)
    assert list(rows(run(users_of_sessions(replace(users.each, started_ms=far))), "day")) == ["1", "2", "3", "4"]


def test_a_day_with_few_users_leaves_no_split_of_two_days() -> None:
    users = experiment(np.random.default_rng(11), (0.0,) * DAYS)
    each = users.each
    two = each.where((each.started_ms < DAY_MS) | ((each.started_ms < 2 * DAY_MS) & (each.user_keys < 40)))
    assert len(np.unique(two.started_ms // DAY_MS)) == 2
    assert not rows(run(users_of_sessions(two)), "day")


def test_slices_can_be_switched_off_and_a_log_of_one_day_has_no_days() -> None:
    users = experiment(np.random.default_rng(9), (0.0,) * DAYS)
    assert run(users, slices=False).slices == []
    one_day = users_of_sessions(users.each.where(users.each.started_ms < DAY_MS))
    analysis = run(one_day)
    assert not rows(analysis, "day")
    assert analysis.changes == {}
