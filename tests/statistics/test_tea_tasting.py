"""A second oracle for the A/B statistics: the library tea-tasting, on synthetic users."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tea_tasting

from segue.statistics.intervals import GroupSummary, welch
from segue.verdicts.abtest.analysis import analyse
from segue.verdicts.abtest.result import Analysis
from tests.verdicts.abtest.users import pre_period, settings, users_of

NUM = 4000
METRIC = "time"


@pytest.fixture(scope="module", params=[(1, 0.0), (2, 0.15), (3, -0.05)], ids=["A/A", "better", "worse"])
def both(request: pytest.FixtureRequest) -> tuple[Analysis, Any]:
    """Results of Segue and of tea-tasting on the same users, three fifths of them in the control."""
    seed, lift = request.param
    rng = np.random.default_rng(seed)
    habit, arm_of = rng.gamma(2.0, 2.0, NUM), (rng.random(NUM) < 0.4).astype(np.int64)
    time = habit * (1 + lift * arm_of) + rng.gamma(1.0, 1.0, NUM)
    ours = analyse(users_of(time, arm_of), settings(primary=METRIC), pre_period(users_of(habit, arm_of)))
    experiment = tea_tasting.Experiment(
        plain=tea_tasting.Mean("time", use_t=True, equal_var=False),
        cuped=tea_tasting.Mean("time", "habit", use_t=True, equal_var=False),
    )
    data = pd.DataFrame({"variant": arm_of, "time": time, "habit": habit})
    return ours, experiment.analyze(data)


def test_welchs_difference_equals_that_of_tea_tasting(both: tuple[Analysis, Any]) -> None:
    """The formula is the same, therefore the numbers differ by rounding only."""
    ours, theirs = both[0].effect("T1", METRIC), both[1]["plain"]
    percent = 100 / theirs.control
    assert (ours.control_mean, ours.treatment_mean) == pytest.approx((theirs.control, theirs.treatment))
    assert ours.effect_percent == pytest.approx(100 * theirs.rel_effect_size)
    assert ours.lower_percent == pytest.approx(percent * theirs.effect_size_ci_lower)
    assert ours.upper_percent == pytest.approx(percent * theirs.effect_size_ci_upper)
    assert ours.p_value == pytest.approx(theirs.pvalue)


def test_the_relative_interval_equals_that_of_tea_tasting_to_second_order(both: tuple[Analysis, Any]) -> None:
    """Segue uses Fieller's interval, tea-tasting the delta method on the logarithm: they differ by terms of width²."""
    ours, theirs = both[0].effect("T1", METRIC), both[1]["plain"]
    bounds = (100 * theirs.rel_effect_size_ci_lower, 100 * theirs.rel_effect_size_ci_upper)
    width = bounds[1] - bounds[0]
    assert (ours.relative.lower_percent, ours.relative.upper_percent) == pytest.approx(bounds, abs=width**2 / 100)
    assert width**2 / 100 < 0.1 * width


def test_cuped_equals_that_of_tea_tasting_up_to_the_estimate_of_the_slope(both: tuple[Analysis, Any]) -> None:
    """Segue pools the slope within arms, tea-tasting over all users; Fieller's interval or the delta method."""
    ours, theirs = both[0].effect("T1", METRIC), both[1]["cuped"]
    assert ours.cuped_variance_saved_percent > 50
    bounds = (100 * theirs.rel_effect_size_ci_lower, 100 * theirs.rel_effect_size_ci_upper)
    tolerance = 0.02 * (bounds[1] - bounds[0])
    assert ours.cuped.effect_percent == pytest.approx(100 * theirs.rel_effect_size, abs=tolerance)
    assert (ours.cuped.lower_percent, ours.cuped.upper_percent) == pytest.approx(bounds, abs=tolerance)


def test_the_ratio_of_sums_equals_that_of_tea_tasting(ratios: tuple[Analysis, Any, Any]) -> None:
    ours, theirs, (control, treatment) = ratios
    effect = ours.effect("T1", "mean_time_per_session")
    sheet = welch(control, treatment, 0.05)
    assert (control.mean, treatment.mean) == pytest.approx((theirs.control, theirs.treatment))
    percent = 100 / theirs.control
    assert sheet.lower_percent == pytest.approx(percent * theirs.effect_size_ci_lower, rel=1e-3)
    assert sheet.upper_percent == pytest.approx(percent * theirs.effect_size_ci_upper, rel=1e-3)
    assert effect.ratio.effect_percent == pytest.approx(100 * theirs.rel_effect_size)
    assert effect.ratio.p_value == pytest.approx(theirs.pvalue, rel=0.01)
    bounds = (100 * theirs.rel_effect_size_ci_lower, 100 * theirs.rel_effect_size_ci_upper)
    tolerance = (bounds[1] - bounds[0]) ** 2 / 100
    assert (effect.ratio.lower_percent, effect.ratio.upper_percent) == pytest.approx(bounds, abs=tolerance)


@pytest.fixture(scope="module")
def ratios() -> tuple[Analysis, Any, Any]:
    """Users with different numbers of sessions: Segue, tea-tasting, and the summaries of both arms."""
    rng = np.random.default_rng(5)
    arm_of, sessions = (rng.random(NUM) < 0.4).astype(np.int64), 1 + rng.poisson(4, NUM)
    time = sessions * rng.gamma(2.0, 2.0, NUM) * (1 + 0.1 * arm_of)
    ours = analyse(replace(users_of(time, arm_of), sessions=sessions), settings())
    data = pd.DataFrame({"variant": arm_of, "time": time, "sessions": sessions})
    ratio = tea_tasting.RatioOfMeans("time", "sessions", use_t=True, equal_var=False)
    summaries = [
        GroupSummary.of_ratio(time[arm_of == arm], sessions[arm_of == arm].astype(np.float64)) for arm in (0, 1)
    ]
    return ours, tea_tasting.Experiment(ratio=ratio).analyze(data)["ratio"], summaries
