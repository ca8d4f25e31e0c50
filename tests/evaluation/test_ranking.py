import doctest

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from src.evaluation import ranking

ranks = st.lists(st.integers(2, 400).map(lambda n: n / 2), min_size=1, max_size=30).map(np.array)


def test_the_examples_in_the_docstrings_hold() -> None:
    result = doctest.testmod(ranking, extraglobs={"np": np})
    assert result.attempted >= 3
    assert result.failed == 0


@given(ranks=ranks)
def test_accuracy_lies_in_its_bounds_and_grows_with_k(ranks: np.ndarray) -> None:
    metrics = ranking.accuracy(ranks)
    assert len(metrics) == len(ranks)
    assert ((metrics >= 0) & (metrics <= 1)).all(axis=None)
    assert (metrics["recall_at_1"] <= metrics["recall_at_10"]).all()
    assert (metrics["recall_at_10"] <= metrics["recall_at_50"]).all()
    assert (metrics["ndcg_at_10"] <= metrics["recall_at_10"]).all()


@given(ranks=ranks, better=st.floats(0, 1))
def test_a_better_rank_never_scores_less(ranks: np.ndarray, better: float) -> None:
    improved = np.maximum(1, ranks * better)
    assert (ranking.accuracy(improved) >= ranking.accuracy(ranks)).all(axis=None)


def test_a_query_is_liked_or_unknown_and_not_its_own_answer() -> None:
    share = np.array([0.79, 0.8, 1.0, np.nan, 1.0, np.nan], np.float32)
    previous, following = np.array([1, 1, 1, 1, 2, 2]), np.array([3, 3, 3, 3, 2, 2])
    assert ranking.is_query(previous, following, share).tolist() == [False, True, True, True, False, False]


def test_coverage_counts_each_track_once() -> None:
    assert ranking.coverage(np.array([[1, 2], [2, 3], [1, 3]]), 12) == 3 / 12


def test_same_artist_is_a_share_of_each_list() -> None:
    shares = ranking.same_artist(np.array([0, 2]), np.array([[1, 2], [3, 0]]), np.array([7, 7, 8, 8]))
    assert shares.tolist() == [1 / 2, 1 / 2]


def test_popularity_rank_is_the_mean_rank_with_ties_shared() -> None:
    plays = np.array([9, 5, 5, 0])  # ranks 1, 2½, 2½, 4
    assert ranking.popularity_rank(np.array([[0, 1], [2, 3]]), plays).tolist() == [1.75, 3.25]


@st.composite
def queries(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    num_tracks = draw(st.integers(2, 9))
    row = st.integers(0, num_tracks - 1)
    pairs = draw(st.lists(st.tuples(row, row).filter(lambda pair: pair[0] != pair[1]), min_size=1, max_size=12))
    plays = draw(st.lists(st.integers(0, 4), min_size=num_tracks, max_size=num_tracks))
    return np.array(pairs)[:, 0], np.array(pairs)[:, 1], np.array(plays)


def rank_by_loops(scores: dict[int, int], target: int) -> float:
    above = sum(score > scores[target] for score in scores.values())
    tied = sum(score == scores[target] for score in scores.values())
    return sum(range(above + 1, above + tied + 1)) / tied


@given(drawn=queries())
def test_popularity_ranks_are_those_of_the_loops(drawn: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    previous, following, plays = drawn
    for query, target, rank in zip(
        previous, following, ranking.popularity_ranks(previous, following, plays), strict=True
    ):
        assert rank == rank_by_loops({c: plays[c] for c in range(len(plays)) if c != query}, target)


@given(drawn=queries(), seen=queries())
def test_count_ranks_are_those_of_the_loops(
    drawn: tuple[np.ndarray, np.ndarray, np.ndarray], seen: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> None:
    previous, following, plays = drawn
    num_tracks = max(len(plays), len(seen[2]))
    seen_previous, seen_following = np.append(seen[0], 0), np.append(seen[1], 0)  # and a track after itself
    got = ranking.count_ranks(previous, following, seen_previous, seen_following, num_tracks)
    for query, target, rank in zip(previous, following, got, strict=True):
        counts = {
            c: int(((seen_previous == query) & (seen_following == c)).sum()) for c in range(num_tracks) if c != query
        }
        assert rank == rank_by_loops(counts, target)
