"""The A/B analysis: the published sheet in a slow loop, independent libraries, and its promises."""

import gzip
import json
import math
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import tt_ind_solve_power

from src.abtest import analysis as abtest
from src.abtest.analysis import Analysis, Effect, Sample, Settings, analyse
from src.abtest.log import Users, read_users
from src.errors import InputError
from tests.conftest import event, write_lines


def settings(**changes: Any) -> Settings:
    usual: dict[str, Any] = {
        "alpha": 0.05,
        "power": 0.8,
        "primary": "mean_time_per_session",
        "split": None,
        "relative": True,
        "correction": True,
        "sample_ratio": True,
        "sizing": True,
        "always_valid_percent": 10.0,
        "bootstrap_rounds": 200,
        "seed": 0,
    }
    return Settings(**{**usual, **changes})


def users_of(time: Any, arm_of: Any, arms: tuple[str, ...] = ("C", "T1"), user_ids: Any = None) -> Users:
    """Users with one session each, in which they played `time`."""
    num = len(time)
    return Users(
        experiment="TEST",
        arms=list(arms),
        user_ids=np.arange(num) if user_ids is None else np.asarray(user_ids, np.int64),
        arm_of=np.asarray(arm_of, np.int64),
        sessions=np.ones(num, np.int64),
        tracks=np.full(num, 5),
        time=np.asarray(time, np.float64),
        latency_ms=np.zeros(num),
        guards={},
        first_ms=1000,
        last_ms=2000,
        timeline=pd.DataFrame(),
        lengths=pd.DataFrame(),
        num_events=num,
    )


def slow_sheet(lines: list[dict[str, Any]], experiment: str) -> dict[tuple[str, str], dict[str, float]]:
    """The published sheet, one event at a time."""
    by_user = defaultdict(list)
    for line in lines:
        if experiment in line["experiments"]:
            by_user[line["user"]].append(line)
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for events in by_user.values():
        events.sort(key=lambda line: line["timestamp"])
        sessions = 1
        for before in events[:-1]:
            sessions += before["message"] == "last"
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


def test_the_published_sheet_on_the_real_log(real_data: Path) -> None:
    folder = real_data / "botify-2023" / "logs"
    users = read_users(folder, experiment="MY_RECOMMENDER", max_rejected=0.01)
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


def log(folder: Path, lines: list[dict[str, Any] | str]) -> Path:
    write_lines(folder / "data.json", lines)
    return folder


def session(
    user: int, start: int, shares: tuple[float, ...] = (1.0, 0.5), arm: str = "C"
) -> list[dict[str, Any] | str]:
    lines: list[dict[str, Any] | str] = []
    for step, share in enumerate(shares):
        message = "last" if step == len(shares) - 1 else "next"
        lines.append({**event(user, start + step, 100 + step, share, message), "experiments": {"TEST": arm}})
    return lines


CLEAN = [*session(1, 0), *session(2, 0), *session(3, 0, arm="T1"), *session(4, 0, arm="T1")]


@pytest.mark.parametrize(
    ("more", "guard", "count", "users"),
    [
        (session(5, 0) + session(5, 100, arm="T1"), "users_in_two_arms", 1, [1, 2, 3, 4]),
        (session(1, 0), "duplicate_lines", 2, [1, 2, 3, 4]),
        (session(1, 100, (1.0, 1.5)), "sessions_with_bad_shares", 1, [1, 2, 3, 4]),
        (session(1, 100, (1.0, -0.5, 0.5)), "sessions_with_bad_shares", 1, [1, 2, 3, 4]),
        (session(1, 100, (0.5,)), "ends_without_session", 1, [1, 2, 3, 4]),
        (session(1, 100, (1.0, 0.5, 0.5))[:2], "sessions_without_end", 1, [1, 2, 3, 4]),
        (session(1, -100), "lines_behind_the_clock", 1, [1, 2, 3, 4]),
        (["{", *[*session(1, 100)] * 0], "lines_rejected", 1, [1, 2, 3, 4]),
        ([{**event(9, 0, 100), "experiments": {"OTHER": "C"}}], "lines_of_other_experiments", 1, [1, 2, 3, 4]),
    ],
)
def test_what_cannot_be_believed_is_counted_and_left_out(
    tmp_path: Path, more: list[Any], guard: str, count: int, users: list[int]
) -> None:
    read = read_users(log(tmp_path, [*CLEAN, *more]), experiment="TEST", max_rejected=0.2)
    assert {name: number for name, number in read.guards.items() if number} == {guard: count}
    assert read.user_ids.tolist() == users
    extra = 2 if guard == "lines_behind_the_clock" else 1  # only there a whole good session was added
    assert read.sessions.tolist() == [extra, 1, 1, 1]
    assert read.time.tolist() == [1.5 * extra, 1.5, 1.5, 1.5]


