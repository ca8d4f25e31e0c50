"""Guardrails: what holds, what is broken, and that they do not change the primary family."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segue.statistics.holm import holm
from segue.verdicts.abtest.analysis import analyse
from segue.verdicts.abtest.log import read_users
from segue.verdicts.abtest.report import effects_table
from segue.verdicts.abtest.result import Analysis
from segue.verdicts.abtest.users import Users
from segue.verdicts.abtest.verdict import doubts
from tests.statistics.rates import repeat, within_four_standard_errors
from tests.verdicts.abtest.test_log import CLEAN, READING, log
from tests.verdicts.abtest.users import settings, users_of

LATENCY = "mean_request_latency"


def experiment(rng: np.random.Generator, latency: float, num: int = 400, *, fallbacks: float = 0.0) -> Users:
    """Users whose latency in the treatment is a multiple of that in the control, and whose time is the same."""
    arm_of = np.arange(num) % 2
    users = users_of(rng.exponential(size=num), arm_of)
    given = rng.binomial(100, np.where(arm_of == 1, fallbacks, 0.0))
    each = replace(users.each, fallbacks=given)
    return replace(
        users,
        tracks=np.full(num, 100),
        latency_ms=100 * rng.gamma(25, 0.04, num) * np.where(arm_of == 1, latency, 1.0),
        fallbacks=given,
        each=each,
    )


def run(users: Users, guardrails: dict[str, Any]) -> Analysis:
    return analyse(users, settings(guardrails=guardrails))


@pytest.mark.parametrize(
    ("latency", "decision", "words"),
    [
        (1.0, "holds", "; guardrail mean request latency holds"),
        (0.5, "holds", "; guardrail mean request latency holds"),
        (1.1, "not shown", "; guardrail mean request latency is not shown to hold: +"),
        (1.3, "broken", "; guardrail mean request latency is broken: +"),
    ],
)
def test_a_guardrail_holds_if_its_interval_is_better_than_the_margin(latency: float, decision: str, words: str) -> None:
    analysis = run(experiment(np.random.default_rng(1), latency), {LATENCY: 10})
    effect = analysis.effect("T1", LATENCY)
    assert (effect.family, effect.decision, effect.margin) == ("guardrail", decision, 10)
    assert (effect.relative.upper_percent < 10) == (decision == "holds") == (effect.holm_p_value < 0.05)
    assert (effect.relative.lower_percent > 10) == (decision == "broken")
    assert words in analysis.verdicts["T1"]
    assert ("margin 10 %" in analysis.verdicts["T1"]) == (decision != "holds")
    assert any("guardrail, margin 10 %" in str(row[1]) for row in effects_table(analysis).rows)


def test_a_guardrail_of_a_metric_where_more_is_better_is_broken_by_a_loss() -> None:
    rng = np.random.default_rng(2)
    users = users_of(rng.exponential(size=400), np.arange(400) % 2)
    tracks = rng.poisson(50, 400)
    for lift, decision in ((1.0, "holds"), (2.0, "holds"), (0.8, "broken")):
        changed = replace(users, tracks=np.where(users.arm_of == 1, (tracks * lift).astype(np.int64), tracks))
        effect = run(changed, {"mean_tracks_per_session": 5}).effect("T1", "mean_tracks_per_session")
        assert effect.decision == decision


@pytest.mark.parametrize(("share", "decision"), [(0.0, "no test"), (0.002, "holds"), (0.05, "broken")])
def test_fallbacks_are_compared_in_percentage_points_because_the_control_may_have_none(
    share: float, decision: str
) -> None:
    users = experiment(np.random.default_rng(3), 1.0, fallbacks=share)
    analysis = run(users, {"fallback_percent": 1, LATENCY: 10})
    decisions = {effect.metric: effect.decision for effect in analysis.effects}
    assert decisions.get("fallback_percent", "no test") == decision
    if share:
        effect = analysis.effect("T1", "fallback_percent")
        assert effect.effect_percent == pytest.approx(users.fallbacks[users.arm_of == 1].mean())
        assert effect.unit == "points"
        assert ("all guardrails hold" in analysis.verdicts["T1"]) == (decision == "holds")


def test_a_treatment_that_always_falls_back_breaks_the_guardrail_although_no_value_varies() -> None:
    users = experiment(np.random.default_rng(9), 1.0)
    given = 100 * users.arm_of
    users = replace(users, fallbacks=given, each=replace(users.each, fallbacks=given))
    analysis = run(users, {"fallback_percent": 1})
    assert analysis.effect("T1", "fallback_percent").decision == "broken"
    assert "guardrail fallback percent is broken: +100.0 points –, margin 1 points" in analysis.verdicts["T1"]
    assert "T1: guardrail fallback percent is broken." in doubts(analysis)


def test_fallbacks_are_read_from_the_log(tmp_path: Path) -> None:
    lines = [{**line, "fallback": "popular" if line["user"] == 3 else None} for line in CLEAN if isinstance(line, dict)]
    users = read_users(log(tmp_path, list(lines)), experiment="TEST", max_rejected=0.0, **READING)
    assert users.fallbacks.tolist() == [0, 0, 2, 0]
    assert not read_users(log(tmp_path, CLEAN), experiment="TEST", max_rejected=0.0, **READING).fallbacks.any()


def test_guardrails_are_a_family_of_their_own() -> None:
    """Neither the primary test nor the correction of a secondary metric depends on them, nor they on the gate."""
    users = experiment(np.random.default_rng(4), 1.0)
    users = replace(users, sessions=1 + np.random.default_rng(5).poisson(3, 400))
    without, with_two = (run(users, guardrails) for guardrails in ({}, {LATENCY: 10, "sessions": 20}))
    primary = "mean_time_per_session"
    assert without.effect("T1", primary).holm_p_value == with_two.effect("T1", primary).holm_p_value
    assert with_two.effect("T1", primary).decision == "not significant"
    assert with_two.effect("T1", LATENCY).holm_p_value < 1, "the gate is closed, and guardrails are tested"
    p_values = [with_two.effect("T1", metric).holm_p_value for metric in (LATENCY, "sessions")]
    alone = [run(users, {m: n}).effect("T1", m).holm_p_value for m, n in ((LATENCY, 10), ("sessions", 20))]
    assert p_values != alone
    assert sorted(p_values) == pytest.approx(sorted(holm(alone)))


def test_a_metric_at_its_margin_passes_as_often_as_the_level_says() -> None:
    rng, num = np.random.default_rng(6), 400
    decisions = repeat(num, lambda: run(experiment(rng, 1.1, 100), {LATENCY: 10}).effect("T1", LATENCY).decision)
    assert within_four_standard_errors(decisions.count("holds"), 0.025, num)
