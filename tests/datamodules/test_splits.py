import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.datamodules.pairs.sessions import session_keys
from segue.datamodules.splits import split
from segue.errors import InputError
from tests.datamodules.reading import rules_of

USER, NUMBER = np.arange(200) % 7, np.arange(200)


@given(num=st.integers(0, 200), kind=st.sampled_from(["time", "session", "pair"]))
def test_splits_have_the_shares_of_eight_one_one(num: int, kind: str) -> None:
    parts = split(kind, num, num, lambda: session_keys(USER[:num], NUMBER[:num]))
    assert np.abs(np.bincount(parts, minlength=3) - num * np.array([0.8, 0.1, 0.1])).max() <= 1


@pytest.mark.parametrize("kind", ["time", "order"])
def test_the_time_split_never_trains_on_what_came_later(kind: str) -> None:
    assert (np.diff(split(kind, 50, 0, lambda: USER)) >= 0).all()


def test_the_session_split_depends_on_the_keys_only() -> None:
    parts = split("session", 200, 0, lambda: session_keys(USER, NUMBER))
    assert (np.diff(parts) < 0).any()
    turned = split("session", 200, 0, lambda: session_keys(USER[::-1], NUMBER[::-1]))
    np.testing.assert_array_equal(parts[::-1], turned)


def test_a_source_without_a_clock_cannot_be_split_by_time() -> None:
    with pytest.raises(InputError, match=r"split=time needs timestamps.*use datamodule.split=session"):
        rules_of(split="time").split_of(has_clock=False)
    with pytest.raises(InputError, match=r"split=order is for sources without timestamps; use datamodule.split=time"):
        rules_of(split="order").split_of(has_clock=True)
    assert rules_of(split="order").split_of(has_clock=False) == "order"
    assert rules_of(split="auto").split_of(has_clock=False) == "session"
    assert rules_of(split="auto").split_of(has_clock=True) == "time"


def test_the_pair_split_is_always_the_same_permutation() -> None:
    parts = split("pair", 0, 1000, lambda: USER)
    assert parts.tolist() != sorted(parts.tolist())
    np.testing.assert_array_equal(parts, split("pair", 0, 1000, lambda: USER))
