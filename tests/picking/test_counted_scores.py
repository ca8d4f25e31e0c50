"""The counted part of a score, against a slow loop."""

import math

import numpy as np
import pytest

from segue.picking.counted_scores import CountedScores
from segue.picking.session_query import SessionQuery
from segue.runs.counted_part import CountedPart
from tests.conftest import make_catalog, make_search, make_vectors

NUM, NEW = 7, 6
"""Nothing was counted of the last one."""
ROWS = np.array([[4, 1, 2, 0], [0, -1, 4, 4], [3, -1, -1, -1], [NEW, 2, 5, 1]])
SHARES = np.array([[1.0, np.nan, 0.25, 1.0], [0.5, 1.0, np.nan, 0.0], [0, 0, 0, 0], [1.0, 0.2, 1.0, 1.0]], np.float32)


def part_of(uncounted: float) -> CountedPart:
    rng = np.random.default_rng(3)
    rows = np.array([[(row + step) % NEW for step in (1, 3)] for row in range(NUM)], np.int32)
    shares = rng.dirichlet([1, 1, 1], NUM)[:, :2].astype(np.float32)
    rows[NEW], shares[NEW], rows[2, 1], shares[2, 1] = -1, 0, -1, 0
    age_weights = np.array([1, 0.5, 0.25], np.float32)
    return CountedPart(rows=rows, shares=shares, age_weights=age_weights, strength=0.7, uncounted=uncounted)


def slow(part: CountedPart, rows: list[int], shares: list[float], candidate: int) -> float:
    """What followed the tracks, weighted by their age and the share of each that was played."""
    played = [1.0 if math.isnan(share) else share for share in shares]
    weights = [w * share * (row >= 0) for w, row, share in zip(part.age_weights, rows, played, strict=False)]
    found, total = 0.0, sum(weights)
    for row, weight in zip(rows, weights, strict=False):
        if row >= 0 and total:
            of_row = dict(zip(part.rows[row].tolist(), part.shares[row].tolist(), strict=True))
            share = part.uncounted * sum(part.shares[row]) if candidate == NEW else of_row.get(candidate, 0.0)
            found += weight / total * share
    return found


@pytest.mark.parametrize("uncounted", [0.0, 0.3])
def test_the_share_is_that_of_the_loop_and_its_logarithm_is_added(uncounted: float) -> None:
    part = part_of(uncounted)
    counted, candidates = CountedScores(part), np.tile(np.arange(NUM), (len(ROWS), 1))
    expected = [
        [slow(part, rows, shares, row) for row in range(NUM)]
        for rows, shares in zip(ROWS.tolist(), SHARES.tolist(), strict=True)
    ]
    for _ in range(2):  # nothing is left of a call
        np.testing.assert_allclose(counted.of(ROWS, SHARES, candidates), expected, rtol=1e-5, atol=1e-7)
    head = np.random.default_rng(0).standard_normal((len(ROWS), NUM)).astype(np.float32)
    scores = head.copy()
    counted.add(scores, ROWS, SHARES, candidates)
    unit = (np.exp(np.float64(scores - head) / part.strength) - 1)[np.array(expected) > 0]
    shares = np.array(expected)[np.array(expected) > 0]
    np.testing.assert_allclose(shares / unit, (shares / unit)[0], rtol=1e-3)  # log(1 + share / UNIT)
    assert ((scores > head) == (np.array(expected) > 0)).all()


def test_a_search_adds_it_to_the_score_of_the_head_and_an_explanation_says_how_much() -> None:
    part = part_of(0.3)
    vectors = make_vectors(NUM, counted=part, boosts=np.empty(0, np.float32))
    lists = np.tile(np.arange(NUM, dtype=np.int32), (NUM, 1))
    artists = make_catalog(range(NUM)).artist_of
    search = make_search(vectors, lists, artists)
    query = SessionQuery(vectors)
    heads = query.of(ROWS[:1], SHARES[:1])[0] @ vectors.items.T
    explained = [search.scores.explain(ROWS[0], SHARES[0], row) for row in range(NUM)]
    counted = [float(one["counted"][0]) if "counted" in one else 0.0 for one in explained]
    assert [one > 0 for one in counted] == [
        slow(part, ROWS[0].tolist(), SHARES[0].tolist(), row) > 0 for row in range(NUM)
    ]
    scores = [head + one for head, one in zip(heads, counted, strict=True)]
    best = [row for row in np.argsort(np.negative(scores)).tolist() if row != ROWS[0, 0]]
    assert [row for row in search.best(ROWS[:1], SHARES[:1], NUM)[0].tolist() if row >= 0] == best
