"""Search against slow loops, and against an independent library where nothing ties."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics.functional.retrieval import retrieval_normalized_dcg, retrieval_recall, retrieval_reciprocal_rank

from segue.histories import Histories
from segue.models.retrieval import ranks as ranking_of_tracks
from segue.statistics import ranking
from tests.models.plain import ByTable, lists_of


@st.composite
def vectors(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Small whole numbers, so that products are exact and ties are common."""
    num_tracks, width = draw(st.integers(3, 15)), draw(st.integers(1, 3))
    number = st.integers(-2, 2)
    tables = [[[draw(number) for _ in range(width)] for _ in range(num_tracks)] for _ in range(2)]
    return torch.tensor(tables[0], dtype=torch.float32), torch.tensor(tables[1], dtype=torch.float32)


def ranks_of(queries: Tensor, items: Tensor, previous: np.ndarray, following: np.ndarray) -> np.ndarray:
    return ByTable(queries @ items.T).ranks(Histories.of_tracks(previous), following)


@given(tables=vectors(), block=st.integers(1, 20), by_plays=st.booleans(), data=st.data())
def test_a_rank_is_the_mean_place_among_its_ties(
    tables: tuple[Tensor, Tensor], block: int, by_plays: bool, data: st.DataObject
) -> None:
    queries, items = tables
    pairs = [(q, t) for q, t in itertools.product(range(len(items)), repeat=2) if q != t]
    previous, following = np.array(pairs).T
    plays = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(items), max_size=len(items))))
    ranker = ByTable(queries @ items.T, plays if by_plays else None)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ranking_of_tracks, "_MAX_SCORES", block * len(items))
        ranks = ranker.ranks(Histories.of_tracks(previous), following)
    for (query, target), rank in zip(pairs, ranks, strict=True):
        keys = {c: (float(queries[query] @ items[c]), by_plays * plays[c]) for c in range(len(items)) if c != query}
        above = sum(key > keys[target] for key in keys.values())
        tied = sum(key == keys[target] for key in keys.values())
        assert rank == sum(range(above + 1, above + tied + 1)) / tied


@given(tables=vectors(), block=st.integers(1, 20), data=st.data())
def test_top_k_is_the_first_part_of_the_sorted_catalogue(
    tables: tuple[Tensor, Tensor], block: int, data: st.DataObject
) -> None:
    queries, items = tables
    num_tracks = len(items)
    k = data.draw(st.integers(1, num_tracks - 1))
    plays = np.array(data.draw(st.lists(st.integers(0, 3), min_size=num_tracks, max_size=num_tracks)))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ranking_of_tracks, "_MAX_SCORES", block * len(items))
        rows, scores = lists_of(queries, items, k, plays).collect()
    for query in range(num_tracks):
        score = {c: float(queries[query] @ items[c]) for c in range(num_tracks) if c != query}
        expected = sorted(score, key=lambda c: (-score[c], -plays[c], c))[:k]
        assert rows[query].tolist() == expected
        assert scores[query].tolist() == [score[c] for c in expected]


@pytest.mark.parametrize(("num_tracks", "k"), [(1000, 50), (3000, 1), (3001, 7)])
@pytest.mark.parametrize("spread", [1, 30])
def test_long_lines_with_few_or_many_ties_give_the_sorted_catalogue(num_tracks: int, k: int, spread: int) -> None:
    rng = np.random.default_rng(num_tracks + spread)
    tables = rng.integers(-spread, spread + 1, (2, num_tracks, 4))
    tables[:, rng.random(num_tracks) < 0.3] = 0
    plays = rng.integers(0, 5, num_tracks)
    query_rows = rng.permutation(num_tracks)[:60]
    queries, items = torch.from_numpy(tables.astype(np.float32))
    rows, scores = lists_of(queries, items, k, plays, query_rows).collect()
    for place, query in enumerate(query_rows):
        exact = items.double().numpy() @ queries[query].double().numpy()
        expected = np.lexsort((np.arange(num_tracks), -plays, -exact))
        expected = expected[expected != query][:k]
        assert rows[place].tolist() == expected.tolist()
        assert scores[place].tolist() == pytest.approx(exact[expected])


