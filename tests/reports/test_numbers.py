"""Numbers and Markdown tables as people read them."""

import doctest
import math

from segue.reports import markdown, numbers


def test_the_examples_in_the_docstrings_hold() -> None:
    result = doctest.testmod(numbers)
    assert result.attempted >= 4
    assert result.failed == 0


def test_what_is_no_number_is_a_dash() -> None:
    nan = math.nan
    assert [numbers.number(nan, ".2g"), numbers.interval(nan, nan, "+.1f"), numbers.p_value(nan)] == ["–", "–", "–"]


def test_a_table_has_a_rule_for_each_column() -> None:
    lines = markdown.table(["name", "value"], [["a", "1"], ["b", "2"]], "lr")
    assert lines == ["| name | value |", "|---|--:|", "| a | 1 |", "| b | 2 |"]


def test_a_name_cannot_end_its_cell() -> None:
    assert markdown.escape("a|b") == "a\\|b"
