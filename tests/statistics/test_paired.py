"""The paired difference of two set-ups: independent libraries, laws, and its promises on scores that were made up."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from src.statistics.paired import PairedDifference, QueryScores, paired_difference
from tests.statistics.promises import within_four_errors


def sample(values: Any, session: Any = None) -> QueryScores:
    """Of values by run and query, or of those of one run."""
    of_runs = np.atleast_2d(np.asarray(values, np.float64))
    place = np.arange(of_runs.shape[1]) if session is None else np.asarray(session, np.int64)
    return QueryScores.of(of_runs, place)


def test_one_query_a_session_and_one_seed_is_the_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.random(80), rng.random(80)
    expected = stats.ttest_rel(ours, theirs)
    found = paired_difference(sample(ours), sample(theirs), 0.9)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert (found.lower, found.upper) == pytest.approx(tuple(expected.confidence_interval(0.9)))
    assert found.degrees_of_freedom == pytest.approx(79)


def test_sessions_are_clusters_as_statsmodels_has_them() -> None:
    rng = np.random.default_rng(1)
    session = np.repeat(np.arange(30), rng.integers(1, 9, 30))
    ours, theirs = rng.random(len(session)) + rng.normal(0, 0.3, 30)[session], rng.random(len(session))
    fit = sm.OLS(ours - theirs, np.ones(len(session))).fit()
    # statsmodels also multiplies by (n − 1)/(n − k), which is 1 here
    expected = fit.get_robustcov_results("cluster", groups=session, use_t=True, df_correction=True)
    found = paired_difference(sample(ours, session), sample(theirs, session), 0.95)
    assert found.difference == pytest.approx(expected.params[0])
    assert found.p_value == pytest.approx(expected.pvalues[0])
    assert (found.lower, found.upper) == pytest.approx(tuple(expected.conf_int(0.05)[0]))


def test_where_sessions_tell_nothing_it_is_welchs_test_of_the_runs() -> None:
    """Every query of a run has the same value, so only seeds are left to chance."""
    rng = np.random.default_rng(2)
    ours, theirs = rng.random(4), rng.random(7)
    expected = stats.ttest_ind(ours, theirs, equal_var=False)
    found = paired_difference(sample(np.tile(ours, (50, 1)).T), sample(np.tile(theirs, (50, 1)).T), 0.95)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.degrees_of_freedom == pytest.approx(expected.df)
    assert (found.lower, found.upper) == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_both_kinds_of_luck_add_up() -> None:
    """The formula, once more, in a slow loop."""
    rng = np.random.default_rng(3)
    session = np.array([0, 0, 1, 2, 2, 2, 3])
    ours, theirs = rng.random((3, 7)), rng.random((2, 7))
    gap = [sum(ours[:, q]) / 3 - sum(theirs[:, q]) / 2 for q in range(7)]
    mean = sum(gap) / 7
    clusters = [sum(gap[q] - mean for q in range(7) if session[q] == s) for s in range(4)]
    parts = [
        (4 / 3 * sum(c**2 for c in clusters) / 49, 3),
        (np.var(ours.mean(1), ddof=1) / 3, 2),
        (np.var(theirs.mean(1), ddof=1) / 2, 1),
    ]
    total = sum(part for part, _ in parts)
    df = total**2 / sum(part**2 / own for part, own in parts)
    found = paired_difference(sample(ours, session), sample(theirs, session), 0.95)
    assert found.difference == pytest.approx(mean)
    assert found.degrees_of_freedom == pytest.approx(df)
    assert (found.lower, found.upper) == pytest.approx(stats.t.interval(0.95, df, mean, total**0.5))
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(mean) / total**0.5, df))


two_setups = st.integers(2, 12).flatmap(
    lambda num: st.tuples(
        st.lists(st.lists(st.integers(0, 8), min_size=num, max_size=num), min_size=1, max_size=3),
        st.lists(st.lists(st.integers(0, 8), min_size=num, max_size=num), min_size=1, max_size=3),
        st.lists(st.integers(0, 3), min_size=num, max_size=num).filter(lambda session: len(set(session)) > 1),
    )
)


def numbered(session: Sequence[int]) -> Any:
    return np.unique(session, return_inverse=True)[1]


def same(one: PairedDifference, other: PairedDifference) -> bool:
    return all(
        getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-9, nan_ok=True)
        for name in ("difference", "lower", "upper", "p_value", "degrees_of_freedom")
    )


@given(drawn=two_setups, constant=st.integers(-8, 8))
def test_what_is_added_to_both_changes_nothing(drawn: Any, constant: int) -> None:
    ours, theirs, session = np.array(drawn[0]) / 8, np.array(drawn[1]) / 8, numbered(drawn[2])
    moved = paired_difference(sample(ours + constant / 8, session), sample(theirs + constant / 8, session), 0.95)
    assert same(moved, paired_difference(sample(ours, session), sample(theirs, session), 0.95))


@given(drawn=two_setups)
def test_who_is_taken_from_whom_only_turns_the_sign(drawn: Any) -> None:
    ours, theirs = (sample(np.array(values) / 8, numbered(drawn[2])) for values in drawn[:2])
    there, back = paired_difference(ours, theirs, 0.95), paired_difference(theirs, ours, 0.95)
    assert same(there, replace(back, difference=-back.difference, lower=-back.upper, upper=-back.lower))


@given(drawn=two_setups)
def test_a_p_value_is_small_exactly_where_the_interval_leaves_zero_out(drawn: Any) -> None:
    ours, theirs = (sample(np.array(values) / 8, numbered(drawn[2])) for values in drawn[:2])
    found = paired_difference(ours, theirs, 0.95)
    assert np.isnan(found.p_value) or (found.p_value < 0.05) == (found.lower > 0 or found.upper < 0)


@pytest.mark.parametrize("seeds", [(1, 1), (3, 3), (3, 1), (7, 3)])
@given(values=st.lists(st.floats(0, 1), min_size=2, max_size=9))
def test_equal_setups_do_not_differ_at_all(seeds: tuple[int, int], values: list[float]) -> None:
    """Though the mean of three equal numbers may differ from them in the last digit."""
    ours, theirs = (sample(np.tile(values, (num, 1))) for num in seeds)
    found = paired_difference(ours, theirs, 0.95)
    assert (found.difference, found.lower, found.upper, found.p_value) == (0, 0, 0, 1)


NUM_COMPARISONS, LEVEL = 1500, 0.95


def lucky(
    rng: np.random.Generator, quality: Sequence[float], num_seeds: Sequence[int], of_seed: float, of_session: float
) -> tuple[list[QueryScores], list[float]]:
    """Set-ups that answer 60 sessions of one to seven queries, and what validation, on other sessions, says of them."""
    session = np.repeat(np.arange(60), 1 + np.arange(60) % 7)
    shared = rng.normal(0, 1, 60)[session] + rng.normal(0, 1, len(session))
    samples, validation = [], []
    for mean, num in zip(quality, num_seeds, strict=True):
        luck = rng.normal(0, of_seed, num)
        own = rng.normal(0, of_session, 60)[session] + rng.normal(0, of_session, len(session))
        values = mean + luck[:, None] + shared + own + rng.normal(0, 0.05, (num, len(session)))
        samples.append(QueryScores.of(values, session))
        validation.append(mean + luck.mean() + rng.normal(0, of_session / 60**0.5))
    return samples, validation


@pytest.mark.parametrize("truth", [0.0, 0.7])
@pytest.mark.parametrize(
    ("num_seeds", "of_seed", "of_session"),
    [((1, 1), 0.0, 0.5), ((3, 3), 0.1, 0.5), ((5, 3), 0.3, 0.1), ((3, 1), 0.0, 0.3), ((20, 20), 0.1, 0.5)],
)
def test_intervals_hold_the_truth_as_often_as_promised(
    num_seeds: tuple[int, int], of_seed: float, of_session: float, truth: float
) -> None:
    rng = np.random.default_rng(11)
    held = alarms = 0
    for _ in range(NUM_COMPARISONS):
        (ours, theirs), _ = lucky(rng, [truth, 0.0], num_seeds, of_seed, of_session)
        found = paired_difference(ours, theirs, LEVEL)
        held += found.lower < truth < found.upper
        alarms += found.p_value < 1 - LEVEL
    assert held / NUM_COMPARISONS > LEVEL - 0.02
    assert within_four_errors(held, LEVEL + (0.015 if of_seed else 0.0), NUM_COMPARISONS)  # three seeds: a little wide
    assert alarms == NUM_COMPARISONS - held if truth == 0 else alarms > 0.1 * NUM_COMPARISONS


def test_without_the_luck_of_seeds_false_alarms_are_many() -> None:
    """Why there are two parts: a lucky run is found again and again on any number of sessions."""
    rng = np.random.default_rng(12)
    alarms = 0
    for _ in range(500):
        samples, _ = lucky(rng, [0.0, 0.0], (3, 3), 0.3, 0.1)
        ours, theirs = (replace(one, run_means=one.run_means[:1]) for one in samples)
        alarms += paired_difference(ours, theirs, LEVEL).p_value < 0.05
    assert alarms / 500 > 0.5


def test_counting_queries_instead_of_sessions_raises_false_alarms() -> None:
    rng = np.random.default_rng(13)
    alarms = 0
    for _ in range(500):
        session = np.repeat(np.arange(40), 10)
        ours, theirs = (rng.normal(0, 1, 40)[session] + rng.normal(0, 1, 400) for _ in "ab")
        alarms += paired_difference(sample(ours), sample(theirs), LEVEL).p_value < 0.05
    assert alarms / 500 > 0.2
