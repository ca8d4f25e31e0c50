"""CUPED: which values a pre-period changes."""

import numpy as np

from src.statistics.cuped import cuped


def test_users_without_a_pre_period_keep_their_values() -> None:
    rng = np.random.default_rng(3)
    values, arm_of = rng.exponential(size=200), np.arange(200) % 2
    adjusted, _ = cuped(values, np.where(np.arange(200) < 100, rng.random(200), np.nan), arm_of)
    assert (adjusted[100:] == values[100:]).all()
