"""Lists with new tracks, against slow loops over all tracks."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from segue.models.added_tracks import with_new_tracks
from segue.runs.recommendations import Recommendations
from tests.models.plain import top_k


@given(data=st.data())
def test_a_list_is_the_beginning_of_the_order_of_all_tracks_and_without_new_ones_that_of_the_run(
    data: st.DataObject,
) -> None:
    num_old, num_new = data.draw(st.integers(3, 12)), data.draw(st.integers(1, 6))
    num, width = num_old + num_new, data.draw(st.integers(1, 3))
    numbers = st.integers(-2, 2)  # whole numbers: products are exact, and ties are common
    tables = [
        torch.tensor([[data.draw(numbers) for _ in range(width)] for _ in range(num)], dtype=torch.float32) / 4
        for _ in range(2)
    ]
    queries, items = tables
    plays = np.array([data.draw(st.integers(0, 3)) for _ in range(num_old)])
    k = data.draw(st.integers(1, num_old - 1))
    rows, scores = top_k(
        queries=queries[:num_old], items=items[:num_old], query_rows=torch.arange(num_old), k=k, plays=plays
    )
    old = Recommendations(rows=rows, scores=scores, plays=plays)
    lists = with_new_tracks(old, queries, items)
    assert lists.plays is not None
    assert lists.plays.tolist() == [*plays.tolist(), *[0] * num_new]
    popularity = lists.plays.tolist()
    for query in range(num):
        score = {c: float(queries[query] @ items[c]) for c in range(num) if c != query}
        order = sorted(score, key=lambda c: (-score[c], c >= num_old, -popularity[c], c))
        of_run = [c for c in order if c < num_old][:k]
        expected = order[: order.index(of_run[-1]) + 1]
        found = lists.rows[query][lists.rows[query] >= 0].tolist()
        assert found == expected
        assert [c for c in found if c < num_old] == of_run
        assert lists.scores[query][: len(found)].tolist() == [score[c] for c in expected]
        assert np.isnan(lists.scores[query][len(found) :]).all()
        if query < num_old:
            assert of_run == rows[query].tolist()


def test_many_lists_are_merged_as_few_are() -> None:
    """More lists than are merged at once, with short ones: the order is that of exact search over all tracks."""
    generator = torch.Generator().manual_seed(0)
    queries, items = torch.randint(-3, 4, (2, 2600, 4), generator=generator).float() / 8
    plays = np.zeros(2600, np.int64)
    old_rows, old_scores = top_k(
        queries=queries[:2500], items=items[:2500], query_rows=torch.arange(2500), k=20, plays=plays[:2500]
    )
    old = Recommendations(rows=old_rows, scores=old_scores, plays=plays[:2500])
    lists = with_new_tracks(old, queries, items)
    rows, scores = top_k(queries=queries, items=items, query_rows=torch.arange(2600), k=20, plays=plays)
    assert (lists.rows[:, :20] == rows).all()
    assert (lists.scores[:, :20] == scores).all()
    cut = Recommendations(rows=np.where(np.arange(20) < 12, old_rows, -1), scores=old_scores, plays=plays[:2500])
    short = with_new_tracks(cut, queries, items)
    is_new = short.rows[:2500] >= 2500
    assert (is_new.sum(1) == 100).all()  # a list that has ended has room for all
