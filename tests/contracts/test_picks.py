"""What every rule offers that picks a place of a list."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.picking.arm import Arm
from segue.picking.picker import draw
from segue.picking.places import PICKS, shares_of
from tests.picking.test_picker import SESSION, SURE, p_value_of_propensities


@pytest.mark.parametrize("rule", PICKS)
@given(is_open=st.lists(st.booleans(), max_size=6))
def test_the_probabilities_of_all_places_are_those_of_the_picks(rule: str, is_open: list[bool]) -> None:
    """Draws at the middle of 840 equal parts of [0, 1): the share of each place is its probability, up to 1 / 840."""
    num = 840
    chances = shares_of(PICKS[rule](np.asarray([is_open] * num, bool)))
    picked, found = draw(chances, np.tile(np.arange(len(is_open)), (num, 1)), (np.arange(num) + 0.5) / num)
    if not any(is_open):
        assert (picked == -1).all()
        assert not found.any()
        return
    assert chances[0].sum() == pytest.approx(1)
    assert (found == chances[0][picked]).all()
    assert np.bincount(picked, minlength=len(is_open)) / num == pytest.approx(chances[0], abs=1.01 / num)


@pytest.mark.parametrize("rule", PICKS)
def test_a_picker_reports_the_probability_of_what_it_picks(rule: str) -> None:
    situation = SESSION._replace(pick=rule)
    assert p_value_of_propensities(situation.picker(), situation) > SURE


@pytest.mark.parametrize("rule", PICKS)
def test_a_service_says_what_it_does(rule: str) -> None:
    arm = Arm(recommender="r.jsonl", policy="lists", pick=rule)
    assert str(PICKS[rule].__doc__).endswith(".")
    assert f"pick={rule}" in arm.describe()


@pytest.mark.parametrize(
    ("rule", "expected"), [("uniform", [4, 0, 4, 4]), ("ranked", [12, 0, 0, 0]), ("weighted", [8, 0, 2, 2])]
)
def test_the_rules_are_what_they_say(rule: str, expected: list[int]) -> None:
    """12 draws from the first, third and fourth place: 1, 1/3 and 1/4 are 12, 4 and 3 of 19."""
    places, draws = np.tile([True, False, True, True], (12, 1)), (np.arange(12) + 0.5) / 12
    rows, _ = draw(shares_of(PICKS[rule](places)), np.tile(np.arange(4), (12, 1)), draws)
    assert np.bincount(rows, minlength=4).tolist() == expected
