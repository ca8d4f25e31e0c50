"""Assignment of users to arms: known values, the real experiment, and the names of arms."""

import json
from pathlib import Path

import mmh3
import numpy as np
import pytest

from segue.assignment import check_arms, treatments
from segue.errors import InputError
from tests.odd_ids import ODD_IDS


def murmur3_32(key: bytes, seed: int) -> int:
    """Written from the definition (Appleby, MurmurHash3_x86_32), as a reference for the library and its seeds."""
    mask, state = 0xFFFFFFFF, seed
    tail = len(key) - len(key) % 4

    def mixed(block: int) -> int:
        block = block * 0xCC9E2D51 & mask
        return (block << 15 | block >> 17) * 0x1B873593 & mask

    for start in range(0, tail, 4):
        state ^= mixed(int.from_bytes(key[start : start + 4], "little"))
        state = (state << 13 | state >> 19) & mask
        state = (state * 5 + 0xE6546B64) & mask
    if key[tail:]:
        state ^= mixed(int.from_bytes(key[tail:], "little"))
    state ^= len(key)
    state = (state ^ state >> 16) * 0x85EBCA6B & mask
    state = (state ^ state >> 13) * 0xC2B2AE35 & mask
    return state ^ state >> 16


def test_the_hash_has_its_published_values() -> None:
    assert mmh3.hash("", 0, signed=False) == murmur3_32(b"", 0) == 0
    assert mmh3.hash("", 1, signed=False) == murmur3_32(b"", 1) == 0x514E28B7
    assert mmh3.hash("hello", 0, signed=False) == murmur3_32(b"hello", 0) == 0x248BFA47
    assert mmh3.hash("hello, world", 0, signed=False) == murmur3_32(b"hello, world", 0) == 0x149BBB7F


@pytest.mark.parametrize("num_arms", [2, 3, 7])
def test_the_arm_is_the_hash_of_the_user_id_salted_by_the_experiment(num_arms: int) -> None:
    users = np.array([0, 1, 9, 10, 4711, 9999, 123456789])
    expected = [murmur3_32(str(user).encode(), murmur3_32(b"MY_RECOMMENDER", 0)) % num_arms for user in users.tolist()]
    assert treatments(users, experiment="MY_RECOMMENDER", num_arms=num_arms).tolist() == expected


@pytest.mark.parametrize("num_arms", [2, 5])
def test_users_who_are_texts_are_assigned_by_their_bytes(num_arms: int) -> None:
    """A number and its text are the same user, and therefore in the same arm."""
    texts = [*ODD_IDS, "7", "4711"]
    salt = murmur3_32("Ü".encode(), 0)
    expected = [murmur3_32(text.encode(), salt) % num_arms for text in texts]
    assert treatments(np.array(texts, object), experiment="Ü", num_arms=num_arms).tolist() == expected
    assert treatments(np.array([7, 4711]), experiment="Ü", num_arms=num_arms).tolist() == expected[-2:]


def test_the_assignment_equals_that_of_the_real_experiment(real_data: Path) -> None:
    lines = (real_data / "botify-2023" / "logs" / "replica-1" / "data.json").read_text().splitlines()
    arm_of = {event["user"]: event["experiments"]["MY_RECOMMENDER"] for event in map(json.loads, lines)}
    given = treatments(np.array(list(arm_of)), experiment="MY_RECOMMENDER", num_arms=2)
    assert [("C", "T1")[arm] for arm in given.tolist()] == list(arm_of.values())


def test_arms_have_equal_shares_and_experiments_are_independent() -> None:
    users = np.arange(30_000)
    one, other = (treatments(users, experiment=name, num_arms=3) for name in ("A", "B"))
    both = np.bincount(one * 3 + other, minlength=9)
    assert np.abs(both / len(users) - 1 / 9).max() < 4 * (1 / 9 * 8 / 9 / len(users)) ** 0.5


def test_arms_are_sorted() -> None:
    assert check_arms(["T2", "C", "T1"]) == ["C", "T1", "T2"]


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ([], "arms is empty: an experiment needs at least the control"),
        (["C", "T2"], "arms C, T2 lack T1; an experiment with 2 arms has C, T1"),
        (["T1"], "arms T1 lack C; an experiment with 1 arm has C"),
        (["C", "B"], "arms has an arm named 'B'; the name of an arm is C or T1 to T9; rename it"),
        (["C", *(f"T{number}" for number in range(1, 11))], "arms has 11 arms; an experiment has at most 10, C and T1"),
    ],
)
def test_invalid_arms_are_rejected(arms: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_arms(arms)
