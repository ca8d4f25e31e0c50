import math
from typing import Any

import pytest

from segue.errors import InputError, check_number


@pytest.mark.parametrize(
    ("value", "law"),
    [
        (1, {"whole": True, "least": 1}),
        (0.5, {"least": 0, "most": 1}),
        (1, {"least": 0, "most": 1}),
        (1e-9, {"above": 0}),
    ],
)
def test_a_number_within_its_law_passes(value: float, law: dict[str, Any]) -> None:
    check_number("knob", value, **law)


@pytest.mark.parametrize(
    ("value", "law", "message"),
    [
        (0, {"whole": True, "least": 1}, "knob must be a whole number of at least 1, got 0"),
        (1.0, {"whole": True, "least": 1}, "knob must be a whole number of at least 1, got 1.0"),
        (True, {"whole": True, "least": 1}, "knob must be a whole number of at least 1, got True"),
        ("3", {"above": 0}, "knob must be a number above 0, got '3'"),
        (None, {"least": 0, "most": 1}, "knob must be a number of at least 0 and at most 1, got None"),
        (0, {"above": 0, "hint": "try 1"}, "knob must be a number above 0, got 0; try 1"),
        (math.nan, {}, "knob must be a number , got nan"),
        (math.inf, {"above": 0}, "knob must be a number above 0, got inf"),
        (2, {"most": 1}, "knob must be a number at most 1, got 2"),
    ],
)
def test_a_number_outside_its_law_is_refused(value: object, law: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        check_number("knob", value, **law)
    assert str(error.value) == message.replace(" ,", ",")
