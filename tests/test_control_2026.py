"""The control of 2026, compared with a slow loop written from its rules."""

import re
from fractions import Fraction
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from examples.course_2026.control_2026 import LIST_LENGTH, Control
from segue.errors import InputError
from segue.picking.arm import MOST_PLAYS, Arm, checked_probabilities, own_rule
from segue.picking.artist_tracks import ArtistTracks
from segue.picking.picker import Picked, Picker

SURE = 1e-4
"""Smallest p value that a statistical test at a fixed seed accepts; the seed was not selected."""

POLICY = "examples.course_2026.control_2026:Control"

Plays = tuple[Any, Any]
Play = tuple[int, int]  # a track, or -1 for one that left the catalogue, and the share played in hundredths


def chances_of(
    ring: list[Play], lists: list[list[int]], num_tracks: int, kept: frozenset[int] = frozenset()
) -> list[Fraction]:
    """The probability of each track, by drawing one anchor after another, as the service of 2026 did.

    Args:
        ring: the last plays, the newest first.
        lists: of each track.
        num_tracks: of the catalogue.
        kept: tracks that are not drawn where nothing else is left.
    """
    ring = ring[:10]
    heard = {track for track, _ in ring}
    anchors = list(dict.fromkeys(track for track, _ in ring))
    weight = {anchor: sum(share for track, share in ring if track == anchor) for anchor in anchors}
    found = [Fraction(0)] * num_tracks

    level = {tuple(anchors): Fraction(1)}  # anchors that are left, and the probability that it comes to that
    while level:
        following: dict[tuple[int, ...], Fraction] = {}
        for left, chance in level.items():
            for track in () if left else sorted(set(range(num_tracks)) - kept):
                found[track] += chance / (num_tracks - len(kept))
            total = sum(weight[anchor] for anchor in left)
            drawn = (
                {anchor: Fraction(weight[anchor], total) for anchor in left} if total else dict.fromkeys(left[-1:], 1)
            )
            for anchor in (one for one in drawn if drawn[one]):
                ranked = lists[anchor][:10] if anchor >= 0 else []
                candidate = next((track for track in ranked if track not in heard), None)
                if candidate is None:
                    rest = tuple(other for other in left if other != anchor)
                    following[rest] = following.get(rest, Fraction(0)) + chance * drawn[anchor]
                else:
                    found[candidate] += chance * drawn[anchor]
        level = following
    return found


@st.composite
def situations(draw: st.DrawFn) -> tuple[int, list[list[int]], list[Play]]:
    num = draw(st.integers(2, 9))
    rows = st.lists(st.integers(0, num - 1), unique=True, max_size=num)
    lists = draw(st.lists(rows, min_size=num, max_size=num))
    plays = st.tuples(st.integers(-1, num - 1), st.sampled_from([0, 0, 10, 35, 100]))
    return num, lists, draw(st.lists(plays, min_size=1, max_size=13))


def rule(num: int, lists: list[list[int]], kept: frozenset[int] = frozenset()) -> Picker:
    width = max(1, *map(len, lists))
    filled = np.array([own + [-1] * (width - len(own)) for own in lists], np.int32)
    artists = ArtistTracks.of(np.zeros(num, np.int64), kept=np.array(sorted(kept), np.int64))
    return Picker(arm=Arm(recommender="r.jsonl", policy=POLICY), artists=artists, own=Control(lists=filled))


def plays_of(ring: list[Play], num: int = 1, empty: int = 0) -> Plays:
    """The same plays of so many users, with some empty places after them."""
    tracks, shares = zip(*ring, strict=True)
    rows = [*tracks, *[-1] * empty]
    return (np.tile(rows, (num, 1)), np.tile([share / 100 for share in shares] + [np.nan] * empty, (num, 1)))


def pick(ours: Picker, plays: Plays, rng: np.random.Generator) -> Picked:
    rows, shares = plays
    return ours.pick_next(np.empty((len(rows), 0), np.int32), rows, rng, shares)


def chances(ours: Picker, plays: Plays, num: int) -> list[float]:
    found: list[float] = (
        ours.choices(np.arange(num)[None], np.empty((len(plays[0]), 0), np.int32), *plays).asked[0].tolist()
    )
    return found


@settings(max_examples=300)
@given(situation=situations(), empty=st.integers(0, 3))
def test_the_probabilities_are_those_of_the_loop(
    situation: tuple[int, list[list[int]], list[Play]], empty: int
) -> None:
    num, lists, ring = situation
    expected = [float(one) for one in chances_of(ring, lists, num)]
    assert sum(expected) == pytest.approx(1)
    assert chances(rule(num, lists), plays_of(ring, empty=empty), num) == pytest.approx(expected)


@settings(max_examples=50)
@given(situation=situations())
def test_what_is_picked_has_the_probability_that_is_said(situation: tuple[int, list[list[int]], list[Play]]) -> None:
    num, lists, ring = situation
    ours, many = rule(num, lists), plays_of(ring, num=2000)
    expected = np.array(chances(ours, plays_of(ring), num))
    picked = pick(ours, many, np.random.default_rng(0))
    assert picked.propensities.tolist() == pytest.approx(expected[picked.rows].tolist())
    found = np.bincount(picked.rows, minlength=num)
    possible = expected > 1e-12
    assert found[~possible].sum() == 0
    assert possible.sum() == 1 or chisquare(found[possible], 2000 * expected[possible]).pvalue > SURE


def test_the_sum_of_the_shares_of_a_track_is_its_weight_and_two_anchors_can_have_one_candidate() -> None:
    """Track 0 was played twice, .5 in all; track 1 to .5; track 2 to 1, and has the candidate of track 0."""
    lists = [[1, 3, 5], [0, 4], [0, 1, 3], [], [], []]
    ring = [(0, 20), (1, 50), (2, 100), (0, 30)]
    assert chances(rule(6, lists), plays_of(ring), 6) == pytest.approx([0, 0, 0, 0.75, 0.25, 0])


