"""Where the sessions of an A/B test come from."""

from typing import Any

import pytest

from segue.errors import InputError
from segue.verdicts.abtest.sources import arms_to_play


def test_arms_are_played_only_if_no_logs_are_given() -> None:
    assert arms_to_play("logs", {"control": None, "treatment": None}) is None
    given = {"control": "random", "treatment": {"recommender": "popular"}}
    assert arms_to_play(None, given) == {"C": "random", "T1": {"recommender": "popular"}}


@pytest.mark.parametrize(
    ("logs", "control", "treatment"),
    [(None, None, None), (None, "random", None), ("logs", None, "random"), ("logs", "random", "popular")],
)
def test_neither_logs_nor_both_recommenders_or_all_of_them_are_rejected(
    logs: str | None, control: Any, treatment: Any
) -> None:
    with pytest.raises(InputError, match="give either logs=<folder>, or both control= and treatment="):
        arms_to_play(logs, {"control": control, "treatment": treatment})
