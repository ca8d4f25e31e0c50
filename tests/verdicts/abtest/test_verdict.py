"""The wording of the verdict, and what could be wrong: each check finds its fault, and a clean test has none."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from segue.verdicts.abtest.analysis import analyse
from segue.verdicts.abtest.slices import DAY_MS
from segue.verdicts.abtest.users import Users, sums_of_users
from segue.verdicts.abtest.verdict import bounds, doubts, users_table
from tests.verdicts.abtest.users import settings, users_of

ARM_OF = np.arange(2000) % 2
PRIMARY = "mean_time_per_session"


def users(lift: float = 0.0, num: int = 2000) -> Users:
    """Users of a week, whose time per session is longer in the treatment."""
    values = np.random.default_rng(1).exponential(size=num) * (1 + lift * ARM_OF[:num])
    found = users_of(values, ARM_OF[:num])
    return replace(found, last_ms=found.first_ms + 7 * DAY_MS)


@pytest.mark.parametrize(
    ("split", "exposed", "is_withheld"),
    [
        (None, [1200, 1800], True),
        ([2.0, 3.0], [1200, 1800], False),
        (None, [1000, 1300], True),  # the exclusions have made the arms equal again
    ],
)
def test_the_verdict_is_withheld_if_the_split_of_users_differs_from_the_plan(
    split: Any, exposed: list[int], is_withheld: bool
) -> None:
    arm_of = np.arange(3000) >= exposed[0] * 3000 // sum(exposed) if exposed[1] == 1800 else np.arange(2000) % 2
    found = users_of(np.random.default_rng(0).exponential(size=len(arm_of)) * (1 + arm_of), arm_of)
    analysis = analyse(replace(found, exposed=np.array(exposed)), settings(split=split))
    words = "withheld: the split of the users over the arms differs from the plan (p < 0.0001), therefore"
    assert analysis.verdicts["T1"].startswith(words if is_withheld else "better than C")
    assert analysis.is_withheld == is_withheld
    assert any("not split as planned" in line for line in doubts(analysis)) == is_withheld
    assert users_table(analysis).record()["users in the log"] == [f"{count:,}" for count in exposed]


def test_the_verdict_is_worded_from_fiellers_interval() -> None:
    analysis = analyse(users(1.0), settings())
    effect = analysis.primary("T1")
    assert analysis.verdicts["T1"] == (
        f"better than C in mean time per session: {effect.effect_percent:+.1f} % {bounds(effect.relative)}"
    )
    assert bounds(effect) not in analysis.verdicts["T1"]


def test_a_treatment_is_better_than_a_control_whose_mean_is_0_although_there_is_no_percent_of_0() -> None:
    analysis = analyse(users_of(np.random.default_rng(7).random(400) * ARM_OF[:400], ARM_OF[:400]), settings())
    treatment = analysis.primary("T1").treatment_mean
    assert analysis.verdicts["T1"] == f"better than C in mean time per session: 0 in C, {treatment:.4g} in T1"
    assert all(effect["better"] for effect in analysis.record()["effects"] if effect["decision"] == "better")
    assert analysis.methods("T1") == {}


def test_a_primary_metric_whose_values_do_not_vary_has_no_test_and_a_higher_latency_is_worse() -> None:
    analysis = analyse(users(), settings(primary="mean_request_latency"))
    assert analysis.verdicts["T1"] == "no test of the difference from C: no value of mean request latency varies"
    slow = replace(users(), latency_ms=np.random.default_rng(4).random(2000) + ARM_OF)
    analysis = analyse(slow, settings(primary="mean_request_latency"))
    assert analysis.verdicts["T1"].startswith("worse than C in mean request latency: +")


def test_a_verdict_without_a_significant_effect_names_the_effect_that_would_be_detected() -> None:
    analysis = analyse(users(), settings())
    detectable = analysis.primary("T1").minimal_detectable_percent
    assert analysis.verdicts["T1"].startswith("no significant difference from C in mean time per session: ")
    assert analysis.verdicts["T1"].endswith(f"an effect of {detectable:.1f} % is detected with probability 0.8")


def test_a_clean_test_names_the_checks_that_found_nothing() -> None:
    _, clean = doubts(analyse(users(), settings()))
    assert clean == (
        "Checked, and nothing found: split of the users, unfinished sessions, ratio of sums, guardrails, faults of the "
        "log, length of the log."
    )


def cut(found: Users) -> Users:
    """Every ninth session is cut off, in the treatment only."""
    each = replace(found.each, is_finished=(np.arange(len(found)) % 9 > 0) | (found.arm_of == 0))
    return replace(found, each=each, **sums_of_users(each.where(each.is_finished)))


def uneven(found: Users) -> Users:
    """The treatment helps users with one session and harms those with nine."""
    sessions = np.where(np.arange(2000) % 4 < 2, 1, 9)
    time = sessions * np.random.default_rng(2).gamma(20, 0.1, 2000)
    return replace(found, sessions=sessions, time=time * np.where(ARM_OF, np.where(sessions == 1, 2.0, 0.7), 1.0))


def tracks(found: Users) -> Users:
    return replace(found, tracks=np.where(ARM_OF, 4, 5) + np.arange(2000) % 3)


@pytest.mark.parametrize(
    ("change", "check", "sentence"),
    [
        (cut, "unfinished sessions", r"Sessions without a `last`: C 0, T1 \d+ \(test of an equal share, T1: p < 0"),
        (uneven, "ratio of sums", r"T1: the ratio of sums \(-.* %\) is outside the interval of the mean of users"),
        (tracks, "guardrails", r"T1: guardrail mean tracks per session is broken\."),
        (lambda found: replace(found, guards={"users_in_two_arms": 3}), "faults of the log", "3 users who were in two"),
        (lambda found: replace(found, last_ms=found.first_ms + 300_000), "length of the log", "The log covers 5 min"),
    ],
)
def test_each_check_finds_its_fault(change: Callable[[Users], Users], check: str, sentence: str) -> None:
    first, *_, clean = doubts(analyse(change(users()), settings(guardrails={"mean_tracks_per_session": 5})))
    assert re.match(sentence, first)
    assert check not in clean
