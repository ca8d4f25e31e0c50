from typing import Any

import pytest

from src.abtest.sources import arms_to_play
from src.errors import InputError


def test_logs_are_read_or_two_recommenders_are_played() -> None:
    assert arms_to_play("logs", {"control": None, "treatment": None}) is None
    given = {"control": "random", "treatment": {"recommender": "popular"}}
    assert arms_to_play(None, given) == {"C": "random", "T1": {"recommender": "popular"}}


@pytest.mark.parametrize(
    ("logs", "control", "treatment"),
    [(None, None, None), (None, "random", None), ("logs", None, "random"), ("logs", "random", "popular")],
)
def test_neither_and_both_are_refused(logs: str | None, control: Any, treatment: Any) -> None:
    with pytest.raises(InputError, match="give logs=<folder>, or both control= and treatment="):
        arms_to_play(logs, {"control": control, "treatment": treatment})
