"""Who gets which arm: fixed known values, the real experiment, and the names of arms."""

import json
from pathlib import Path

import mmh3
import numpy as np
import pytest

from src.assignment import check_arms, treatments
from src.errors import InputError


def murmur3_32(key: bytes, seed: int) -> int:
    """Written from the definition (Appleby, MurmurHash3_x86_32), to hold the library and its seeds against."""
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
def test_a_user_gets_the_hash_of_their_id_salted_by_the_experiment(num_arms: int) -> None:
    users = np.array([0, 1, 9, 10, 4711, 9999, 123456789])
    expected = [murmur3_32(str(user).encode(), murmur3_32(b"MY_RECOMMENDER", 0)) % num_arms for user in users.tolist()]
    assert treatments(users, experiment="MY_RECOMMENDER", num_arms=num_arms).tolist() == expected


def test_the_real_experiment_assigned_its_users_alike(real_data: Path) -> None:
    lines = (real_data / "botify-2023" / "logs" / "replica-1" / "data.json").read_text().splitlines()
    arm_of = {event["user"]: event["experiments"]["MY_RECOMMENDER"] for event in map(json.loads, lines)}
    given = treatments(np.array(list(arm_of)), experiment="MY_RECOMMENDER", num_arms=2)
    assert [("C", "T1")[arm] for arm in given.tolist()] == list(arm_of.values())


def test_arms_split_users_evenly_and_experiments_split_them_anew() -> None:
    users = np.arange(30_000)
    one, other = (treatments(users, experiment=name, num_arms=3) for name in ("A", "B"))
    both = np.bincount(one * 3 + other, minlength=9)
    assert np.abs(both / len(users) - 1 / 9).max() < 4 * (1 / 9 * 8 / 9 / len(users)) ** 0.5


def test_arms_come_in_their_order_whatever_the_order_given() -> None:
    assert check_arms(["T2", "C", "T1"]) == ["C", "T1", "T2"]


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ([], "arms is empty: an experiment needs at least the control"),
        (["C", "T2"], "arms C, T2 leave out T1; 2 arms are C, T1"),
        (["T1"], "leave out C"),
        (["C", "B"], "an arm is called C, T1, T2, … up to T9, got 'B'"),
        (["C", *(f"T{number}" for number in range(1, 11))], "11 arms are more than the assignment allows: at most 10"),
    ],
)
def test_what_cannot_be_an_experiment_is_refused(arms: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_arms(arms)
