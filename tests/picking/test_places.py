"""A place of each list, and its probability."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.picking.places import PICKS, are_in, pick, pick_probabilities


@given(
    is_open=st.lists(st.booleans(), min_size=1, max_size=6),
    how=st.sampled_from(PICKS),
)
def test_the_probabilities_of_all_places_are_those_of_the_picks(is_open: list[bool], how: str) -> None:
    """Draws at the middle of 840 equal parts of [0, 1): the share of each place is its probability, up to 1 / 840."""
    num = 840
    places = np.asarray([is_open] * num)
    picked = pick(how, places, (np.arange(num) + 0.5) / num)
    probabilities = pick_probabilities(how, places)[0]
    if not any(is_open):
        assert probabilities.tolist() == [0.0] * len(is_open)
        assert (picked == -1).all()
        return
    assert probabilities.sum() == pytest.approx(1)
    assert np.bincount(picked, minlength=len(is_open)) / num == pytest.approx(probabilities, abs=1.01 / num)


def test_ranked_picks_the_first_available_place() -> None:
    places = np.array([[True, True, True], [False, True, True], [False, False, False]])
    assert pick("ranked", places, np.zeros(3)).tolist() == [0, 1, -1]


def test_weighted_picks_proportionally_to_one_over_the_rank() -> None:
    draws = (np.arange(11) + 0.5) / 11  # 1 + 1/2 + 1/3 is 11 sixths
    assert np.bincount(pick("weighted", np.ones((11, 3), bool), draws)).tolist() == [6, 3, 2]


def test_uniform_picks_available_places_equally_often() -> None:
    places = np.tile([True, False, True, True], (6, 1))
    assert pick("uniform", places, (np.arange(6) + 0.5) / 6).tolist() == [0, 0, 2, 2, 3, 3]


@pytest.mark.parametrize("num_sessions", [1, 3, 40])
def test_rows_are_found_among_those_of_their_own_session(num_sessions: int) -> None:
    rng = np.random.default_rng(0)
    rows, others = rng.integers(-1, 9, (num_sessions, 7)), rng.integers(-1, 9, (num_sessions, 5))
    expected = [[row in own for row in line] for line, own in zip(rows.tolist(), others.tolist(), strict=True)]
    assert are_in(rows, others).tolist() == expected
    assert not are_in(rows, others[:, :0]).any()
