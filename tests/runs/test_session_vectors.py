"""Session vectors: against loops and against torch, and every file that is not one."""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from segue.errors import InputError
from segue.models.contracts import Scorer
from segue.models.export import session_vectors
from segue.models.retrieval.ranks import demote
from segue.runs.session_vectors import FILE, SessionVectors, context_of, union
from tests.conftest import make_catalog, make_vectors, make_vocabulary
from tests.models.plain import COSINES, DOT, LAST_TRACK, SESSION

NUM = 9
TINY = 1e-6
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
        length, power = float(vectors.lengths[part]), float(vectors.powers[part])
        size = math.sqrt(sum(number**2 for number in summed) / length**2 + TINY)
        line += summed if math.isnan(length) else [number / size**power for number in summed]
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
    queries = vectors.query(rows, shares)
    expected = [slow_query(vectors, *map(list, zip(*session, strict=True))) for session in sessions]
    np.testing.assert_allclose(queries, expected, atol=2e-5, rtol=1e-4)


def scorers() -> dict[str, Callable[[], Scorer]]:
    return {
        "convex": lambda: COSINES(VOCABULARY, alpha="learned", dim=5, item_bias=True),
        "contextual": lambda: DOT(VOCABULARY, dim=5),
    }


@pytest.mark.parametrize("head", ["convex", "contextual"])
@pytest.mark.parametrize("repeats", ["always", "never", "penalty"])
def test_queries_and_scores_are_those_of_torch(head: str, repeats: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    scorer = scorers()[head]()
    parts = list(scorer.query_parts())
    decays = dict(zip(parts, (0.9, 0.4), strict=False))
    context = SESSION(
        VOCABULARY, parts, learns=True, max_length=4, decay=decays, skipped=-0.2, normalise=0.7, repeats=repeats
    )
    session_vectors(scorer, context).write(tmp_path / FILE, CATALOG)
    vectors = SessionVectors.read(tmp_path / FILE, CATALOG)
    history = torch.tensor([[2, 5, 1, -1], [0, -1, -1, -1], [3, 3, 0, 7], [6, 1, -1, -1]])
    share = torch.tensor([[0.5, torch.nan, 0.0, torch.nan], [0.25] + [torch.nan] * 3, [1.0, 0, 0.5, 0.1], [0, 1, 0, 0]])
    with torch.inference_mode():
        queries = context.queries(scorer, history[:, 0], history, share)
        scores = demote((queries.vectors @ scorer.item_vectors().T)[queries.of_pair], history, float(vectors.penalty))
    rows, shares = history.numpy(), share.numpy()
    ours = vectors.query(rows, shares)
    np.testing.assert_allclose(ours, queries.vectors.numpy(), atol=1e-5)
    everything = np.tile(np.arange(NUM, dtype=np.int32), (len(rows), 1))
    best = vectors.best(ours, everything, rows.astype(np.int32), may_repeat=True, k=NUM)
    for line, found in enumerate(best.tolist()):
        order = [row for row in scores[line].argsort(descending=True).tolist() if row != rows[line, 0]]
        if repeats == "never":
            order = [row for row in order if row not in rows[line]]
        assert [row for row in found if row >= 0] == order


def test_a_file_of_an_older_version_has_shares_by_its_lengths_and_a_rule_for_the_whole_session(
    tmp_path: Path,
) -> None:
    arrays = {name: array for name, array in made().arrays().items() if name not in ("part_shares", "heard_within")}
    np.savez(tmp_path / FILE, allow_pickle=False, track_ids=CATALOG.track_ids, **arrays)
    vectors = SessionVectors.read(tmp_path / FILE, CATALOG)
    np.testing.assert_array_equal(vectors.shares, made().lengths ** 2)
    assert vectors.heard_within == 1000


def test_the_context_of_one_track_is_its_query(tmp_path: Path) -> None:
    torch.manual_seed(1)
    scorer = scorers()["convex"]()
    vectors = session_vectors(scorer, LAST_TRACK(VOCABULARY, list(scorer.query_parts()), learns=True))
    assert (vectors.context, vectors.max_length, vectors.penalty) == ("last", 1, 0)
    rows = np.array([[4, 1], [0, -1]])
    ours = vectors.query(rows, np.array([[0.1, 0.3], [0.0, np.nan]], np.float32))
    np.testing.assert_array_equal(ours, vectors.queries[[4, 0]])
    vectors.write(tmp_path / FILE, CATALOG)
    assert context_of("arms.C", None, tmp_path / "r.jsonl") == "last"
    with pytest.raises(InputError, match=r"arms.C: context=session, and the run of .* was trained with context=last"):
        context_of("arms.C", "session", tmp_path / "r.jsonl")


def test_the_context_is_that_of_the_run_unless_it_is_given(tmp_path: Path) -> None:
    lists = tmp_path / "recommendations.jsonl"
    assert context_of("arms.C", None, lists) == "last"
    with pytest.raises(InputError, match=r"context=session needs vectors.npz beside .*; train a run with context=ses"):
        context_of("arms.C", "session", lists)
    made().write(tmp_path / FILE, CATALOG)
    assert [context_of("arms.C", given, lists) for given in (None, "last", "session")] == ["session", "last", "session"]
    with pytest.raises(InputError, match=r"arms\.C: context must be one of last, session, got 'all'"):
        context_of("arms.C", "all", lists)


def slow_best(
    vectors: SessionVectors,
    query: Any,
    candidates: list[int],
    heard: set[int],
    newest: int,
    may_repeat: bool,
) -> list[int]:
    scores: dict[int, float] = {}
    for row in candidates:
        if row < 0 or row == newest or (row in heard and (not may_repeat or math.isinf(vectors.penalty))):
            continue
        score = np.float32(np.vecdot(vectors.items[row], query))
        if row in heard and vectors.penalty:
            score -= np.float32(vectors.penalty)
        scores.setdefault(row, float(score))
    return [row for row, _ in sorted(scores.items(), key=lambda item: -item[1])]


@settings(max_examples=80)
@given(
    candidates=st.lists(st.integers(-1, NUM - 1), min_size=1, max_size=14),
    heard=st.lists(st.integers(0, NUM - 1), min_size=1, max_size=4),
    penalty=st.sampled_from([0.0, 0.5, math.inf]),
    within=st.integers(1, 4),
    may_repeat=st.booleans(),
    k=st.integers(1, 16),
    same=st.booleans(),
)
def test_the_best_are_those_of_a_slow_loop_and_equal_ones_keep_their_order(
    candidates: list[int], heard: list[int], penalty: float, within: int, may_repeat: bool, k: int, same: bool
) -> None:
    vectors = made(penalty=penalty, heard_within=within)
    if same:  # tracks of which nothing is known have the same vector
        vectors.items[:] = vectors.items[np.arange(NUM) // 4]
    queries = vectors.queries[[5, 2]]
    lines = np.array([candidates, candidates[::-1]], np.int32)
    newest_first = np.array([heard[::-1], heard[::-1]], np.int32)
    found = vectors.best(queries, lines, newest_first, may_repeat=may_repeat, k=k)
    assert found.shape[1] == min(k, len(candidates))
    recent = set(heard[-within:] if may_repeat else heard)
    for line in (0, 1):
        expected = slow_best(vectors, queries[line], lines[line].tolist(), recent, heard[-1], may_repeat)
        rows = found[line].tolist()
        assert [row for row in rows if row >= 0] == expected[:k]
        assert rows[len(expected[:k]) :] == [-1] * (len(rows) - len(expected[:k]))


@pytest.mark.parametrize("with_faiss", [True, False])
def test_a_score_is_an_inner_product_whatever_is_scored_beside_it(
    monkeypatch: pytest.MonkeyPatch, with_faiss: bool
) -> None:
    if not with_faiss:
        monkeypatch.setattr("segue.runs.session_vectors.import_faiss", lambda: None)
    vectors, candidates = made(), np.array([[8, -1, 0, 5], [3, 3, NUM + 7, -1]], np.int32)
    queries = np.asfortranarray(vectors.queries[[5, 2]])
    found, is_row = vectors.scores(queries, candidates), (candidates >= 0) & (candidates < NUM)
    expected = np.einsum("sv,scv->sc", queries, vectors.items[candidates.clip(0, NUM - 1)])
    assert found.dtype == np.float32
    assert found[is_row] == pytest.approx(expected[is_row], abs=1e-6)
    alone = [[vectors.scores(queries[s : s + 1], candidates[s : s + 1, c : c + 1]) for c in range(4)] for s in (0, 1)]
    assert (np.block(alone)[is_row] == found[is_row]).all()
    arrays = {**vectors.arrays(), "items": np.asfortranarray(vectors.items)}
    arrays["items"].flags.writeable = False  # as those of a release are
    stored = SessionVectors.of_arrays(arrays, num_tracks=NUM, where="a release")
    assert (stored.scores(queries, candidates)[is_row] == found[is_row]).all()


def test_scores_leave_the_number_of_threads_of_torch_alone() -> None:
    vectors, before = made(), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        vectors.scores(vectors.queries[:1], np.array([[1, 2]], np.int32))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_tracks_that_are_missing_at_the_end_do_not_change_a_query() -> None:
    vectors = made()
    rows, shares = np.array([[3, 5, -1]]), np.array([[0.2, np.nan, np.nan]], np.float32)
    assert (vectors.query(rows, shares) == vectors.query(rows[:, :2], shares[:, :2])).all()


def test_the_products_add_up_to_the_score() -> None:
    vectors = made()
    rows, shares = np.array([3, -1, 5, 6]), np.array([0.2, np.nan, 0.7, 1.0], np.float32)
    score = vectors.scores(vectors.query(rows[None], shares[None]), np.array([[4]], np.int32))[0, 0]
    weights, products, rest = vectors.products(rows, shares, 4)
    assert float((weights * products).sum()) + rest == pytest.approx(float(score), abs=1e-5)
    assert weights.shape == products.shape == (2, 3), "the oldest track does not count"


def test_lists_of_the_last_tracks_follow_one_another() -> None:
    lists = np.array([[1, 2], [2, -1], [0, 1]], np.int32)
    assert union(lists, np.array([[1, 0], [2, -1]])).tolist() == [[2, -1, 1, 2], [0, 1, -1, -1]]


def test_a_file_may_list_the_tracks_in_another_order(tmp_path: Path) -> None:
    vectors, order = made(), np.array([3, 1, 0, 2, 8, 7, 6, 5, 4])
    vectors.write(tmp_path / FILE, CATALOG)
    catalog = replace(CATALOG, track_ids=CATALOG.track_ids[order])
    assert (SessionVectors.read(tmp_path / FILE, catalog).items == vectors.items[order]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"queries": np.zeros((NUM, 6))},
            "is damaged: queries must be float32 with 2 dimensions, and is float64 with 2",
        ),
        ({"queries": None}, "is damaged: queries must be float32 with 2 dimensions, and is missing"),
        (
            {"items": np.zeros((NUM, 5), np.float32)},
            r"is damaged: items must have the shape \(9, 6\), and has \(9, 5\)",
        ),
        ({"part_ends": np.array([5, 5])}, "is damaged: part_ends must increase up to at most 6"),
        ({"part_powers": np.array([0.5, 2], np.float32)}, r"is damaged: part_powers must be in \[0, 1\]"),
        ({"part_shares": np.array([0.5, 2], np.float32)}, r"is damaged: part_shares must be in \[0, 1\], or NaN"),
        ({"heard_within": np.array(-1)}, "is damaged: heard_within must be 0 to 1000"),
        (
            {"age_weights": np.full((2, 3), np.nan, np.float32)},
            "is damaged: age_weights must be finite and of 1 to 1000",
        ),
        ({"age_weights": np.zeros((2, 0), np.float32)}, "is damaged: age_weights must be finite and of 1 to 1000 ages"),
        ({"skipped": np.array(np.nan, np.float32)}, r"is damaged: skipped must be in \[-1, 1\]"),
        ({"heard_penalty": np.array(-1, np.float32)}, "is damaged: heard_penalty must be at least 0"),
        ({"context": np.array("all")}, "is damaged: context must be one of last, session"),
        ({"items": np.full((NUM, 6), np.inf, np.float32)}, "is damaged: items must be finite"),
        ({"track_ids": np.arange(NUM)}, "has vectors of other tracks than the catalogue of 9 tracks"),
        ({"track_ids": None}, "has vectors of other tracks than the catalogue of 9 tracks"),
        ({"queries": np.zeros((NUM, 6), object)}, "is damaged: Object arrays cannot be loaded"),
        ({"more": np.zeros(5 * 2**20)}, "is damaged: it has .* bytes, more than the .* that 9 tracks need"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    arrays: dict[str, Any] = {"track_ids": CATALOG.track_ids, **made().arrays(), **change}
    np.savez(tmp_path / FILE, **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(InputError, match=message) as refused:
        SessionVectors.read(tmp_path / FILE, CATALOG)
    assert "\n" not in str(refused.value)


def test_a_file_of_another_catalogue_or_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / FILE
    with pytest.raises(InputError, match=f"cannot read {re.escape(str(path))}: No such file"):
        SessionVectors.read(path, CATALOG)
    path.write_bytes(b"no archive")
    with pytest.raises(InputError, match="is damaged: File is not a zip file; train again"):
        SessionVectors.read(path, CATALOG)
    made().write(path, CATALOG)
    with pytest.raises(InputError, match="has vectors of 9 tracks, and the catalogue has 2; use the vectors and the"):
        SessionVectors.read(path, make_catalog([0, 1]))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="is damaged"):
        SessionVectors.read(path, CATALOG)
    path.write_bytes(whole.replace(b"\x93NUMPY", b"\x93NUMPX", 1))
    with pytest.raises(InputError, match="is damaged"):
        SessionVectors.read(path, CATALOG)
