"""The best tracks for a session, against slow loops."""

import math
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.picking.arm import Arm
from segue.picking.artist_tracks import ArtistTracks
from segue.picking.listener_scores import past_of
from segue.picking.picker import Picker
from segue.picking.session_query import SessionQuery, artist_boosts_of
from segue.picking.session_scores import import_faiss, inner_products
from segue.picking.session_search import SessionSearch, union
from segue.runs.profiles import DAY_MS, ENTRY
from segue.runs.session_vectors import OF_LISTENER, SessionVectors
from tests.conftest import make_catalog, make_search, make_vectors, make_vocabulary

NUM = 9
TINY = 1e-6
"""Added to a squared length, so that the query of a session that was skipped throughout is defined."""
CATALOG = make_catalog([0, 0, 1, 1, 2, 2, 3, 3, 3])
VOCABULARY = make_vocabulary([0, 0, 1, 1, 2, 2, 3, 3, 3])


def made(seed: int = 0, **changes: Any) -> SessionVectors:
    return make_vectors(NUM, seed, **changes)


def slow_best(
    vectors: SessionVectors,
    query: Any,
    candidates: list[int],
    heard: list[int],
    may_repeat: bool,
    of_artists: bool = False,
) -> list[int]:
    """`heard` is newest first."""
    artist_of, artists = CATALOG.artist_of.tolist(), [CATALOG.artist_of[row] if row >= 0 else -1 for row in heard]
    scores: dict[int, float] = {}
    for row in candidates:
        age = heard.index(row) if row in heard else len(vectors.boosts)
        boost = vectors.boosts[age] if age < len(vectors.boosts) else np.float32(0)
        if row < 0 or row == heard[0] or (row in heard and not may_repeat) or np.isinf(boost):
            continue
        if of_artists and age >= len(vectors.boosts) and artist_of[row] in artists[: len(vectors.artist_boosts)]:
            boost = vectors.artist_boosts[artists.index(artist_of[row])]
        scores.setdefault(row, float(np.float32(np.vecdot(vectors.items[row], query)) + boost))
    return [row for row, _ in sorted(scores.items(), key=lambda item: -item[1])]


