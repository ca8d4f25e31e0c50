"""What could be wrong: each check finds its fault, and a clean test has none."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from segue.reports.markdown import document
from segue.verdicts.abtest.analysis import analyse
from segue.verdicts.abtest.report import blocks
from segue.verdicts.abtest.slices import DAY_MS
from segue.verdicts.abtest.users import Users, sums_of_users
from segue.verdicts.abtest.verdict import doubts, split_sentence, users_table
from tests.verdicts.abtest.users import settings, users_of

WEEK_MS = 7 * 86_400_000


def clean(num: int = 2000) -> Users:
    users = users_of(np.random.default_rng(1).exponential(size=num), np.arange(num) % 2)
    return replace(users, last_ms=users.first_ms + WEEK_MS)


def found(users: Users, **changes: Any) -> list[str]:
    return doubts(analyse(users, settings(always_valid_percent=None, **changes)))


def test_a_clean_test_names_the_checks_that_found_nothing_and_those_that_were_not_made() -> None:
    """Every user has one session on one day, therefore there are no days and no segments."""
    made, not_made = found(clean(), guardrails={"time": 40})
    assert made == (
        "Checked, and nothing found: split of the users, unfinished sessions, other methods, guardrails, "
        "faults of the log, length of the log."
    )
    assert not_made == (
        "Not checked, because the log or the settings do not allow it: change of the effect over time, segments."
    )


def cut(users: Users) -> Users:
    """Every ninth session is cut off, in the treatment only."""
    each = replace(users.each, is_finished=(np.arange(len(users)) % 9 > 0) | (users.arm_of == 0))
    return replace(users, each=each, **sums_of_users(each.where(each.is_finished)))


@pytest.mark.parametrize(
    ("change", "check", "sentence"),
    [
        (lambda users: replace(users, exposed=np.array([1000, 1300])), "split of the users", "not split as planned"),
        (cut, "unfinished sessions", "Sessions without a `last`: C 0 of 1,000, T1 "),
        (
            lambda users: replace(users, guards={"users_in_two_arms": 3}),
            "faults of the log",
            "3 users who were in two arms were left out.",
        ),
        (
            lambda users: replace(users, last_ms=users.first_ms + 300_000),
            "length of the log",
            "The log covers 5 min. Less than a week does not show",
        ),
    ],
)
def test_each_check_finds_its_fault(change: Any, check: str, sentence: str) -> None:
    first, *_, made, _ = found(change(clean()))
    assert sentence in first
    assert check not in made


def test_an_arm_that_does_not_belong_to_the_test_is_left_out_by_a_setting_that_is_named() -> None:
    arm_of = np.where(np.arange(2000) < 20, 2, np.arange(2000) % 2)
    stray = users_of(np.random.default_rng(1).exponential(size=2000), arm_of, ("C", "T1", "T0"))
    assert found(stray)[0].endswith("If T0 is no part of the test, leave it out: arms=[C,T1].")


def test_the_users_of_arms_that_were_simulated_are_introduced_by_what_the_arms_are() -> None:
    analysis = replace(analyse(clean(), settings()), recommenders={"C": "random", "T1": "run:1234"})
    assert split_sentence(analysis).startswith(
        "C is random, T1 is run:1234. The split of the users over the arms agrees"
    )
    assert "C is random, T1 is run:1234. " in document(blocks(analysis))
    assert analysis.record()["recommenders"] == analysis.recommenders


def test_days_without_a_session_are_counted() -> None:
    """Sessions begin on days 1, 2 and 5 of five days."""
    users = clean()
    day = np.array([0, 1, 4])[np.arange(2000) % 3] * DAY_MS
    users = replace(
        users, each=replace(users.each, started_ms=users.first_ms + day), last_ms=users.first_ms + 4 * DAY_MS + 9
    )
    words = "On 2 of the first 5 days of the log no session began. Check that no part of the log is missing."
    assert words in found(users)
    full = replace(users.each, started_ms=users.first_ms + np.arange(2000) % 5 * DAY_MS)
    assert not any("no session began" in line for line in found(replace(users, each=full)))


@pytest.mark.parametrize(("sessions_without_last", "words"), [(9, "differ in"), (1, "do not differ in")])
def test_the_level_of_the_test_of_unfinished_sessions_is_named(sessions_without_last: int, words: str) -> None:
    users = clean()
    is_cut = (np.arange(2000) % 200 < 2 * sessions_without_last) & (users.arm_of == 1)
    each = replace(users.each, is_finished=~is_cut)
    line = found(replace(users, each=each, **sums_of_users(each.where(each.is_finished))))[0]
    assert f"The arms {words} their share at the level 0.001 (T1: p " in line


def test_a_method_that_disagrees_with_the_verdict_is_named() -> None:
    """The bootstrap of two rounds is no bootstrap: its interval is too narrow and excludes 0."""
    lines = found(clean(), bootstrap_rounds=2)
    assert any("T1: the method `bootstrap` disagrees with the verdict: [" in line for line in lines)


def test_a_guardrail_that_does_not_hold_is_named() -> None:
    users = replace(clean(), tracks=np.where(np.arange(2000) % 2, 4, 5) + np.arange(2000) % 3)
    lines = found(users, guardrails={"mean_tracks_per_session": 5})
    assert "T1: guardrail mean tracks per session is broken." in lines


def test_the_users_are_compared_with_the_plan() -> None:
    analysis = analyse(replace(clean(), exposed=np.array([1200, 1000])), settings(split=[2, 1]))
    cells = users_table(analysis).record()
    assert cells["planned share"] == ["66.7%", "33.3%"]
    assert cells["share"] == ["54.5%", "45.5%"]
    assert cells["users in the log"] == ["1,200", "1,000"]
    assert "differs from the plan" in split_sentence(analysis)
