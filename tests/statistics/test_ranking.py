import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from segue.statistics import ranking


def test_each_metric_ends_at_its_length() -> None:
    """Ranks that are just inside and just outside of 1, 10 and 50; a tie shares its mean rank."""
    metrics = ranking.accuracy(np.array([1.0, 1.5, 10.0, 10.5, 50.0, 50.5]))
    assert metrics["recall_at_1"].tolist() == [1, 0, 0, 0, 0, 0]
    assert metrics["recall_at_10"].tolist() == [1, 1, 1, 0, 0, 0]
    assert metrics["recall_at_50"].tolist() == [1, 1, 1, 1, 1, 0]
    np.testing.assert_allclose(metrics["ndcg_at_10"], [1, 1 / np.log2(2.5), 1 / np.log2(11), 0, 0, 0])
    np.testing.assert_allclose(metrics["mrr"], [1, 1 / 1.5, 1 / 10, 1 / 10.5, 1 / 50, 1 / 50.5])


def test_a_query_is_liked_or_unknown_and_not_its_own_answer() -> None:
    share = np.array([0.79, 0.8, 1.0, np.nan, 1.0, np.nan], np.float32)
    previous, following = np.array([1, 1, 1, 1, 2, 2]), np.array([3, 3, 3, 3, 2, 2])
    assert ranking.is_query(previous, following, share).tolist() == [False, True, True, True, False, False]


sessions = st.lists(st.integers(0, 9), min_size=1, max_size=40).map(np.array)


@given(session=sessions, max_queries=st.integers(1, 45))
def test_a_sample_has_whole_sessions_and_no_more_queries_than_allowed(session: np.ndarray, max_queries: int) -> None:
    is_chosen = ranking.sample_sessions(session, max_queries)
    inside, outside = set(session[is_chosen]), set(session[~is_chosen])
    assert inside
    assert not inside & outside
    assert is_chosen.sum() <= max_queries or len(inside) == 1
    assert is_chosen.all() or len(session) > max_queries


@given(session=sessions, max_queries=st.integers(1, 45))
def test_a_larger_sample_has_every_session_of_a_smaller_one(session: np.ndarray, max_queries: int) -> None:
    smaller, larger = (ranking.sample_sessions(session, num) for num in (max_queries, max_queries + 5))
    assert (larger >= smaller).all()


def test_a_sample_is_that_of_earlier_versions() -> None:
    """Metrics of runs are comparable because all of them are of the same sessions."""
    session = np.repeat(np.arange(100, 108), [1, 2, 3, 1, 2, 3, 1, 2])
    chosen = [np.unique(session[ranking.sample_sessions(session, num)]).tolist() for num in (1, 4, 7)]
    assert chosen == [[102], [102], [102, 103, 104, 106]]


def test_samples_do_not_prefer_early_or_short_sessions() -> None:
    session = np.repeat(np.arange(2000), np.tile([1, 9], 1000))  # in turns one query and nine
    chosen = np.unique(session[ranking.sample_sessions(session, len(session) // 2)])
    assert 950 < len(chosen) < 1050
    assert 950 < chosen.mean() < 1050
    assert 0.45 < (chosen % 2).mean() < 0.55


def test_coverage_counts_each_track_once() -> None:
    assert ranking.coverage(np.array([[1, 2], [2, 3], [1, 3]]), 12) == 3 / 12


def test_same_artist_is_a_share_of_each_list() -> None:
    shares = ranking.same_artist(np.array([0, 2]), np.array([[1, 2, 3], [3, 0, 2]]), np.array([7, 7, 8, 8]))
    assert shares.tolist() == [1 / 3, 2 / 3]


def test_popularity_rank_is_the_mean_rank_with_ties_shared() -> None:
    plays = np.array([9, 5, 5, 0])  # ranks 1, 2½, 2½, 4
    assert ranking.popularity_rank(np.array([[0, 1], [2, 3]]), plays).tolist() == [1.75, 3.25]


def test_means_by_position_are_those_of_their_queries() -> None:
    metrics = ranking.accuracy(np.array([1.0, 20.0, 3.0, 1.0, 30.0]))
    means = ranking.by_position(metrics, np.array([1, 1, 4, 5, 90]))
    assert means == {
        "recall_at_10_position_1": 1 / 2,
        "ndcg_at_10_position_1": 1 / 2,
        "recall_at_10_position_2_to_4": 1.0,
        "ndcg_at_10_position_2_to_4": 1 / 2,
        "recall_at_10_position_5_or_more": 1 / 2,
        "ndcg_at_10_position_5_or_more": 1 / 2,
    }
    names = {"recall_at_10_position_2_to_4", "ndcg_at_10_position_2_to_4"}
    assert set(ranking.by_position(metrics, np.full(5, 3))) == names


def test_a_half_width_is_that_of_students_interval_over_the_sessions_that_have_the_metric() -> None:
    """A metric that only one session has is left out."""
    of_all = pd.DataFrame({"mrr": [1.0, 0.5, 0.25, 0.5, 0.2], "alone": [np.nan, np.nan, 1.0, 0.0, np.nan]})
    of_all["one_each"] = [np.nan, 1.0, np.nan, 0.0, 0.5]
    found = ranking.half_widths(of_all, np.array([4, 4, 7, 7, 9]))
    mean = 2.45 / 5
    sums = [1.5 - 2 * mean, 0.75 - 2 * mean, 0.2 - mean]
    error = (3 / 2 * sum(one**2 for one in sums)) ** 0.5 / 5
    assert found == pytest.approx(
        {
            "mrr_half_width": stats.t.ppf(0.975, 2) * error,
            "one_each_half_width": stats.t.ppf(0.975, 2) * stats.sem([1.0, 0.0, 0.5]),
        }
    )


def test_metrics_by_newness_are_those_of_their_queries() -> None:
    """Both known; the last track new; the next one new; both new."""
    frame = ranking.by_newness(
        np.array([10.0, 1.0, 100.0, 200.0]),
        np.array([1.0, 11.0]),
        previous_is_new=np.array([False, True, False, True]),
        next_is_new=np.array([False, False, True, True]),
    )
    assert tuple(frame) == ranking.BY_NEWNESS
    assert len(frame) == 4
    expected = {
        "warm_recall_at_10": [1, np.nan, np.nan, np.nan],
        "warm_ndcg_at_10": [1 / np.log2(11), np.nan, np.nan, np.nan],
        "cold_previous_recall_at_100": [np.nan, 1, np.nan, 0],
        "cold_next_recall_at_10": [np.nan, np.nan, 0, 0],
        "cold_next_recall_at_100": [np.nan, np.nan, 1, 0],
        "cold_next_ndcg_at_100": [np.nan, np.nan, 1 / np.log2(101), 0],
        "cold_among_recall_at_10": [np.nan, np.nan, 1, 0],
        "cold_among_ndcg_at_100": [np.nan, np.nan, 1, 1 / np.log2(12)],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(frame[name], values)