@settings(max_examples=80)
@given(
    candidates=st.lists(st.integers(-1, NUM - 1), min_size=1, max_size=14),
    heard=st.lists(st.integers(0, NUM - 1), min_size=1, max_size=4),
    boosts=st.lists(st.sampled_from([0.5, -1.5, -math.inf]), max_size=5),
    may_repeat=st.booleans(),
    k=st.integers(1, 16),
    same=st.booleans(),
)
def test_the_best_are_those_of_a_slow_loop_and_equal_ones_keep_their_order(
    candidates: list[int], heard: list[int], boosts: list[float], may_repeat: bool, k: int, same: bool
) -> None:
    vectors = made(boosts=np.array(boosts, np.float32))
    if same:  # tracks of which nothing is known have the same vector
        vectors.items[:] = vectors.items[np.arange(NUM) // 4]
    rows, shares = np.array([heard[::-1]]), np.ones((1, len(heard)), np.float32)
    [query] = SessionQuery(vectors).of(rows, shares)
    for line in (candidates, candidates[::-1], np.roll(candidates, 1).tolist()):
        lists = np.tile(np.array(line, np.int32), (NUM, 1))
        search = make_search(vectors, lists, CATALOG.artist_of, num_lists=1, may_repeat=may_repeat)
        found = search.best(rows, shares, k)[0].tolist()
        expected = slow_best(vectors, query, line, heard[::-1], may_repeat)
        assert found == expected[:k] + [-1] * (min(k, len(line)) - len(expected[:k]))


@pytest.mark.parametrize("with_faiss", [True, False])
def test_a_score_is_an_inner_product_whatever_is_scored_beside_it(
    monkeypatch: pytest.MonkeyPatch, with_faiss: bool
) -> None:
    if not with_faiss:
        monkeypatch.setattr("segue.picking.session_scores.import_faiss", lambda: None)
    vectors, candidates = made(), np.array([[8, -1, 0, 5], [3, 3, NUM + 7, -1]], np.int32)
    queries = np.asfortranarray(vectors.queries[[5, 2]])
    found, is_row = inner_products(vectors.items, queries, candidates), (candidates >= 0) & (candidates < NUM)
    expected = np.einsum("sv,scv->sc", queries, vectors.items[candidates.clip(0, NUM - 1)])
    assert found.dtype == np.float32
    assert found[is_row] == pytest.approx(expected[is_row], abs=1e-6)
    alone = [
        [inner_products(vectors.items, queries[s : s + 1], candidates[s : s + 1, c : c + 1]) for c in range(4)]
        for s in (0, 1)
    ]
    assert (np.block(alone)[is_row] == found[is_row]).all()
    arrays = {**vectors.arrays(), "items": np.asfortranarray(vectors.items)}
    arrays["items"].flags.writeable = False  # as those of a release are
    stored = SessionVectors.of_arrays(arrays, num_tracks=NUM, where="a release")
    assert (inner_products(stored.items, queries, candidates)[is_row] == found[is_row]).all()


def test_nothing_is_read_after_the_vector_of_the_last_track() -> None:
    beyond = np.vstack([made().items, np.full((1, 6), np.nan, np.float32)])
    assert np.isfinite(inner_products(beyond[:NUM], made().queries[:1], np.array([[NUM, NUM + 7]], np.int32))).all()


@pytest.mark.parametrize("platform", [sys.platform, "darwin"])
def test_faiss_is_used_on_linux_alone(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    assert (import_faiss.__wrapped__() is not None) == (platform == "linux")


def test_scores_leave_the_number_of_threads_of_torch_alone() -> None:
    vectors, before = made(), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        inner_products(vectors.items, vectors.queries[:1], np.array([[1, 2]], np.int32))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_lists_of_the_last_tracks_follow_one_another() -> None:
    lists = np.array([[1, 2], [2, -1], [0, 1]], np.int32)
    assert union(lists, np.array([[1, 0], [2, -1]])).tolist() == [[2, -1, 1, 2], [0, 1, -1, -1]]


LISTS = np.array([[(row + step) % NUM for step in (1, 4, 2)] for row in range(NUM)], np.int32)


@pytest.mark.parametrize("may_repeat", [True, False])
@pytest.mark.parametrize("boosts", [[], [0.5, -1.5]])
@pytest.mark.parametrize("of_artists", [[], [3.0, 3.0, -2.0, 5.0]])
def test_a_search_ranks_the_lists_of_the_last_tracks_by_the_query_of_the_session(
    may_repeat: bool, boosts: list[float], of_artists: list[float]
) -> None:
    """The query looks at three tracks and their shares, the lists are those of two, and all five count as heard."""
    vectors = made(boosts=np.array(boosts, np.float32), artist_boosts=np.array(of_artists, np.float32))
    rows = np.array([[4, 1, 7, 5, 2], [2, -1, 5, 8, 3]])
    shares = np.array([[0.1, 1.0, np.nan], [1.0, np.nan, 0.0]], np.float32)
    search = make_search(vectors, LISTS, CATALOG.artist_of, num_lists=2, may_repeat=may_repeat)
    found, queries = search.best(rows, shares, 4).tolist(), SessionQuery(vectors).of(rows[:, :3], shares)
    for line, heard in enumerate(rows.tolist()):
        candidates = [row for last in heard[:2] if last >= 0 for row in LISTS[last].tolist()]
        expected = slow_best(vectors, queries[line], candidates, heard, may_repeat, of_artists=True)
        assert [row for row in found[line] if row >= 0] == expected[:4]


KNOWN = np.zeros((1, 4), ENTRY)
"""Of rows 6 and 7, played in full two days and a day ago; 8 was skipped, and row 3 is not known any more."""
KNOWN["track"], KNOWN["best"], KNOWN["shares"] = [6, 7, 8, 3], [1, 0.9, 0.1, 1], [1, 1.8, 0.1, 0]
KNOWN["plays"], KNOWN["last_ms"] = [1, 2, 1, 0], [DAY_MS, 2 * DAY_MS, 9000, 0]


def of_listener(share: float = 0.0) -> SessionSearch:
    """Searches the lists of two tracks for a listener whose past adds the mean share of a track, so many times."""
    weights = np.array([share * (name == "share") for name in OF_LISTENER], np.float32)
    how: dict[str, Any] = {"context": "listener", "listener": weights}
    vectors = made(boosts=np.empty(0, np.float32), **how)
    return make_search(vectors, LISTS, CATALOG.artist_of, num_lists=2, may_repeat=False)


def scores_of(search: SessionSearch, rows: Any, shares: Any) -> dict[int, float]:
    """By the row of the candidate, of the session and of the listener's past."""
    candidates = [row for last in rows[0, :2] if last >= 0 for row in LISTS[last].tolist()]
    candidates += [6, 7, 8, *LISTS[[6, 7, 8]].ravel().tolist()]
    query = SessionQuery(search.vectors).of(rows[:, : shares.shape[1]], shares)[0]
    return {row: float(search.vectors.items[row] @ query) for row in candidates if row not in rows[0]}


@pytest.mark.parametrize(("familiar", "times"), [(1.0, 0.0), (0.8, 0.5), (0.5, 1.0), (0.2, 2.0), (0.0, 1e6)])
@pytest.mark.parametrize("share", [0.0, 3.0])
def test_known_tracks_lose_a_part_of_what_they_have_before_others(share: float, familiar: float, times: float) -> None:
    search, rows, shares = of_listener(share), np.array([[4, 1]]), np.array([[1.0, 0.5]], np.float32)
    found = search.best(rows, shares, NUM, past_of(KNOWN, rows, np.array([3 * DAY_MS])), familiar)[0].tolist()
    means = {6: 1.0, 7: 0.9, 8: 0.1}
    scores = {row: score + share * means.get(row, 0) for row, score in scores_of(search, rows, shares).items()}
    gap = float(np.mean([scores[6], scores[7]]) - np.mean([scores[row] for row in scores if row not in (6, 7)]))
    lowered = {row: score - times * max(gap, 0.0) * (row in (6, 7)) for row, score in scores.items()}
    assert [row for row in found if row >= 0] == sorted(lowered, key=lambda row: -lowered[row])


def test_known_tracks_that_come_after_all_others_keep_their_order() -> None:
    """Also where all candidates are known and their scores are near one another."""
    search, rows, shares = of_listener(), np.array([[4, 1]]), np.array([[1.0, 0.5]], np.float32)
    near = replace(search.vectors, items=search.vectors.items * np.float32(1e-3))
    search = make_search(near, LISTS, CATALOG.artist_of, num_lists=2, may_repeat=False)
    profile = np.repeat(KNOWN[:, 1:2], NUM, axis=1)
    profile["track"] = np.arange(NUM)
    past = past_of(profile, rows, np.array([3 * DAY_MS]))
    usual, last = (search.best(rows, shares, NUM, past, familiar).tolist() for familiar in (1.0, 0.0))
    assert last == usual


def test_listeners_without_a_past_are_searched_as_sessions_alone_beside_others() -> None:
    search, rows = of_listener(share=5), np.array([[4, 1], [4, 1], [3, 0]])
    shares, nobody = np.ones((3, 2), np.float32), np.zeros((1, 4), ENTRY)
    first = KNOWN[:, [3, 0, 1, 2]].copy()
    first["track"][0, 1] = 0  # a past of row 0 alone
    first[0, 2:] = nobody[0, 2:]
    past = past_of(np.concatenate([KNOWN, nobody, first]), rows, np.full(3, 3 * DAY_MS))
    found = search.best(rows, shares, 4, past)
    for line in (0, 2):
        one = slice(line, line + 1)
        own = past_of(past.entries[one], rows[one], past.now_ms[one])
        alone = search.best(rows[one], shares[one], 4, own)
        assert found[line, : alone.shape[1]].tolist() == alone[0].tolist()
    assert found[1].tolist() == search.best(rows[1:2], shares[1:2], 4)[0].tolist()
    assert found[0].tolist() != found[1].tolist()


def test_a_track_gets_the_boost_of_its_artist_where_it_has_none_of_its_own() -> None:
    vectors = made(boosts=np.array([0.5, -1.5], np.float32), artist_boosts=np.array([4, 3, -2, 5], np.float32))
    rows, heard = np.arange(NUM, dtype=np.int32)[None], np.array([[4, 1, 7, 5]], np.int32)
    found = artist_boosts_of(vectors, CATALOG.artist_of, rows, heard)
    assert found.tolist() == [[3, 0, 0, 0, 0, 4, -2, -2, -2]]


@pytest.mark.parametrize(("num_lists", "length"), [(2, 3), (5, 5)])
def test_a_search_needs_the_tracks_of_its_query_and_of_its_lists(num_lists: int, length: int) -> None:
    assert make_search(made(), LISTS, CATALOG.artist_of, num_lists=num_lists).length == length


@pytest.mark.parametrize(
    ("pick", "artist_gap", "exploration", "num_kept"),
    [
        ("ranked", 0, 0.0, 1),
        ("ranked", 1, 0.0, NUM),
        ("ranked", 1, 0.1, 3),
        ("weighted", 0, 0.0, 3),
        ("uniform", 1, 0.0, 3),
    ],
)
def test_the_best_alone_is_kept_where_it_is_always_picked_and_all_where_an_artist_may_be_skipped(
    pick: str, artist_gap: int, exploration: float, num_kept: int
) -> None:
    """Otherwise as many as a list has."""
    search = make_search(made(), LISTS, CATALOG.artist_of, num_lists=2, may_repeat=False)
    artists = ArtistTracks.of(CATALOG.artist_of)
    arm = Arm(recommender="r.jsonl", pick=pick, artist_gap=artist_gap, exploration=exploration)
    assert Picker(arm=arm, artists=artists, lists=LISTS, search=search).num_kept == num_kept
