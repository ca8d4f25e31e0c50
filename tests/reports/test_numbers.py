"""Numbers and Markdown tables as people read them."""

import math

from segue.reports import numbers


def test_what_is_no_number_is_a_dash() -> None:
    nan = math.nan
    assert [numbers.number(nan, ".2g"), numbers.interval(nan, nan, "+.1f"), numbers.p_value(nan)] == ["–", "–", "–"]
