"""The comparison of set-ups: which is best, what is tested, and the verdict."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from segue.errors import InputError
from segue.statistics.holm import holm
from segue.statistics.paired import paired_difference
from segue.verdicts.comparison.analysis import QUERY, TESTED, Comparison, Run, compare, differences_from_first, verdict
from tests.statistics.test_paired import LEVEL, same, sample, simulate_setups, two_setups

NDCG = "test/ndcg_at_10"


def queries_of(values: Any, session: Any = None) -> pd.DataFrame:
    """Test queries with `values` as every accuracy metric; by default each query is in a session of its own."""
    place = np.arange(len(values))
    key = dict.fromkeys(QUERY, place) | {"session": place if session is None else np.asarray(session)}
    return pd.DataFrame({**key, **dict.fromkeys(TESTED, np.asarray(values, np.float64))})


def run(setup: str, seed: int = 1, values: Any = None, session: Any = None, val: float = 0.0, more: Any = None) -> Run:
    """A run with `val` as its validation metric, the mean of `values` as its test metrics, and `more` metrics."""
    queries = None if values is None else queries_of(values, session)
    test = {} if values is None else {f"test/{name}": float(np.mean(values)) for name in TESTED}
    metrics = {"val/ndcg_at_10": val, **test, **(more or {})}
    return Run(run_id=f"{setup}-{seed}", setup=setup, seed=seed, metrics=metrics, queries=queries)


def compared(runs: Sequence[Run], **changes: Any) -> Comparison:
    usual: dict[str, Any] = {"select": "val/ndcg_at_10", "mode": "max", "metrics": [NDCG], "level": 0.95}
    return compare(runs, **{**usual, **changes})


def simulated_setups(num: int, rng: np.random.Generator, num_seeds: int = 1) -> list[Run]:
    quality = np.linspace(0.5, 0.3, num)
    return [
        run(f"s{k}", seed, np.clip(rng.normal(quality[k], 0.2, 60), 0, 1), np.arange(60) // 3, val=quality[k])
        for k in range(num)
        for seed in range(num_seeds)
    ]


def test_holms_correction_is_over_all_pairs_of_setups() -> None:
    runs = simulated_setups(4, np.random.default_rng(4))
    of = {one.setup: sample(one.queries[TESTED[0]], np.arange(60) // 3) for one in runs if one.queries is not None}
    pairs = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    p_values = [paired_difference(of[f"s{j}"], of[f"s{i}"], 0.95).p_value for i, j in pairs]
    expected = dict(zip(pairs, multipletests(p_values, method="holm")[1], strict=True))
    differences = compared(runs).differences
    assert [one.setup for one in differences] == ["s1", "s2", "s3"]
    assert [one.holm_p_value for one in differences] == pytest.approx([expected[0, other] for other in (1, 2, 3)])


@given(drawn=two_setups, rng=st.randoms(use_true_random=False))
def test_the_order_of_queries_and_runs_does_not_matter(drawn: Any, rng: Any) -> None:
    ours, theirs, session = np.array(drawn[0]) / 8, np.array(drawn[1]) / 8, np.array(drawn[2])
    runs = [
        run(name, seed, row, session) for name, rows in (("a", ours), ("b", theirs)) for seed, row in enumerate(rows)
    ]
    (before,) = compared(runs).differences
    place = list(range(len(session)))
    rng.shuffle(place)
    shuffled = [replace(one, queries=one.queries.iloc[place]) for one in runs if one.queries is not None]
    rng.shuffle(shuffled)
    (after,) = compared(shuffled).differences
    assert same(before, after)
    assert before.holm_p_value == pytest.approx(after.holm_p_value, nan_ok=True)


@pytest.mark.parametrize(
    ("ours", "theirs", "session"),
    [([1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [0, 1, 2]), ([0.3, 0.9, 0.4], [0.1, 0.2, 0.3], [0, 0, 0])],
    ids=["the same in every session", "one session"],
)
def test_there_is_no_test_without_sessions_that_vary(ours: Any, theirs: Any, session: Any) -> None:
    (one,) = compared([run("a", values=ours, session=session), run("b", values=theirs, session=session)]).differences
    assert one.difference == pytest.approx(np.mean(theirs) - np.mean(ours))
    assert np.isnan([one.lower, one.upper, one.p_value, one.holm_p_value]).all()


def test_validation_chooses_even_where_the_test_says_otherwise() -> None:
    rng = np.random.default_rng(7)
    low = rng.random(200) / 2
    comparison = compared(
        [run("chosen", values=low, val=0.9), run("better", values=low + rng.random(200) / 2, val=0.1)]
    )
    assert [setup.name for setup in comparison.setups] == ["chosen", "better"]
    assert comparison.leads(comparison.setups[1], NDCG)
    assert verdict(comparison) == (
        "chosen is best by val/ndcg_at_10; on test ndcg_at_10 it is worse than better (Holm p < 0.05); "
        "validation and test contradict each other"
    )


def test_the_verdict_names_the_set_ups_that_are_beaten_and_those_that_are_not() -> None:
    rng = np.random.default_rng(8)
    good = rng.random(300)
    runs = [
        run("best", values=good, val=0.3),
        run("like it", values=np.clip(good + rng.normal(0, 0.1, 300), 0, 1), val=0.2),
        run("bad", values=good * rng.random(300), val=0.1),
        run("unknown", val=0.0),
    ]
    assert verdict(compared(runs)) == (
        "best is best by val/ndcg_at_10; on test ndcg_at_10 it beats bad (Holm p < 0.05) and is not distinguishable "
        "from like it; not tested: unknown"
    )


def test_a_single_set_up_is_compared_with_nothing() -> None:
    comparison = compared([run("alone", seed, [0.1, 0.2]) for seed in (1, 2)])
    assert verdict(comparison) == "alone is the only set-up: there is nothing to compare it with"
    assert not comparison.differences
    assert not comparison.leads(comparison.best, NDCG)


def test_a_lower_loss_is_better_and_a_run_without_it_is_last() -> None:
    runs = [
        run(name, more=more)
        for name, more in zip("abcd", ({"val/loss": 2.0}, {"val/loss": 1.0}, {}, {"val/loss": np.inf}), strict=True)
    ]
    comparison = compared(runs, select="val/loss", mode="min")
    assert [setup.name for setup in comparison.setups] == ["b", "a", "c", "d"]  # equal ones by name
    assert [comparison.leads(setup, "val/loss") for setup in comparison.setups] == [True, False, False, False]


def test_a_metric_counts_the_runs_that_have_it() -> None:
    runs = [run("a", 1, more={"test/mse": 0.5}), run("a", 2), run("a", 3, more={"test/mse": np.nan}), run("b")]
    comparison = compared(runs, metrics=["test/mse", "test/mae"])
    assert [setup.means["test/mse"].num for setup in comparison.setups] == [1, 0]
    assert np.isnan(comparison.setups[0].means["test/mse"].lower)
    assert np.isnan(comparison.setups[1].means["test/mse"].mean)
    assert (comparison.metrics, comparison.missing) == (("val/ndcg_at_10", "test/mse"), ("test/mae",))


def test_effects_of_ab_tests_and_estimates_are_shown_where_a_run_has_them() -> None:
    more = {"ab/time_effect_percent": 4.0, "ab/time_lower_percent": 1.0, "estimate/first_step_dr": 0.6}
    comparison = compared([run("a", more=more), run("b")])
    assert comparison.metrics == ("val/ndcg_at_10", "ab/time_effect_percent", "estimate/first_step_dr")
    assert comparison.better("estimate/first_step_dr") is None, "the logs may differ"


def test_runs_without_queries_are_left_out_of_the_tests() -> None:
    rng = np.random.default_rng(9)
    values = rng.random((3, 50))
    whole = [run("a", 1, values[0], val=1.0), run("a", 2, values[1], val=1.0), run("b", 1, values[2])]
    some = [*whole, run("a", 3, val=1.0), run("b", 2), replace(run("b", 3), queries=queries_of([]))]
    (before,), (after,) = compared(whole).differences, compared(some).differences
    assert same(before, after)


def test_nothing_is_tested_where_the_best_has_no_queries() -> None:
    comparison = compared([run("a", val=1.0), run("b", values=[0.1, 0.2]), run("c", values=[0.1, 0.3])])
    assert not comparison.differences
    assert verdict(comparison) == "a is best by val/ndcg_at_10; whether the difference is real was not tested"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"select": NDCG}, r"select=test/ndcg_at_10 is no validation metric .*use one of \['val/ndcg_at_10'\]"),
        ({"mode": "min"}, "select=val/ndcg_at_10 mode=min chooses the worst set-up; use mode=max"),
        ({"select": "val/mrr"}, "select=val/mrr is no validation metric of these runs"),
    ],
)
def test_a_wrong_select_or_mode_is_refused(changes: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        compared([run("a"), run("b")], **changes)


@pytest.mark.parametrize("column", ["following", "fewer"])
def test_runs_that_were_tested_on_different_queries_are_refused(column: str) -> None:
    other = queries_of([0.1, 0.2, 0.3])
    other = other[:2] if column == "fewer" else other.assign(**{column: [0, 1, 7]})
    runs = [run("a", 1, [0.1, 0.2, 0.3]), replace(run("b", 2, [0.1, 0.2, 0.3]), queries=other)]
    with pytest.raises(InputError, match=r"different queries, from [23] to 3, and .*ranking.max_test_queries"):
        compared(runs)


def test_false_alarms_between_equal_set_ups_keep_their_level_though_validation_picks_the_luckiest() -> None:
    """Eight equal set-ups: validation picks the one with the most favourable seeds, and the same runs are tested."""
    rng = np.random.default_rng(14)
    alarms, too_many, num = 0, 0, 300
    for _ in range(num):
        samples, validation = simulate_setups(rng, [0.0] * 8, [10] * 8, 0.3, 0.1)
        tests = differences_from_first({f"s{k}": samples[k] for k in np.argsort(validation)[::-1]}, NDCG, LEVEL)
        alarms += any(one.holm_p_value < 1 - LEVEL for one in tests)
        too_many += min(holm([one.p_value for one in tests])) < 1 - LEVEL
    assert alarms / num < 0.05 + 4 * (0.05 * 0.95 / num) ** 0.5
    assert too_many / num > 0.05 + 4 * (0.05 * 0.95 / num) ** 0.5  # why the correction is over all pairs


COLD = "test/cold_next_recall_at_10"


def with_new_tracks(runs: Sequence[Run], is_new: np.ndarray) -> list[Run]:
    """The same runs, where some queries have a new track as the next one."""
    changed = []
    for one in runs:
        assert one.queries is not None
        values = np.where(is_new, one.queries["recall_at_10"], np.nan)
        queries = one.queries.assign(cold_next_recall_at_10=values)
        changed.append(replace(one, queries=queries, metrics={**one.metrics, COLD: float(np.nanmean(values))}))
    return changed


def test_queries_with_new_tracks_are_compared_as_if_there_were_no_others() -> None:
    runs, is_new = simulated_setups(3, np.random.default_rng(11)), np.arange(60) % 4 == 1
    result = compared(with_new_tracks(runs, is_new), metrics=[NDCG, COLD])
    alone = [replace(one, queries=one.queries[is_new]) for one in runs if one.queries is not None]
    for ours, theirs in zip(result.differences[2:], compared(alone).differences, strict=True):
        assert (ours.metric, ours.setup) == (COLD, theirs.setup)
        assert ours.difference == pytest.approx(theirs.difference)
        assert ours.p_value == pytest.approx(theirs.p_value)
        assert ours.holm_p_value == pytest.approx(theirs.holm_p_value)
    assert result.better(COLD) == "max"


def test_metrics_of_new_tracks_are_not_missing_where_no_query_has_one() -> None:
    result = compared(simulated_setups(2, np.random.default_rng(12)), metrics=[NDCG, COLD, "test/odd", "test/cold_odd"])
    assert result.metrics == ("val/ndcg_at_10", NDCG)
    assert result.missing == ("test/odd",)
