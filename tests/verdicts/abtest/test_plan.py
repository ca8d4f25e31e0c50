"""The plan of a test: users and days, and that a test of the planned size has the planned power."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from segue.errors import InputError
from segue.statistics.intervals import GroupSummary, fieller
from segue.verdicts.abtest.plan import Plan, make_plan, plan_table
from segue.verdicts.abtest.slices import DAY_MS
from segue.verdicts.abtest.users import Users
from tests.statistics.rates import skewed, within_four_standard_errors
from tests.verdicts.abtest.users import settings, users_of


def past(values: Any, day_of: Any, user_of: Any = None) -> Users:
    """A log of the past with one session per value; by default each is of another user."""
    user_keys = np.arange(len(values)) if user_of is None else np.asarray(user_of)
    order = np.lexsort((day_of, user_keys))
    own, times = np.asarray(values)[order], 1000 + np.asarray(day_of)[order] * DAY_MS
    users = users_of(own, np.zeros(len(own)), ("C",), user_keys=user_keys[order], started_ms=times)
    return replace(users, first_ms=1000, last_ms=1000 + (int(np.max(day_of)) + 1) * DAY_MS)


def need(plan: Plan, effect: float) -> Any:
    return next(one for one in plan.needs if one.effect_percent == effect)


def test_a_test_of_the_planned_size_detects_the_effect_with_the_planned_probability() -> None:
    rng = np.random.default_rng(1)
    plan = make_plan(past(skewed(rng, 200_000), np.arange(200_000) % 10), settings(), plan=15)
    num, detected = need(plan, 15).users // 2, 0
    for _ in range(1500):
        control, treatment = GroupSummary.of(skewed(rng, num)), GroupSummary.of(skewed(rng, num) + 0.15 * 3.4)
        detected += fieller(control, treatment, 0.05).p_value < 0.05
    assert within_four_standard_errors(detected, 0.8, 1500)


def test_the_days_are_those_until_the_log_has_so_many_users() -> None:
    """Each of ten days brings 200 new users; then the log is extrapolated."""
    rng = np.random.default_rng(2)
    plan = make_plan(past(skewed(rng, 2000), np.arange(2000) // 200), settings(), plan=12)
    assert plan.users_by_day == [200 * day for day in range(1, 11)]
    assert plan.new_users_a_day == 200
    for one in plan.needs:
        if one.days is not None:
            assert 200 * (one.days - 1) <= one.users + 200 * 0.3 * one.days  # the variance of few days differs a little
            assert one.users <= 200 * one.days
    assert (need(plan, 12).days or 0) <= 10 < (need(plan, 5).days or 0)
    for effect, words in ((12, "days with the traffic"), (5, ", extrapolated from a log of 10 days."), (1, "365 days")):
        assert words in plan_table(replace(plan, effect_percent=float(effect))).notes[0]


def test_users_who_come_back_need_fewer_users_because_their_means_are_more_precise() -> None:
    rng = np.random.default_rng(3)
    user_of, day_of = np.tile(np.arange(500), 8), np.repeat(np.arange(8), 500)
    habit = rng.gamma(20.0, 0.2, 500)[user_of]
    plan = make_plan(past(habit * rng.gamma(0.5, 2.0, 4000), day_of, user_of), settings(), plan=25)
    assert plan.users_by_day == [500] * 8
    first, last = need(plan, 20), need(plan, 10)
    assert first.days is not None
    assert 1 < first.days <= 8
    assert last.users < 4.0 * first.users, "twice as precise would need four times as many users of the same days"


def test_a_log_of_one_day_does_not_say_when_more_users_come() -> None:
    plan = make_plan(past(skewed(np.random.default_rng(4), 500), np.zeros(500, np.int64)), settings(), plan=5)
    assert need(plan, 5).days is None
    assert need(plan, 5).users > 500
    assert plan_table(plan).rows[2][-1] == "–"
    assert plan_table(plan).notes[0].endswith("users in 2 arms: the log covers one day.")
    assert not any("nan" in line for line in plan_table(plan).notes)


def test_an_unequal_split_and_more_arms_need_more_users() -> None:
    log = past(skewed(np.random.default_rng(5), 2000), np.arange(2000) // 200)
    plans = [make_plan(log, settings(split=split), plan=10) for split in (None, [0.9, 0.1], [1, 1, 1])]
    equal, unequal, three = (need(plan, 10).users for plan in plans)
    assert unequal == pytest.approx(equal * (1 / 0.9 + 1 / 0.1) / 4, rel=0.1)
    assert three > 1.5 * equal


@pytest.mark.parametrize(
    ("values", "effect", "changes", "message"),
    [
        ([1.0, 2.0, 3.0, 4.0], 0, {}, "plan must be a number above 0 .*got 0; 5 plans a test that detects"),
        ([1.0, 2.0], 5, {}, "the log has 2 users with a completed session, or mean_time_per_session is the same"),
        ([1.0] * 9, 5, {}, "the log has 9 users with a completed session, or mean_time_per_session is the same"),
        ([1.0, 2.0] * 5, 5, {"primary": "fallback_percent"}, "a plan needs a metric whose mean is not near 0"),
    ],
)
def test_a_plan_that_cannot_be_made_is_refused(values: list[float], effect: Any, changes: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_plan(past(np.array(values), np.zeros(len(values), np.int64)), settings(**changes), plan=effect)
