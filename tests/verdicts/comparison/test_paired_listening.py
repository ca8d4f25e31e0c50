"""Set-ups that were played to simulated listeners: who chooses, what is paired, and when offline ranking disagrees."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from segue.errors import InputError
from segue.statistics.online import SHARE_OF_HITS, SHARE_OF_SAME_ARTIST, TIME, VAL_TIME
from segue.verdicts.comparison.analysis import Comparison, Run, choose_metric, disagreement, verdict
from tests.verdicts.comparison.test_analysis import NDCG, compared, run

SELECTS = (VAL_TIME, "val/ndcg_at_10")
METRICS = [TIME, "val/ndcg_at_10", NDCG, SHARE_OF_HITS, SHARE_OF_SAME_ARTIST]
LISTENERS = 200


def heard(setup: str, times: Any, *, seed: int = 1, ndcg: float = 0.0, hits: float = 0.1, same: float = 0.2) -> Run:
    """A run whose reported listeners had these mean times; those for validation had the same."""
    times = np.asarray(times, np.float64)
    columns = {"listener": np.arange(len(times)), "mean_time_per_session": times, "test": "t"}
    listening = pd.concat([pd.DataFrame({**columns, "part": part}) for part in ("val", "test")], ignore_index=True)
    online = {TIME: times.mean(), VAL_TIME: times.mean(), SHARE_OF_HITS: hits, SHARE_OF_SAME_ARTIST: same}
    quality = np.clip(np.random.default_rng(seed).normal(ndcg, 0.05, 60), 0, 1)
    return replace(run(setup, seed, quality, np.arange(60) // 3, val=ndcg, more=online), listening=listening)


def crowd(mean: float, seed: int = 0) -> np.ndarray:
    """Times of listeners who differ much; with the same seed they are the same listeners."""
    return np.random.default_rng(seed).gamma(4, mean / 4, LISTENERS)


def played(runs: Sequence[Run]) -> Comparison:
    return compared(runs, select=VAL_TIME, metrics=METRICS)


@pytest.fixture(scope="module")
def disagreeing() -> Comparison:
    rules = [heard("rules", crowd(3), seed=seed, ndcg=0.3, hits=0.58, same=0.61) for seed in (1, 2)]
    return played([*rules, *(heard("convex", crowd(7), seed=seed, ndcg=0.1, hits=0.06, same=0.32) for seed in (1, 2))])


def test_what_listeners_heard_of_refitted_models_is_not_mixed_with_others() -> None:
    tested = [heard(name, crowd(5), seed=seed) for name in ("a", "b") for seed in (1, 2)]
    refitted = replace(heard("a", crowd(9), seed=3), is_refitted=True)
    mixed = played([*tested, refitted])
    assert {one.name: round(one.means[TIME].mean, 3) for one in mixed.setups} == {
        "a refitted": round(crowd(9).mean(), 3),
        "a": round(crowd(5).mean(), 3),
        "b": round(crowd(5).mean(), 3),
    }
    assert [one.name for one in played([refitted, replace(tested[2], is_refitted=True)]).setups] == ["a", "b"]
    of_logs = [run("a", 1, crowd(1)), replace(run("a", 2, crowd(1)), is_refitted=True)]
    assert [len(one.runs) for one in compared(of_logs).setups] == [2]


def test_the_difference_is_paired_by_listener_and_small_ones_show() -> None:
    better, worse = crowd(7), crowd(7) - 0.1 + 0.2 * np.random.default_rng(9).normal(size=LISTENERS)
    result = played([heard("better", better), heard("worse", worse)])
    one = result.difference("worse", TIME)
    assert one is not None
    assert result.primary == TIME
    assert result.num_listeners == LISTENERS
    assert one.difference == pytest.approx((worse - better).mean())
    assert one.p_value == pytest.approx(stats.ttest_rel(worse, better).pvalue)
    assert result.is_significant(one)
    assert stats.ttest_ind(worse, better).pvalue > 0.5  # without the pairs nothing would show
    assert "better is best by online/val_mean_time_per_session; with the reported listeners it beats worse" in (
        verdict(result)
    )


def test_the_order_of_listeners_in_a_file_does_not_matter() -> None:
    one, other = heard("a", crowd(7)), heard("b", crowd(6, seed=1))
    assert other.listening is not None
    shuffled = replace(other, listening=other.listening.sample(frac=1, random_state=0))
    assert played([one, other]).differences == played([one, shuffled]).differences


def test_listeners_kept_for_validation_choose_and_are_not_tested() -> None:
    better, worse = heard("better", crowd(7)), heard("worse", crowd(6))
    assert better.listening is not None
    swapped = replace(better, metrics={**better.metrics, VAL_TIME: 1.0})
    assert [setup.name for setup in played([swapped, worse]).setups] == ["worse", "better"]
    frame = better.listening.copy()
    frame.loc[frame["part"] == "val", "mean_time_per_session"] = 0.0
    changed = replace(better, listening=frame)
    assert played([changed, worse]).differences == played([better, worse]).differences


def test_offline_ranking_that_disagrees_is_named(disagreeing: Comparison) -> None:
    assert disagreeing.best.name == "convex"
    sentence = disagreement(disagreeing)
    assert sentence is not None
    assert sentence.startswith(
        "Offline ranking disagrees: val/ndcg_at_10 would choose rules, with a mean time per session"
    )
    assert "it measures how well the recommendations in the logs are predicted, not how long listeners play" in sentence
    assert disagreeing.record()["disagreement"] == sentence


def test_a_disagreement_within_the_noise_is_called_so() -> None:
    times = crowd(7)
    noise = 0.3 * np.random.default_rng(5).normal(size=LISTENERS)
    result = played([heard("a", times + 0.001, ndcg=0.1), heard("b", times + noise - noise.mean(), ndcg=0.3)])
    assert disagreement(result) == (
        "Offline ranking disagrees: val/ndcg_at_10 would choose b, whose time per session is not distinguishable from "
        "that of a."
    )


def test_rankings_that_agree_need_no_sentence() -> None:
    assert disagreement(played([heard("a", crowd(7), ndcg=0.3), heard("b", crowd(3), ndcg=0.1)])) is None
    logged = compared([run("a", val=0.2), run("b", val=0.1)])
    assert (disagreement(logged), logged.num_listeners) == (None, 0)


def test_runs_on_real_logs_are_compared_and_miss_nothing() -> None:
    logged = compared([run("a", val=0.2, values=[0.1, 0.3]), run("b", val=0.1, values=[0.1, 0.2])], metrics=METRICS)
    assert logged.missing == ()
    assert logged.primary == NDCG
    assert not any(name.startswith("online/") for name in logged.metrics)


def chosen(runs: Sequence[Run]) -> tuple[str, list[str]]:
    return choose_metric(SELECTS, runs)


def test_the_first_metric_that_all_runs_have_chooses() -> None:
    one, other, old = heard("a", crowd(7)), heard("b", crowd(6)), run("c", val=0.3)
    assert chosen([one, other]) == (VAL_TIME, [])
    assert chosen([old]) == ("val/ndcg_at_10", [])
    assert chosen([one, other, old]) == (
        "val/ndcg_at_10",
        [f"{VAL_TIME} does not choose, because 1 of 3 runs lack it."],
    )
    assert other.listening is not None
    elsewhere = replace(other, listening=other.listening.assign(test="u"))
    assert chosen([one, elsewhere]) == (
        "val/ndcg_at_10",
        [f"{VAL_TIME} does not choose, because runs were played in other sessions."],
    )
    assert compared([one, elsewhere], metrics=METRICS).difference("b", TIME) is None  # nothing to pair


def test_the_reported_listeners_do_not_choose() -> None:
    with pytest.raises(
        InputError, match=rf"select={TIME} is no validation metric .* reported; use one of .*{VAL_TIME}"
    ):
        compared([heard("a", crowd(7))], select=TIME)
