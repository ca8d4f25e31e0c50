"""The wording of the verdict."""

from dataclasses import replace

import numpy as np

from segue.reports.markdown import document
from segue.reports.numbers import interval
from segue.verdicts.abtest.analysis import analyse
from segue.verdicts.abtest.report import blocks, methods_table
from segue.verdicts.abtest.verdict import doubts
from tests.verdicts.abtest.users import settings, users_of


def test_the_verdict_is_withheld_if_the_split_of_users_differs_from_the_plan() -> None:
    rng = np.random.default_rng(0)
    analysis = analyse(users_of(rng.exponential(size=3000), np.arange(3000) < 1800), settings())
    assert analysis.is_withheld
    assert analysis.verdicts["T1"].startswith(
        "withheld: the split of the users over the arms differs from the plan (p < 0.0001), "
    )
    assert analysis.verdicts["T1"].endswith("is not valid")
    as_planned = analyse(users_of(rng.exponential(size=3000), np.arange(3000) < 1800), settings(split=[2.0, 3.0]))
    assert not as_planned.is_withheld


def test_a_split_that_the_exclusions_make_unequal_is_noticed() -> None:
    """All users of the log are split as planned; the faults of the treatment leave fewer of it to compare."""
    users = users_of(np.random.default_rng(0).exponential(size=2000), np.arange(2000) < 850)
    analysis = analyse(replace(users, exposed=np.array([1150, 1150])), settings())
    assert analysis.exposure_p_value == 1
    assert analysis.verdicts["T1"].startswith("withheld: the split of the users over the arms differs from the plan")


def test_the_effects_of_a_withheld_verdict_are_not_emphasised() -> None:
    arm_of = np.arange(3000) < 1800
    users = users_of(np.random.default_rng(0).exponential(size=3000) * (1 + arm_of), arm_of)
    withheld, shown = (document(blocks(analyse(users, settings(split=split)))) for split in (None, [2.0, 3.0]))
    assert "| better |" in withheld
    assert "| **better** |" not in withheld
    assert "| **better** |" in shown


def test_a_split_that_only_the_exclusions_repair_is_noticed() -> None:
    """Faults of the treatment remove users until the arms are equal again: the users of the log are counted first."""
    rng = np.random.default_rng(0)
    users = users_of(rng.exponential(size=2000), np.arange(2000) % 2)
    analysis = analyse(replace(users, exposed=np.array([1000, 1300])), settings())
    assert analysis.sample_ratio_p_value > 0.9
    assert analysis.verdicts["T1"].startswith("withheld: the split of the users over the arms differs from the plan")


def test_the_verdict_is_worded_from_fiellers_interval_and_not_from_the_sheets() -> None:
    rng = np.random.default_rng(6)
    arm_of = np.arange(400) % 2
    analysis = analyse(users_of(rng.exponential(size=400) * (1 + arm_of), arm_of), settings())
    effect, sentence = analysis.effect("T1", "mean_time_per_session"), analysis.verdicts["T1"]
    assert sentence.endswith(interval(effect.relative.lower_percent, effect.relative.upper_percent, "+.1f"))
    assert interval(effect.lower_percent, effect.upper_percent, "+.1f") not in sentence


def test_a_treatment_is_better_than_a_control_whose_mean_is_0_although_there_is_no_percent_of_0() -> None:
    arm_of = np.arange(400) % 2
    analysis = analyse(users_of(np.random.default_rng(7).random(400) * arm_of, arm_of), settings())
    treatment = analysis.effect("T1", "mean_time_per_session").treatment_mean
    assert analysis.verdicts["T1"] == f"better than C in mean time per session: 0 in C, {treatment:.4g} in T1"
    assert all(effect["better"] for effect in analysis.record()["effects"] if effect["decision"] == "better")
    assert [row.method for row in analysis.methods["T1"]] == ["mean of users"]
    assert not any("disagrees" in line for line in doubts(analysis))


def test_a_primary_metric_whose_values_do_not_vary_has_no_test() -> None:
    users = users_of(np.random.default_rng(8).random(400), np.arange(400) % 2)
    analysis = analyse(users, settings(primary="mean_request_latency"))
    assert analysis.verdicts["T1"] == "no test of the difference from C: no value of mean request latency varies"
    assert doubts(analysis)
    assert [row[3] for row in methods_table(analysis, "+.1f").rows] == ["–"]


def test_a_higher_latency_is_worse() -> None:
    rng = np.random.default_rng(4)
    arm_of = np.arange(400) % 2
    users = replace(users_of(rng.random(400), arm_of), latency_ms=rng.random(400) + arm_of)
    analysis = analyse(users, settings(primary="mean_request_latency"))
    assert analysis.verdicts["T1"].startswith("worse than C in mean request latency: +")


def test_a_verdict_without_a_significant_effect_names_the_effect_that_would_be_detected() -> None:
    rng = np.random.default_rng(5)
    analysis = analyse(users_of(rng.exponential(size=400), np.arange(400) % 2), settings())
    detectable = analysis.effect("T1", "mean_time_per_session").minimal_detectable_percent
    assert analysis.verdicts["T1"].startswith("no significant difference from C in mean time per session: ")
    assert analysis.verdicts["T1"].endswith(f"an effect of {detectable:.1f} % is detected with probability 0.8")