def test_files_of_replicas_and_rotations_are_one_log(tmp_path: Path) -> None:
    for number, name in enumerate(("a/data.json", "b/data.json", "b/data.json.1")):
        write_lines(tmp_path / name, CLEAN[number * 2 : number * 2 + 2] if number < 2 else CLEAN[4:])
    assert len(read_users(tmp_path, experiment=None, max_rejected=0.0)) == 4


@pytest.mark.parametrize(
    ("lines", "experiment", "message"),
    [
        (None, None, "no such folder"),
        ([], None, "the logs are empty"),
        (CLEAN[:4], None, r"has one arm only \(C\); a comparison needs two"),
        (CLEAN, "OTHER", r"experiment=OTHER is not in .*; it has TEST"),
        (
            [*CLEAN, {**event(9, 0, 100), "experiments": {"B": "C"}}],
            None,
            r"has several experiments; choose experiment=B or TEST",
        ),
        ([*session(1, 0, arm="T1"), *session(2, 0, arm="T2")], None, "has no arm C to compare with, only T1, T2"),
        (["{", "["], None, "2 of 2 lines are no events, more than max_rejected=0.01 allows"),
        ([{**event(9, 0, 100), "experiments": {}}], None, "no line names an experiment"),
    ],
)
def test_a_log_that_cannot_be_used_is_one_line(
    tmp_path: Path, lines: list[Any] | None, experiment: str | None, message: str
) -> None:
    if lines is not None:
        log(tmp_path / "logs", lines)
    with pytest.raises(InputError, match=message):
        read_users(tmp_path / "logs", experiment=experiment, max_rejected=0.01)


def test_a_folder_without_logs_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no data\.json in it or below"):
        read_users(tmp_path, experiment=None, max_rejected=0.01)


def test_a_compressed_log_is_read_and_one_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    whole = gzip.compress("".join(json.dumps(line) + "\n" for line in CLEAN).encode())
    path = tmp_path / "data.json.gz"
    path.write_bytes(whole)
    assert len(read_users(tmp_path, experiment=None, max_rejected=0.0)) == 4
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"data\.json\.gz is no whole gzip file"):
        read_users(tmp_path, experiment=None, max_rejected=0.0)