def test_where_nothing_was_played_the_oldest_anchor_with_a_candidate_is_taken() -> None:
    lists = [[3], [4], [0, 1], [], []]
    ours = rule(5, lists)
    assert chances(ours, plays_of([(0, 0), (1, 0), (2, 0), (1, 0)]), 5) == [0, 0, 0, 0, 1]
    picked = pick(ours, plays_of([(0, 0), (1, 0), (2, 0)], num=50), np.random.default_rng(1))
    assert set(picked.rows.tolist()) == {4}
    assert set(picked.propensities.tolist()) == {1.0}


def test_without_a_candidate_any_track_is_drawn_but_those_that_are_kept() -> None:
    ours = rule(4, [[1], [0], [], []], kept=frozenset({2}))
    plays = plays_of([(0, 100), (1, 100)], num=400)
    picked = pick(ours, plays, np.random.default_rng(2))
    assert set(picked.rows.tolist()) == {0, 1, 3}
    assert set(picked.propensities.tolist()) == {1 / 3}
    assert set(picked.sources.tolist()) == {1}
    assert chances(ours, plays_of([(0, 100), (1, 100)]), 4) == pytest.approx([1 / 3, 1 / 3, 0, 1 / 3])


def test_ten_plays_are_remembered_and_ten_tracks_of_a_list_looked_at() -> None:
    assert (Control.num_plays, LIST_LENGTH) == (10, 10)
    long = [[*range(1, 13)], *[[] for _ in range(14)]]
    heard = [(0, 100), *((track, 0) for track in range(1, 10))]
    assert chances(rule(15, long), plays_of(heard), 15)[10] == 1, "number 10 of the list"
    beyond = [[*range(1, 10), 0, 11], *[[] for _ in range(14)]]
    assert chances(rule(15, beyond), plays_of(heard), 15) == pytest.approx([1 / 15] * 15), "number 11 is not looked at"
    older = [*((track, 0) for track in range(2, 12)), (0, 100)]
    assert chances(rule(15, long), plays_of(older), 15) == pytest.approx([1 / 15] * 15), "play 11 is forgotten"


def test_a_track_that_left_the_catalogue_has_no_list_and_hides_no_candidate() -> None:
    assert chances(rule(3, [[2], [], []]), plays_of([(-1, 100), (0, 1)]), 3) == [0, 0, 1]


@pytest.mark.parametrize(
    ("rows", "chances", "message"),
    [
        ([[0]], [[0.5, 0.5]], r"1 lines of rows from -1 to 2, whole numbers, and chances.*got \(array\(\[\[0\]\]\)"),
        ([[1.5]], [[1.0]], r"whole numbers"),
        ([0], [1.0], r"arrays: 1 lines"),
        ([[0], [1]], [[1.0], [1.0]], r"1 lines"),
        ([[0, 3]], [[0.5, 0.5]], r"rows from -1 to 2, .*got \(array\(\[\[0, 3\]\]\)"),
        ([[0, 1]], [[0.5, 0.4]], r"with the sum 1 or 0; got \(array\(\[\[0, 1\]\]\), array\(\[\[0.5, 0.4\]\]\)\)"),
        ([[0, 1]], [[1.5, -0.5]], r"with the sum 1 or 0"),
        ([[0, 1]], [[np.nan, 1.0]], r"with the sum 1 or 0"),
        ([[0, -1]], [[0.5, 0.5]], r"0 for row -1"),
    ],
)
def test_what_a_class_of_ones_own_must_not_return_is_refused(rows: Any, chances: Any, message: str) -> None:
    own = Mock(num_plays=1, probabilities=lambda *_: (np.array(rows), np.array(chances)))
    ours = Picker(arm=Arm(recommender="r", policy=POLICY), artists=ArtistTracks.of(np.zeros(3, np.int64)), own=own)
    with pytest.raises(InputError, match=f"^policy={POLICY} must return .*{message}"):
        pick(ours, plays_of([(0, 100)]), np.random.default_rng(1))


@pytest.mark.parametrize("found", [None, ([[0]], [[1.0]]), (np.zeros((1, 1), np.int64),)])
def test_what_is_no_pair_of_arrays_is_refused(found: Any) -> None:
    with pytest.raises(InputError, match=f"^policy={POLICY} must return arrays: 1 lines"):
        checked_probabilities(POLICY, found, 1, 3)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("a..b:C", "name a class that is built from lists"),
        ("json:JSONDecoder", "unexpected keyword argument 'lists'; name a class that is built from lists"),
        ("math:pi", "not callable; name a class"),
        ("no_such_module:C", "No module named 'no_such_module'; name a class"),
        ("builtins:dict", f"must have probabilities, and num_plays from 1 to {MOST_PLAYS}, got None"),
    ],
)
def test_what_is_no_class_of_ones_own_is_refused(policy: str, message: str) -> None:
    with pytest.raises(InputError, match=f"^policy={re.escape(policy)}.*{re.escape(message)}"):
        own_rule(policy, lists=np.zeros((1, 1), np.int32))


def test_a_class_of_ones_own_may_have_nothing_to_say() -> None:
    own = Mock(num_plays=1, probabilities=lambda *_: (np.array([[-1]]), np.array([[0.0]])))
    ours = Picker(arm=Arm(recommender="r", policy=POLICY), artists=ArtistTracks.of(np.zeros(3, np.int64)), own=own)
    assert chances(ours, plays_of([(0, 100)]), 3) == pytest.approx([1 / 3] * 3)
