"""Ranks by histories: those of slow loops, with heard tracks as candidates, boosted, or last."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pytest
import torch

from segue.histories import Histories
from segue.models.ranker import Scoring
from segue.models.retrieval.ranks import boost_heard, ranks_by_plays
from tests.models.plain import ByTable

NUM_TRACKS, NUM_QUERIES, LENGTH = 9, 40, 3


AMONG = np.arange(NUM_TRACKS) % 3 > 0


def mean_rank(
    keys: Sequence[tuple[float, ...]], target: int, excluded: int | None, among: np.ndarray | None = None
) -> float:
    """Rank by keys, the highest first; equal keys share the mean of their ranks."""
    rows: Iterable[int] = range(len(keys)) if among is None else np.flatnonzero(among).tolist()
    others = [keys[row] for row in rows if row not in (target, excluded)]
    above, equal = (sum(test) for test in zip(*[(k > keys[target], k == keys[target]) for k in others], strict=True))
    return 1 + float(above) + float(equal) / 2


@pytest.fixture
def questions() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Histories, newest first and of different lengths, and a next track, which some have heard."""
    rng = np.random.default_rng(0)
    heard = rng.integers(NUM_TRACKS, size=(NUM_QUERIES, LENGTH))
    heard[np.arange(LENGTH) >= rng.integers(1, LENGTH + 1, NUM_QUERIES)[:, None]] = -1
    heard[:, 1][heard[:, 1] == heard[:, 0]] = -1  # each track once, where it was heard last
    heard[:, 2][(heard[:, :2] == heard[:, 2:]).any(1)] = -1
    following = (heard[:, 0] + rng.integers(1, NUM_TRACKS, NUM_QUERIES)) % NUM_TRACKS
    assert (heard == following[:, None]).any(1).sum() > 3
    return heard, heard[:, 0], following


def candidates_after(previous: np.ndarray, among: np.ndarray) -> np.ndarray:
    """A candidate for each query that is not the query itself."""
    rows = np.flatnonzero(among)
    drawn = rows[np.random.default_rng(3).integers(len(rows), size=len(previous))]
    return np.where(drawn == previous, rows[(rows.searchsorted(drawn) + 1) % len(rows)], drawn)


class Boosted(ByTable):
    """A line of scores for each query, whose tracks heard are boosted; each query has its own."""

    def __init__(self, table: np.ndarray, order: np.ndarray | None, heard: np.ndarray, boosts: list[float]) -> None:
        super().__init__(torch.from_numpy(table).float(), order)
        self._heard, self._boosts = torch.from_numpy(heard), np.array(boosts, np.float32)

    def by_previous(self, every: bool) -> bool:  # noqa: ARG002
        return False

    def scoring(self, **_: bool) -> Scoring:
        return lambda some: boost_heard(self._table[some.last].clone(), self._heard[some.last], self._boosts)


@pytest.mark.parametrize("among", [None, AMONG], ids=["all", "some"])
@pytest.mark.parametrize("every", [False, True])
@pytest.mark.parametrize("by_plays", [False, True])
@pytest.mark.parametrize("boosts", [[], [0.5, -1.5, 2.5], [-math.inf] * 3])
def test_ranks_are_those_of_loops(
    questions: tuple[np.ndarray, ...], boosts: list[float], by_plays: bool, every: bool, among: np.ndarray | None
) -> None:
    heard, previous, following = questions
    if every and among is None:
        following = np.where(np.arange(len(following)) % 3 == 0, previous, following)
    if among is not None:
        following = candidates_after(previous, among)
    rng = np.random.default_rng(1)
    table, plays = rng.integers(-2, 4, (NUM_QUERIES, NUM_TRACKS)), rng.integers(3, size=NUM_TRACKS)
    done: list[int] = []
    ranker = Boosted(table, plays if by_plays else None, heard, boosts)
    ranks = ranker.ranks(Histories.of_tracks(previous), following, done.append, among=among, every=every)
    assert sum(done) == NUM_QUERIES
    for query in range(NUM_QUERIES):
        keys = []
        for row, score in enumerate(table[query].tolist()):
            age = heard[query].tolist().index(row) if row in heard[query] else LENGTH
            boost = [*boosts, 0.0, 0.0, 0.0, 0.0][age]
            keys.append((boost > -math.inf, score if boost == -math.inf else score + boost, by_plays * plays[row]))
        assert ranks[query] == mean_rank(keys, following[query], None if every else previous[query], among)


@pytest.mark.parametrize("every", [False, True])
def test_ranks_by_plays_are_those_of_scores_that_all_tie(every: bool) -> None:
    rng = np.random.default_rng(4)
    plays, previous = rng.integers(5, size=30), rng.integers(30, size=200)
    following = (previous + rng.integers(0 if every else 1, 30, 200)) % 30
    expected = ByTable(torch.zeros(30, 30), plays).ranks(Histories.of_tracks(previous), following, every=every)
    np.testing.assert_array_equal(ranks_by_plays(plays, None if every else previous, following), expected)


def test_tracks_already_heard_come_below_all_others_in_their_own_order() -> None:
    scores = torch.tensor([[3.0, 1.0, 2.0, 5.0], [0.0, 1.0, 2.0, 3.0]])
    heard = torch.tensor([[3, 0, -1], [-1, -1, -1]])
    lowered = boost_heard(scores.clone(), heard, np.full(3, -np.inf, np.float32))
    assert lowered[0].argsort(descending=True).tolist() == [2, 1, 3, 0]
    assert torch.equal(lowered[1], scores[1])
    assert boost_heard(scores.clone(), heard[:, :2], np.array([-1, 2], np.float32))[0].tolist() == [5.0, 1.0, 2.0, 4.0]