def test_an_arm_with_one_user_cannot_be_compared() -> None:
    with pytest.raises(InputError, match="arm T1 of experiment TEST has 1 user"):
        analyse(users_of([1.0, 2.0, 3.0], [0, 0, 1]), settings())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alpha": 0}, "analysis.alpha must be a number above 0"),
        ({"power": 0.2}, "analysis.power must be a number of at least 0.5"),
        ({"primary": "clicks"}, "analysis.primary must be one of mean_time_per_session"),
        ({"split": [1.0, -1.0]}, "analysis.split must be a number above 0"),
        ({"bootstrap_rounds": -1}, "analysis.bootstrap_rounds must be a whole number"),
        ({"always_valid_percent": 0}, "analysis.always_valid_percent must be a number above 0"),
    ],
)
def test_settings_out_of_bounds_are_refused(changes: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        settings(**changes)


def test_a_split_needs_a_share_for_each_arm() -> None:
    with pytest.raises(InputError, match=r"analysis\.split has 3 shares for the 2 arms C, T1"):
        analyse(users_of([1.0, 2.0, 3.0, 4.0], [0, 0, 1, 1]), settings(split=[1.0, 1.0, 1.0]))


def test_holm_agrees_with_statsmodels() -> None:
    p_values = np.random.default_rng(0).random(12) ** 3
    assert abtest.holm(p_values.tolist()) == pytest.approx(multipletests(p_values, method="holm")[1])


def test_holm_multiplies_by_the_tests_that_are_left() -> None:
    assert abtest.holm([0.01, float("nan"), 0.04, 0.03]) == pytest.approx([0.03, float("nan"), 0.06, 0.06], nan_ok=True)


def test_users_that_split_wrongly_withhold_the_verdict() -> None:
    rng = np.random.default_rng(0)
    analysis = analyse(users_of(rng.exponential(size=3000), np.arange(3000) < 1800), settings())
    assert analysis.is_withheld
    assert analysis.verdicts["T1"].startswith("withheld: users do not split over the arms as planned")
    as_planned = analyse(users_of(rng.exponential(size=3000), np.arange(3000) < 1800), settings(split=[2.0, 3.0]))
    assert not as_planned.is_withheld


def test_the_detectable_effect_agrees_with_an_independent_calculation() -> None:
    sample = Sample(num=500, mean=4.0, variance=9.0)
    found = abtest.minimal_detectable_effect(sample, sample, 0.05, 0.8)
    needed = tt_ind_solve_power(nobs1=500, alpha=0.05, power=0.8) * 3 / 4 * 100
    assert found == pytest.approx(needed, rel=2e-3)


def test_the_users_needed_find_the_effect_they_are_needed_for() -> None:
    rng = np.random.default_rng(1)
    analysis = analyse(users_of(rng.normal(4, 3, 1000), np.arange(1000) % 2), settings())
    effect = analysis.effect("T1", "mean_time_per_session")
    assert effect.users_needed is not None
    grown = Sample(num=effect.users_needed["5"] // 2, mean=effect.control_mean, variance=9.0)
    assert abtest.minimal_detectable_effect(grown, grown, 0.05, 0.8) == pytest.approx(5, rel=0.08)


def test_an_earlier_period_that_foretells_everything_leaves_no_noise() -> None:
    rng = np.random.default_rng(2)
    habit = rng.exponential(3, 2000)
    arm_of = np.arange(2000) % 2
    now = users_of(habit + 0.3 * arm_of + rng.normal(0, 0.1, 2000), arm_of)
    effect = analyse(now, settings(), before(users_of(habit, arm_of))).effect("T1", "mean_time_per_session")
    assert effect.cuped_variance_saved_percent > 99
    assert effect.cuped_upper_percent - effect.cuped_lower_percent < 0.1 * (effect.upper_percent - effect.lower_percent)
    truth = 100 * 0.3 / 3
    assert effect.cuped_lower_percent < truth < effect.cuped_upper_percent


def before(users: Users) -> Users:
    return replace(users, first_ms=0, last_ms=999)


@pytest.mark.parametrize(
    ("earlier", "message"),
    [
        (users_of([1.0, 2.0], [0, 1]), "pre overlaps the experiment: its last event is at 2000 ms"),
        (before(users_of([1.0, 2.0], [0, 1], user_ids=[8, 9])), "pre has none of the experiment's users"),
        (before(users_of([], [])), "pre has no session that ended"),
    ],
)
def test_an_earlier_period_that_cannot_be_used_is_refused(earlier: Users, message: str) -> None:
    with pytest.raises(InputError, match=message):
        analyse(users_of([1.0, 2.0, 3.0, 4.0], [0, 1, 0, 1]), settings(), earlier)


def test_users_who_were_not_there_before_keep_their_values() -> None:
    rng = np.random.default_rng(3)
    values, arm_of = rng.exponential(size=200), np.arange(200) % 2
    taken_off, _ = abtest.adjusted(values, np.where(np.arange(200) < 100, rng.random(200), np.nan), arm_of)
    assert (taken_off[100:] == values[100:]).all()


def test_a_longer_latency_is_worse() -> None:
    rng = np.random.default_rng(4)
    arm_of = np.arange(400) % 2
    users = replace(users_of(rng.random(400), arm_of), latency_ms=rng.random(400) + arm_of)
    analysis = analyse(users, settings(primary="mean_request_latency"))
    assert analysis.verdicts["T1"].startswith("worse than C: mean_request_latency +")


def test_a_control_that_could_be_zero_has_no_relative_interval() -> None:
    assert np.isnan(
        abtest.fieller(Sample(num=10, mean=0.1, variance=9.0), Sample(num=10, mean=1.0, variance=9.0), 0.05)
    ).all()


def test_fieller_agrees_with_the_delta_method_where_means_are_sure() -> None:
    control, treatment = Sample(num=100_000, mean=4.0, variance=9.0), Sample(num=90_000, mean=4.4, variance=10.0)
    ratio = treatment.mean / control.mean
    error = (treatment.squared_error / 16 + ratio**2 * control.squared_error / 16) ** 0.5
    lower, upper = abtest.fieller(control, treatment, 0.05)
    assert lower == pytest.approx(100 * (ratio - 1 - 1.96 * error), abs=1e-2)
    assert upper == pytest.approx(100 * (ratio - 1 + 1.96 * error), abs=1e-2)


# Promises: what the analysis says of itself, on thousands of experiments that were made up.

NUM_EXPERIMENTS, ALPHA = 1500, 0.05


def skewed(rng: np.random.Generator, num: int) -> Any:
    """Time per session of users: 1 + a skewed rest, as listeners have it."""
    return 1 + rng.gamma(0.8, 3.0, num)


def made_up(lift: float, num: int, **changes: Any) -> list[Analysis]:
    rng = np.random.default_rng(7)
    arm_of = np.arange(num) % 2
    quick = settings(bootstrap_rounds=0, **changes)
    return [
        analyse(users_of(skewed(rng, num) * np.where(arm_of, 1 + lift, 1.0), arm_of), quick)
        for _ in range(NUM_EXPERIMENTS)
    ]


def within_four_errors(count: int, promised: float, num: int = NUM_EXPERIMENTS) -> bool:
    return bool(abs(count / num - promised) < 4 * (promised * (1 - promised) / num) ** 0.5)


def primary(analysis: Analysis) -> Effect:
    return analysis.effect("T1", "mean_time_per_session")


@pytest.fixture(scope="module")
def null() -> list[Analysis]:
    """A/A: both arms are the same."""
    return made_up(0.0, 600)


@pytest.fixture(scope="module")
def lifted() -> list[Analysis]:
    """A/B: the treatment is a fifth better."""
    return made_up(0.2, 600)


def test_false_alarms_are_as_rare_as_promised(null: list[Analysis]) -> None:
    assert within_four_errors(sum(primary(one).significant for one in null), ALPHA)


def test_the_whole_family_together_raises_no_more_false_alarms(null: list[Analysis]) -> None:
    alarms = sum(any(effect.holm_significant for effect in one.effects) for one in null)
    assert alarms / NUM_EXPERIMENTS < ALPHA + 4 * (ALPHA * (1 - ALPHA) / NUM_EXPERIMENTS) ** 0.5


@pytest.mark.parametrize("truth", [0.0, 20.0])
def test_relative_intervals_hold_the_truth_as_often_as_promised(
    null: list[Analysis], lifted: list[Analysis], truth: float
) -> None:
    experiments = [primary(one) for one in (lifted if truth else null)]
    held = sum(one.relative_lower_percent < truth < one.relative_upper_percent for one in experiments)
    assert within_four_errors(held, 1 - ALPHA)


def test_the_sheets_interval_is_too_narrow_where_there_is_an_effect(lifted: list[Analysis]) -> None:
    """Why there is a second interval: holding the control mean for a constant leaves part of the noise out."""
    experiments = [primary(one) for one in lifted]
    sheet = np.mean([one.upper_percent - one.lower_percent for one in experiments])
    assert np.mean([one.relative_upper_percent - one.relative_lower_percent for one in experiments]) > 1.05 * sheet


def test_power_at_the_detectable_effect_is_as_stated() -> None:
    sample = Sample.of(skewed(np.random.default_rng(0), 400_000))
    arm = Sample(num=300, mean=sample.mean, variance=sample.variance)
    detectable = abtest.minimal_detectable_effect(arm, arm, ALPHA, 0.8) / 100
    rng = np.random.default_rng(8)
    found = 0
    for _ in range(NUM_EXPERIMENTS):
        control, treatment = skewed(rng, 300), skewed(rng, 300) + detectable * sample.mean
        found += abtest.sheet(Sample.of(control), Sample.of(treatment), ALPHA).p_value < ALPHA
    assert within_four_errors(found, 0.8)


def test_the_split_check_fires_as_often_as_promised() -> None:
    rng = np.random.default_rng(9)
    fired = sum(
        abtest.sample_ratio(np.bincount(rng.integers(2, size=1000), minlength=2), np.ones(2)) < 0.05
        for _ in range(4 * NUM_EXPERIMENTS)
    )
    assert within_four_errors(fired, 0.05, 4 * NUM_EXPERIMENTS)


def test_who_looks_every_day_is_wrong_no_more_often_with_the_always_valid_interval() -> None:
    """Twenty looks at the growing data of each A/A experiment: the sheet is wrong far more often than promised."""
    rng = np.random.default_rng(10)
    always = naive = 0
    for _ in range(600):
        control, treatment = skewed(rng, 2000), skewed(rng, 2000)
        looks = [(Sample.of(control[:num]), Sample.of(treatment[:num])) for num in range(100, 2001, 100)]
        naive += any(abtest.sheet(*look, ALPHA).p_value < ALPHA for look in looks)
        intervals = [abtest.always_valid(*look, ALPHA, 10.0) for look in looks]
        always += any(lower > 0 or upper < 0 for lower, upper in intervals)
    assert always / 600 < ALPHA + 4 * (ALPHA * (1 - ALPHA) / 600) ** 0.5
    assert naive / 600 > 2 * ALPHA


def test_the_bootstrap_agrees_with_fieller() -> None:
    rng = np.random.default_rng(11)
    control, treatment = skewed(rng, 2000), skewed(rng, 2000) * 1.1
    drawn = abtest.bootstrap(control, treatment, 0.05, 2000, rng)
    assert drawn == pytest.approx(abtest.fieller(Sample.of(control), Sample.of(treatment), 0.05), abs=1.0)


def test_counting_sessions_instead_of_users_raises_false_alarms() -> None:
    """The reason for the unit: sessions of one user are alike."""
    rng = np.random.default_rng(12)
    alarms = 0
    for _ in range(400):
        habits = rng.gamma(0.8, 3.0, 200)
        sessions = np.repeat(habits, 20) + rng.normal(0, 1, 4000)
        arm_of = np.repeat(np.arange(200) % 2, 20)
        alarms += stats.ttest_ind(sessions[arm_of == 0], sessions[arm_of == 1], equal_var=False).pvalue < ALPHA
    assert alarms / 400 > 0.3
