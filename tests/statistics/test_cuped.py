"""CUPED: what an earlier period changes, and what not."""

import numpy as np

from src.statistics.cuped import cuped


def test_users_who_were_not_there_before_keep_their_values() -> None:
    rng = np.random.default_rng(3)
    values, arm_of = rng.exponential(size=200), np.arange(200) % 2
    taken_off, _ = cuped(values, np.where(np.arange(200) < 100, rng.random(200), np.nan), arm_of)
    assert (taken_off[100:] == values[100:]).all()
