"""Assignment of users to the arms of an experiment; the simulator and the service use the same rule.

U users. Source: the experiment module of botify, the service of 2023. The hash is the 32-bit variant of MurmurHash3.
"""

import re
from collections.abc import Iterable

import mmh3
import numpy as np
from jaxtyping import Int64, Shaped

from segue.errors import InputError

GUESTS = range(10**18 - 10**10, 10**18)
"""Ids of users who try a service out, such as listeners of the room. No analysis of a log counts them."""

MAX_ARMS = 10
"""The largest number of arms of an experiment: `C` and `T1` to `T9`."""


def check_arms(names: Iterable[str]) -> list[str]:
    """Check the names of the arms of an experiment and sort them.

    Args:
        names: names of the arms, in any order.

    Returns:
        The names in order: `C`, `T1`, `T2`, …

    Raises:
        InputError: there is no arm, there are too many, a name is not the name of an arm, or one is missing between
            others.
    """
    if not (given := [str(name) for name in names]):
        raise InputError("arms is empty: an experiment needs at least the control, such as arms={C: random}")
    if len(given) > MAX_ARMS:
        raise InputError(f"arms has {len(given)} arms; an experiment has at most {MAX_ARMS}, C and T1 to T9")
    if invalid := [name for name in given if not re.fullmatch(r"C|T[1-9]", name)]:
        raise InputError(f"arms has an arm named {invalid[0]!r}; the name of an arm is C or T1 to T9; rename it")
    expected = ["C", *(f"T{number}" for number in range(1, len(given)))]
    if missing := sorted(set(expected) - set(given)):
        raise InputError(
            f"arms {', '.join(given)} lack {missing[0]}; an experiment with {len(given)} "
            f"arm{'s' * (len(given) > 1)} has {', '.join(expected)}"
        )
    return expected


def treatments(user_ids: Shaped[np.ndarray, "U"], *, experiment: str, num_arms: int) -> Int64[np.ndarray, "U"]:
    """Assign users to arms.

    Args:
        user_ids: ids, whole numbers or texts, shape `[U]`.
        experiment: name of the experiment.
        num_arms: number of arms, 1 to 10.

    Returns:
        Number of the arm of each user, shape `[U]`: 0 is `C`, k is `Tk`.
    """
    salt = salt_of(experiment)
    return np.array([treatment(user, salt=salt, num_arms=num_arms) for user in user_ids.tolist()], np.int64)


def salt_of(experiment: str) -> int:
    """The salt of an experiment, which makes the assignments of two experiments independent.

    Returns:
        An unsigned 32-bit hash of the name.
    """
    return mmh3.hash(experiment) & 0xFFFFFFFF


def treatment(user: int | str, *, salt: int, num_arms: int) -> int:
    """Assign one user to an arm, by the bytes of the id as text in UTF-8: 7 and "7" are in the same arm.

    Args:
        user: the id.
        salt: of the experiment, see `salt_of`.
        num_arms: number of arms, 1 to 10.

    Returns:
        Number of the arm: 0 is `C`, k is `Tk`.
    """
    return mmh3.hash(str(user), salt, signed=False) % num_arms
