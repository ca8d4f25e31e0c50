"""Places of lists."""

import numpy as np
import pytest

from segue.picking.places import are_in


@pytest.mark.parametrize("num_sessions", [1, 3, 40])
def test_rows_are_found_among_those_of_their_own_session(num_sessions: int) -> None:
    rng = np.random.default_rng(0)
    rows, others = rng.integers(-1, 9, (num_sessions, 7)), rng.integers(-1, 9, (num_sessions, 5))
    expected = [[row in own for row in line] for line, own in zip(rows.tolist(), others.tolist(), strict=True)]
    assert are_in(rows, others).tolist() == expected
    assert not are_in(rows, others[:, :0]).any()
