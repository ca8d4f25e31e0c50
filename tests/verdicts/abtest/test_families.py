"""Families of tests: the primary metric alone, gatekeeping, and intervals that agree with p-values."""

from dataclasses import replace

import numpy as np
import pytest

from segue.statistics.holm import holm
from segue.verdicts.abtest.analysis import analyse
from segue.verdicts.abtest.families import decide
from segue.verdicts.abtest.metrics import METRICS
from segue.verdicts.abtest.users import Users
from tests.statistics.rates import repeat, skewed, within_four_standard_errors
from tests.verdicts.abtest.users import settings, users_of

PRIMARY = "mean_time_per_session"
SECONDARY = [metric for metric in METRICS if metric not in (PRIMARY, "fallback_percent")]


def p_values(*of_metric: float) -> dict[tuple[str, str], float]:
    """Of one treatment: the primary metric, then the secondary ones."""
    return dict(zip([("T1", metric) for metric in (PRIMARY, *SECONDARY)], of_metric, strict=True))


def test_the_primary_metric_is_tested_alone() -> None:
    decisions = decide(p_values(0.04, 0.9, 0.9, 0.9, 0.9), settings())
    assert decisions["T1", PRIMARY].significant
    assert (decisions["T1", PRIMARY].holm_p_value, decisions["T1", PRIMARY].alpha) == (0.04, 0.05)
    in_one_family = holm([0.04, 0.9, 0.9, 0.9, 0.9])
    assert in_one_family[0] > 0.05, "with the family broken, four irrelevant metrics would hide the effect"


def test_secondary_metrics_are_tested_only_after_a_significant_primary_effect() -> None:
    closed, opened = (decide(p_values(p, 1e-9, 0.02, 0.9, np.nan), settings()) for p in (0.06, 0.04))
    assert not any(one.significant for (_, metric), one in closed.items() if metric in SECONDARY)
    assert np.isnan([closed["T1", metric].holm_p_value for metric in SECONDARY]).all()
    assert opened["T1", SECONDARY[0]].significant
    assert opened["T1", SECONDARY[1]].holm_p_value == pytest.approx(0.04), "two tests are left, and nan is none"


def test_a_closed_gate_of_one_treatment_does_not_make_the_tests_of_another_more_lenient() -> None:
    both = {("T1", PRIMARY): 1e-9, ("T2", PRIMARY): 0.5, ("T1", "time"): 0.03, ("T2", "time"): 0.001}
    decisions = decide(both, settings())
    assert decisions["T1", "time"].holm_p_value == pytest.approx(0.06)
    assert np.isnan(decisions["T2", "time"].holm_p_value)


def experiment(rng: np.random.Generator, lifts: tuple[float, ...], num: int = 300) -> Users:
    """Users with several sessions; the arms differ in time and in the number of sessions."""
    arm_of = rng.permutation(np.arange(num) % (1 + len(lifts)))
    sessions = 1 + rng.poisson(3, num)
    time = sessions * skewed(rng, num) * (1 + np.array([0.0, *lifts])[arm_of])
    users = users_of(time, arm_of, ("C", *(f"T{number}" for number in range(1, 1 + len(lifts)))))
    return replace(users, sessions=sessions, tracks=sessions * (2 + rng.poisson(4, num)), latency_ms=rng.random(num))


@pytest.mark.parametrize("lifts", [(0.3,), (0.3, 0.0), (0.15, 0.3, 0.0)])
def test_intervals_and_p_values_agree(lifts: tuple[float, ...]) -> None:
    rng, outcomes = np.random.default_rng(5), set()
    for _ in range(40):
        for effect in analyse(experiment(rng, lifts), settings()).effects:
            excludes_0 = effect.relative.lower_percent > 0 or effect.relative.upper_percent < 0
            if np.isfinite(effect.holm_p_value):
                assert (effect.decision in ("better", "worse")) == excludes_0 == (effect.holm_p_value < 0.05)
                outcomes.add((effect.family, excludes_0))
    assert len(outcomes) == 4, "both families have effects that are significant and effects that are not"


def test_without_an_effect_any_false_alarm_of_both_families_is_as_rare_as_alpha_and_only_with_the_gate() -> None:
    """The gate is broken on purpose: each family alone keeps its level, but not both together."""
    rng, num = np.random.default_rng(6), 800
    alarms, alarms_without_gate = 0, 0
    for effects in repeat(num, lambda: analyse(experiment(rng, (0.0,)), settings()).effects):
        alarms += any(effect.is_clear for effect in effects)
        primary, *secondary = [effect.p_value for effect in effects]
        alarms_without_gate += primary < 0.05 or min(holm(secondary)) < 0.05
    assert within_four_standard_errors(alarms, 0.05, num)
    assert not within_four_standard_errors(alarms_without_gate, 0.05, num)
