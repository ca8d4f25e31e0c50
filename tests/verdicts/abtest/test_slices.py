"""The effect by day and by session: the parts, and their family."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from segue.verdicts.abtest.analysis import analyse
from segue.verdicts.abtest.slices import DAY_MS, slices
from segue.verdicts.abtest.users import Users
from tests.verdicts.abtest.users import settings, users_of, users_of_sessions

DAYS, TIME = 4, "mean_time_per_session"
EVERY_DAY = ["day 1", "day 2", "day 3", "day 4"]


def experiment(rng: np.random.Generator, lift_of_day: tuple[float, ...], users: int = 400) -> Users:
    """Users with one or two sessions on each day; on day d the treatment multiplies the time by 1 + lift_of_day[d]."""
    arm_of, habit = np.arange(users) % 2, rng.gamma(4.0, 1.0, users)
    times = 1 + rng.binomial(1, 0.5, (users, DAYS))
    user = np.repeat(np.arange(users), times.sum(1))
    day = np.concatenate([np.repeat(np.arange(DAYS), row) for row in times])
    time = habit[user] * rng.gamma(4.0, 0.25, len(user)) * (1 + arm_of[user] * np.array(lift_of_day)[day])
    return users_of(time, arm_of[user], user_keys=user, started_ms=1000 + day * DAY_MS)


def parts(users: Users) -> dict[str, Any]:
    return {one.part: one for one in slices(users, TIME, 0.05)}


def test_each_day_has_its_effect_and_a_fading_effect_is_noticed() -> None:
    analysis = analyse(experiment(np.random.default_rng(1), (1.0, 0.8, 0.3, 0.0)), settings())
    days = {one.part: one for one in analysis.slices}
    assert list(days)[:4] == EVERY_DAY
    assert days["day 1"].lower_percent > 50
    assert days["day 4"].upper_percent < 40


def test_days_are_a_family_and_their_intervals_agree_with_their_p_values() -> None:
    users = experiment(np.random.default_rng(3), (0.3, 0.12, 0.05, 0.0))
    found = parts(users)
    for one in found.values():
        assert (one.p_value < 0.05) == (one.lower_percent > 0 or one.upper_percent < 0)
    first_day = users.of(users.each.where(users.each.started_ms < DAY_MS))
    time = first_day.time / first_day.sessions
    alone = stats.ttest_ind(time[first_day.arm_of == 0], time[first_day.arm_of == 1], equal_var=False).pvalue
    assert found["day 1"].p_value == pytest.approx(DAYS * alone), "the smallest of four"


def test_first_and_later_sessions_of_users_are_parts() -> None:
    users = experiment(np.random.default_rng(4), (0.5,) * DAYS)
    found = parts(users)
    assert found["first session of a user"].control_users == found["later sessions"].control_users == 200
    first = users.each.time[users.each.is_first]
    expected = 100 * (first[1::2].mean() / first[::2].mean() - 1)
    assert found["first session of a user"].effect_percent == pytest.approx(expected)


def test_a_user_with_a_wrong_clock_costs_one_day_and_one_day_is_no_part() -> None:
    users = experiment(np.random.default_rng(10), (0.0,) * DAYS)
    far = np.where(users.each.user_keys == 0, 10**15, users.each.started_ms)
    assert list(parts(users_of_sessions(replace(users.each, started_ms=far))))[:4] == EVERY_DAY
    few = (users.each.started_ms < DAY_MS) | ((users.each.started_ms < 2 * DAY_MS) & (users.each.user_keys < 40))
    two_days = users_of_sessions(users.each.where(few))
    assert not any(part.startswith("day") for part in parts(two_days))
