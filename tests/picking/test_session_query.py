"""The query vector of a session: against loops and against torch."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from segue.errors import InputError
from segue.models.contracts import Scorer
from segue.models.head_ranker import session_vectors
from segue.models.repeats import OF_ARTISTS
from segue.models.retrieval.ranks import boost_heard
from segue.picking.session_query import SessionQuery, age_weight, share_weight
from segue.picking.session_scores import SessionScores
from segue.runs.session_vectors import FILE, SessionVectors, context_of
from tests.conftest import make_catalog, make_order, make_search, make_vectors, make_vocabulary
from tests.models.plain import COSINES, DOT, LAST_TRACK, SESSION

NUM = 9
"""Added to a squared length, so that the query of a session that was skipped throughout is defined."""
CATALOG = make_catalog([0, 0, 1, 1, 2, 2, 3, 3, 3])
VOCABULARY = make_vocabulary([0, 0, 1, 1, 2, 2, 3, 3, 3])


def made(seed: int = 0, **changes: Any) -> SessionVectors:
    return make_vectors(NUM, seed, **changes)


def slow_query(vectors: SessionVectors, rows: list[int], shares: list[float]) -> list[float]:
    """The formula, number by number."""
    line: list[float] = []
    first = 0
    for part, end in enumerate(vectors.ends.tolist()):
        summed = []
        for column in range(first, end):
            total = 0.0
            for age, (row, share) in enumerate(zip(rows, shares, strict=True)):
                if row >= 0 and age < vectors.max_length:
                    gained = 1.0 if math.isnan(share) else vectors.skipped + (1 - vectors.skipped) * share
                    total += float(vectors.age_weights[part, age]) * gained * float(vectors.queries[row, column])
            summed.append(total)
        line += summed
        first = end
    constant: list[float] = vectors.queries[rows[0], first:].tolist()
    return line + constant


histories = st.lists(
    st.tuples(st.integers(0, NUM - 1), st.sampled_from([0.0, 0.4, 1.0, math.nan])), min_size=1, max_size=5
)


@settings(max_examples=60)
@example(sessions=[[(0, 0.4), (0, 0.0), (0, 0.0)]], seed=0)  # the weights of its tracks nearly cancel
@given(sessions=st.lists(histories, min_size=1, max_size=4), seed=st.integers(0, 5))
def test_a_query_is_that_of_slow_loops(sessions: list[list[tuple[int, float]]], seed: int) -> None:
    vectors, width = made(seed), max(map(len, sessions))
    rows = np.full((len(sessions), width), -1)
    shares = np.full(rows.shape, np.nan, np.float32)
    for line, session in enumerate(sessions):
        rows[line, : len(session)], shares[line, : len(session)] = zip(*session, strict=True)
    queries = SessionQuery(vectors).of(rows, shares)
    expected = [slow_query(vectors, *map(list, zip(*session, strict=True))) for session in sessions]
    np.testing.assert_allclose(queries, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("library", [np, torch])
def test_the_newest_track_weighs_1_and_earlier_ones_less_with_their_age(library: Any) -> None:
    age = library.arange(4)
    assert age_weight(age, 0.5, 0.8, library).tolist() == pytest.approx([1, 0.4, 0.2, 0.1])
    assert age_weight(age, 0.0, 0.8, library).tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("library", [np, torch])
def test_a_track_weighs_more_the_more_of_it_was_played_and_1_where_that_is_unknown(library: Any) -> None:
    share = library.asarray([0.0, 0.5, 1.0, math.nan])
    assert share_weight(share, -0.2, library).tolist() == pytest.approx([-0.2, 0.4, 1, 1])


def scorers() -> dict[str, Callable[[], Scorer]]:
    return {
        "convex": lambda: COSINES(VOCABULARY, alpha="learned", dim=5, item_bias=True),
        "contextual": lambda: DOT(VOCABULARY, dim=5),
    }


def heard_once(history: torch.Tensor) -> torch.Tensor:
    """Each track where it was heard last."""
    lines = [[-1 if row in line[:age] else row for age, row in enumerate(line)] for line in history.tolist()]
    return torch.tensor(lines)


@pytest.mark.parametrize("head", ["convex", "contextual"])
@pytest.mark.parametrize("repeats", ["always", "never", "boosts"])
def test_queries_and_scores_are_those_of_torch(head: str, repeats: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    scorer = scorers()[head]()
    parts = list(scorer.query_parts())
    decays = dict(zip(parts, (0.9, 0.4), strict=False))
    rule = "always" if repeats == "boosts" else repeats
    context = SESSION(VOCABULARY, parts, learns=True, max_length=4, decay=decays, skipped=-0.2, repeats=rule)
    if repeats == "boosts":
        context.repeats.fitted, context.repeats.used = np.zeros((2, OF_ARTISTS.stop)), "boosts"
        context.repeats.fitted[0, :3] = 0.7, -0.4, 0.9
    session_vectors(scorer, context).write(tmp_path / FILE, CATALOG)
    vectors = SessionVectors.read(tmp_path / FILE, CATALOG)
    history = torch.tensor([[2, 5, 1, -1], [0, -1, -1, -1], [3, 3, 0, 7], [6, 1, -1, -1]])
    share = torch.tensor([[0.5, torch.nan, 0.0, torch.nan], [0.25] + [torch.nan] * 3, [1.0, 0, 0.5, 0.1], [0, 1, 0, 0]])
    with torch.inference_mode():
        queries = context.queries(scorer, history[:, 0], history, share)
        scores = boost_heard(
            (queries.vectors @ scorer.item_vectors().T)[queries.of_pair], heard_once(history), vectors.boosts
        )
    rows, shares = history.numpy(), share.numpy()
    ours = SessionQuery(vectors).of(rows, shares)
    np.testing.assert_allclose(ours, queries.vectors.numpy(), atol=1e-5)
    everything = np.tile(np.arange(NUM, dtype=np.int32), (NUM, 1))
    search = make_search(vectors, everything, CATALOG.artist_of)
    ordered = search.best(rows, shares, NUM)
    for line, found in enumerate(ordered.tolist()):
        order = [row for row in scores[line].argsort(descending=True).tolist() if row != rows[line, 0]]
        if repeats == "never":
            order = [row for row in order if row not in rows[line]]
        assert [row for row in found if row >= 0] == order


def test_tracks_that_are_missing_at_the_end_do_not_change_a_query() -> None:
    vectors = made()
    rows, shares = np.array([[3, 5, -1]]), np.array([[0.2, np.nan, np.nan]], np.float32)
    assert (SessionQuery(vectors).of(rows, shares) == SessionQuery(vectors).of(rows[:, :2], shares[:, :2])).all()


def explain(
    vectors: SessionVectors, rows: np.ndarray, shares: np.ndarray, item: int, artist_of: np.ndarray = CATALOG.artist_of
) -> dict[str, list[float]]:
    return {name: part.tolist() for name, part in SessionScores(vectors, artist_of).explain(rows, shares, item).items()}


def test_the_parts_add_up_to_the_score_and_to_that_without_each_track() -> None:
    vectors = made(boosts=np.empty(0, np.float32))
    vectors.queries[:, 5] = 0.7  # the same for all tracks
    rows, shares = np.array([3, -1, 5, 6]), np.array([0.2, np.nan, 0.7, 1.0], np.float32)
    explained, scores = explain(vectors, rows, shares, 4), SessionScores(vectors, CATALOG.artist_of)
    assert list(explained) == ["track", "artist", "bias"]
    without = [rows, *([-1 if age == one else row for age, row in enumerate(rows)] for one in range(3))]
    for place, session in enumerate(without):
        score = float(scores.of(np.array([session]), shares[None], np.array([[4]]))[0, 0])
        assert sum(part[place] for part in explained.values()) == pytest.approx(score, abs=1e-5)
    for name, (first, end), later in (("track", (0, 3), 0.25), ("artist", (3, 5), 0.8)):
        products = [vectors.queries[row, first:end] @ vectors.items[4, first:end] for row in rows]
        added = [explained[name][0] - other for other in explained[name][1:]]
        weights = [-0.3 + 1.3 * 0.2, 0, later * (-0.3 + 1.3 * 0.7)]
        expected = [weight * product for weight, product in zip(weights, products, strict=False)]
        assert added == pytest.approx(expected, abs=1e-5), "the oldest track does not count"
    assert explained["bias"] == pytest.approx([0.7 * vectors.items[4, 5]] * 4)


def test_what_the_order_adds_is_explained_by_what_it_would_add_without_each_track() -> None:
    ordered = made(orders=(make_order(5),))
    rows, shares = np.array([3, 5, 6]), np.array([0.2, np.nan, 1.0], np.float32)

    def added(kept: list[int]) -> float:
        """Of the session without the other tracks, by the queries with the order and without it."""
        of = np.array([[row if age in kept else -1 for age, row in enumerate(rows)]]), shares[None]
        return float((SessionQuery(ordered).of(*of) - SessionQuery(made()).of(*of))[0] @ ordered.items[4])

    expected = [added([0, 1, 2]), *(added([*{0, 1, 2} - {one}]) for one in range(3))]
    found = explain(ordered, rows, shares, 4)["order"]
    assert found == pytest.approx(expected, abs=1e-5)
    assert len(set(found)) == 4


@pytest.mark.parametrize(("boosts", "added"), [([0.5, 0.25, 2.0, 7.0], 2.0), ([0.5, 0.25], 0.0), ([-np.inf] * 3, 0.0)])
def test_the_boost_of_a_track_is_explained(boosts: list[float], added: float) -> None:
    rows, unknown = np.array([3, 1, 5, 5]), np.full(4, np.nan, np.float32)
    found = explain(made(boosts=np.array(boosts, np.float32)), rows, unknown, 5)
    assert found.get("repeats", [0.0])[0] == pytest.approx(added)


def test_the_boost_of_an_artist_is_explained_where_a_track_has_none_of_its_own() -> None:
    rows, own = np.array([3, -1, 5, 4]), np.empty(0, np.float32)
    artist_of = np.array([0, 1, 0, 2, 1, 1, 2, 3, 1])
    vectors, unknown = made(boosts=own, artist_boosts=np.array([0.5, 7.0, 0.25, 2.0], np.float32)), np.full(4, np.nan)
    found = [explain(vectors, rows, unknown.astype(np.float32), item, artist_of) for item in (6, 1, 0)]
    assert [parts.get("repeats", [0.0])[0] for parts in found] == [0.5, 0.25, 0]
    assert found[1]["repeats"] == [0.25, 0.25, 0.25, 2.0], "without the third track the fourth one counts"


def test_the_context_of_one_track_is_its_query(tmp_path: Path) -> None:
    torch.manual_seed(1)
    scorer = scorers()["convex"]()
    vectors = session_vectors(scorer, LAST_TRACK(VOCABULARY, list(scorer.query_parts()), learns=True))
    assert (vectors.context, vectors.max_length, len(vectors.boosts)) == ("last", 1, 0)
    rows = np.array([[4, 1], [0, -1]])
    ours = SessionQuery(vectors).of(rows, np.array([[0.1, 0.3], [0.0, np.nan]], np.float32))
    np.testing.assert_array_equal(ours, vectors.queries[[4, 0]])
    vectors.write(tmp_path / FILE, CATALOG)
    assert context_of("arms.C", None, tmp_path / "r.jsonl") == "last"
    with pytest.raises(InputError, match=r"arms.C: context=session, and the run of .* was trained with context=last"):
        context_of("arms.C", "session", tmp_path / "r.jsonl")
