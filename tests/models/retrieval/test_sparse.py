"""Search in sparse scores against slow loops."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from segue.models.retrieval import ranks as ranking_of_tracks
from segue.models.retrieval.ranks import ranks_of_scores
from segue.models.retrieval.sparse import sparse_lists


@st.composite
def tables(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Scores of few pairs in whole numbers, and plays, so that both tie often; a track may have a score with itself."""
    num_tracks = draw(st.integers(3, 12))
    score = st.sampled_from([0, 0, 0, 1, 2, 3])
    scores = [[draw(score) for _ in range(num_tracks)] for _ in range(num_tracks)]
    plays = draw(st.lists(st.integers(0, 3), min_size=num_tracks, max_size=num_tracks))
    return np.array(scores, np.float32), np.array(plays)


@given(drawn=tables(), block=st.integers(1, 20))
def test_a_rank_is_the_mean_place_among_equals_in_score_and_plays(
    drawn: tuple[np.ndarray, np.ndarray], block: int
) -> None:
    scores, plays = drawn
    pairs = np.array([(q, t) for q, t in itertools.product(range(len(plays)), repeat=2) if q != t])
    previous, following = pairs.T
    table = csr_array(scores[previous])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ranking_of_tracks, "_MAX_SCORES", block * len(plays))
        ranks = ranks_of_scores(
            scores=lambda first, end: table[first:end], plays=plays, previous=previous, following=following
        )
    for (query, target), rank in zip(pairs, ranks, strict=True):
        keys = {c: (scores[query, c], plays[c]) for c in range(len(plays)) if c != query}
        above = sum(key > keys[target] for key in keys.values())
        tied = sum(key == keys[target] for key in keys.values())
        assert rank == sum(range(above + 1, above + tied + 1)) / tied


@given(drawn=tables(), block=st.integers(1, 20), data=st.data())
def test_top_k_is_the_first_part_of_the_sorted_catalogue(
    drawn: tuple[np.ndarray, np.ndarray], block: int, data: st.DataObject
) -> None:
    scores, plays = drawn
    k = data.draw(st.integers(1, len(plays) - 1))
    query_rows = np.array(data.draw(st.lists(st.integers(0, len(plays) - 1), max_size=8)), np.int64)
    done: list[int] = []
    search = sparse_lists(scores=csr_array(scores).__getitem__, plays=plays, query_rows=query_rows, k=k, block=block)
    rows, found = search.collect(done.append)
    assert sum(done) == len(rows) == len(query_rows)
    for query, line, of_line in zip(query_rows, rows, found, strict=True):
        candidates = [c for c in range(len(plays)) if c != query]
        expected = sorted(candidates, key=lambda c: (-scores[query, c], -plays[c], c))[:k]
        assert line.tolist() == expected
        assert of_line.tolist() == [scores[query, c] for c in expected]
