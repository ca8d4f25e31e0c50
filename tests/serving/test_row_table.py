"""Tests for rows of many tracks by their keys."""

import numpy as np
import pytest

from segue.catalog import key_of
from segue.serving.row_table import RowTable


@pytest.mark.parametrize(
    "keys",
    [[0], [3, 4, 9, 20], [5, 2**40, 2**62], sorted(map(key_of, "abcdefgh")), [-(2**63), -7, 0, 1, 2**63 - 1]],
    ids=["a zero", "small numbers", "large numbers", "texts", "both ends"],
)
def test_a_table_has_the_row_of_each_key_and_minus_one_for_any_other(keys: list[int]) -> None:
    own = {key: row for row, key in enumerate(keys)}
    asked = np.array([[*keys, 0, 8, 10], [*keys[::-1], -1, 2**62 + 1, 21]])
    entries = np.zeros(asked.shape, [("other", np.int32), ("track", np.int64)])
    entries["track"] = asked
    expected = [[own.get(key, -1) for key in line] for line in asked.tolist()]
    assert RowTable(np.array(keys)).of(asked).tolist() == expected
    assert RowTable(np.array(keys)).of(entries["track"]).tolist() == expected