def test_approximate_lists_have_the_recall_that_they_report(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    groups = rng.standard_normal((40, 12))
    table = torch.from_numpy((groups[rng.integers(0, 40, 2000)] + rng.standard_normal((2000, 12))).astype(np.float32))
    table = torch.nn.functional.normalize(table, dim=1)
    table[1500:] = 0
    plays = rng.integers(0, 9, 2000)
    every: dict[str, Any] = {"queries": table, "items": table, "k": 20, "plays": plays}
    query_rows = np.arange(0, 2000, 2)
    done: list[int] = []
    monkeypatch.setattr("segue.models.retrieval.nearest.LEAST_CELLS", 2)
    search = lists_of(**every, rows=query_rows, recall=0.8)
    (rows, scores), recall = search.collect(done.append), search.recall
    assert recall is not None
    exact_rows, exact_scores = lists_of(**every, rows=query_rows).collect()
    assert sum(done) == len(query_rows)
    assert all(len({*line, int(query)}) == 21 for line, query in zip(rows.tolist(), query_rows, strict=True))
    known = query_rows < 1500
    hits = (scores >= exact_scores[:, -1:] - 2e-6).mean()
    assert 0.8 <= recall < 1
    assert hits == pytest.approx(recall, abs=0.02)
    assert (
        np.abs(
            scores - (table[torch.from_numpy(query_rows)][:, None] * table[torch.from_numpy(rows)]).sum(2).numpy()
        ).max()
        < 1e-5
    )
    assert (rows[~known] == exact_rows[~known]).all()  # of which nothing is known: the most played


@pytest.mark.parametrize("num_tracks", [3, 30, 700])
def test_an_approximate_search_of_all_cells_is_exact(num_tracks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segue.models.retrieval.nearest.CELLS_PER_PROBE", 1)
    torch.manual_seed(1)
    table = torch.randint(-9, 10, (num_tracks, 5)).float()
    k = min(20, num_tracks - 1)
    every: dict[str, Any] = {"queries": table, "items": table.flip(0), "k": k, "plays": np.zeros(num_tracks, np.int64)}
    search = lists_of(**every, recall=1.0)
    assert search.recall == 1
    assert (search.collect()[1] == lists_of(**every).collect()[1]).all()


def test_an_approximate_search_stops_before_it_costs_more_than_exact_search() -> None:
    torch.manual_seed(1)
    table = torch.randn(700, 30)  # without clusters, so that the nearest lie anywhere
    every: dict[str, Any] = {"queries": table, "items": table, "k": 20, "plays": np.arange(700)}
    search = lists_of(**every, recall=1.0)
    (rows, _), recall = search.collect(), search.recall
    assert recall is not None
    exact, _ = lists_of(**every).collect()
    assert 0.1 < recall < 0.9
    found = np.mean([len(np.intersect1d(ours, best)) / 20 for ours, best in zip(rows, exact, strict=True)])
    assert found == pytest.approx(recall, abs=0.03)


@pytest.mark.parametrize(("num_clusters", "spread", "k"), [(200, 0.5, 20), (2500, 0.3, 5)])
def test_where_vectors_have_clusters_the_recall_is_reached(num_clusters: int, spread: float, k: int) -> None:
    torch.manual_seed(3)
    table = torch.randn(num_clusters, 32)[torch.randint(num_clusters, (20_000,))] + spread * torch.randn(20_000, 32)
    table = torch.nn.functional.normalize(table)
    every: dict[str, Any] = {"queries": table, "items": table, "k": k, "plays": np.ones(20_000, np.int64)}
    search = lists_of(**every, recall=0.95)
    assert search.recall is not None
    assert search.recall > 0.95


def test_float_noise_does_not_break_a_tie() -> None:
    torch.manual_seed(0)
    artist = torch.nn.functional.normalize(torch.randn(4, 64), dim=1)
    items = artist.repeat_interleave(25, dim=0) * (1 + 1e-7 * torch.randn(100, 1))
    rows, _ = lists_of(items, items, 24, np.zeros(100, np.int64), np.array([30])).collect()
    assert rows[0].tolist() == [row for row in range(25, 50) if row != 30]
    ranks = ranks_of(items, items, np.array([30]), np.array([49]))
    assert ranks.tolist() == [12.5]


def test_accuracy_agrees_with_torchmetrics_where_nothing_ties() -> None:
    torch.manual_seed(0)
    queries, items = torch.randn(80, 6), torch.randn(80, 6)
    previous = np.arange(60)
    following = (previous * 7 + 3) % 80
    keep = previous != following
    previous, following = previous[keep], following[keep]
    metrics = ranking.accuracy(ranks_of(queries, items, previous, following))
    for place, (query, target) in enumerate(zip(previous.tolist(), following.tolist(), strict=True)):
        candidates = torch.tensor([c for c in range(80) if c != query])
        # torchmetrics takes candidates whose score is not above 0 for irrelevant
        scores, relevant = (items[candidates] @ queries[query]).sigmoid(), candidates == target
        line = metrics.iloc[place]
        for k in (1, 10, 50):
            assert line[f"recall_at_{k}"] == retrieval_recall(scores, relevant, top_k=k).item()
        assert line["ndcg_at_10"] == pytest.approx(
            retrieval_normalized_dcg(scores, relevant, top_k=10).item(), abs=1e-6
        )
        assert line["mrr"] == pytest.approx(retrieval_reciprocal_rank(scores, relevant).item(), abs=1e-6)
