from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.datamodules.pairs.sessions import Sessions
from segue.datamodules.splits import split_pairs, split_sessions
from segue.errors import InputError
from tests.conftest import make_listens


def sessions_of(num: int, has_clock: bool = True) -> Sessions:
    number, no_one = np.arange(num), np.zeros(num, np.int64)
    return Sessions(
        user=number % 7,
        number=number,
        listener=no_one,
        has_clock=has_clock,
        listens=make_listens([]),
        timestamp=no_one[:0],
        place=no_one[:0],
        num_interleaved=0,
        num_tied=0,
        dropped={},
    )


@given(num=st.integers(0, 300), split=st.sampled_from(["time", "session"]), seed=st.integers(0, 2**31))
def test_splits_have_the_shares_of_eight_one_one(num: int, split: str, seed: int) -> None:
    parts = split_sessions(sessions_of(num), split=split, seed=seed)
    assert np.abs(np.bincount(parts, minlength=3) - num * np.array([0.8, 0.1, 0.1])).max() <= 1


def test_the_time_split_never_trains_on_what_came_later() -> None:
    parts = split_sessions(sessions_of(50), split="time", seed=0)
    assert (np.diff(parts) >= 0).all()


def test_the_session_split_depends_on_its_seed_and_the_keys_only() -> None:
    sessions = sessions_of(200)
    parts = split_sessions(sessions, split="session", seed=3)
    np.testing.assert_array_equal(parts, split_sessions(sessions, split="session", seed=3))
    assert (parts != split_sessions(sessions, split="session", seed=4)).any()
    assert (np.diff(parts) < 0).any()
    turned = replace(sessions, user=sessions.user[::-1], number=sessions.number[::-1])
    np.testing.assert_array_equal(parts[::-1], split_sessions(turned, split="session", seed=3))


def test_a_source_without_a_clock_cannot_be_split_by_time() -> None:
    with pytest.raises(InputError, match=r"split=time needs timestamps.*use datamodule.split=session"):
        split_sessions(sessions_of(10, has_clock=False), split="time", seed=0)


def test_the_pair_split_is_a_permutation_of_the_same_shares() -> None:
    parts = split_pairs(1000, seed=1)
    assert np.bincount(parts).tolist() == [800, 100, 100]
    assert parts.tolist() != sorted(parts.tolist())
    np.testing.assert_array_equal(parts, split_pairs(1000, seed=1))
