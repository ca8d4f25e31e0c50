"""Which treatment a user gets: the rule of the service, shared by whoever plays or serves an experiment.

U users. Source: the predecessor's experiment module; murmur3 is the 32-bit variant of MurmurHash3.
"""

import re
from collections.abc import Iterable

import mmh3
import numpy as np
from jaxtyping import Int64

from src.errors import InputError

MAX_ARMS = 10
"""`C` and `T1` to `T9`."""


def check_arms(names: Iterable[str]) -> list[str]:
    """The names of an experiment's arms in their order, `C`, `T1`, `T2`, …

    Raises:
        InputError: there is no arm, one is missing in the row, a name is none, or there are too many.
    """
    given = [str(name) for name in names]
    if not given:
        raise InputError("arms is empty: an experiment needs at least the control, such as arms={C: random}")
    if len(given) > MAX_ARMS:
        raise InputError(f"{len(given)} arms are more than the assignment allows: at most {MAX_ARMS}, C and T1 to T9")
    wrong = [name for name in given if not re.fullmatch(r"C|T[1-9]", name)]
    if wrong:
        raise InputError(f"an arm is called C, T1, T2, … up to T9, got {wrong[0]!r}; rename it in arms")
    wanted = ["C", *(f"T{number}" for number in range(1, len(given)))]
    if missing := sorted(set(wanted) - set(given)):
        raise InputError(f"arms {', '.join(given)} leave out {missing[0]}; {len(given)} arms are {', '.join(wanted)}")
    return wanted


def treatments(user_ids: Int64[np.ndarray, "U"], *, experiment: str, num_arms: int) -> Int64[np.ndarray, "U"]:
    """Number of the arm of each user: 0 is `C`, k is `Tk`."""
    salt = salt_of(experiment)
    return np.array([treatment(user, salt=salt, num_arms=num_arms) for user in user_ids.tolist()], np.int64)


def salt_of(experiment: str) -> int:
    """What makes the assignments of two experiments independent."""
    return mmh3.hash(experiment) & 0xFFFFFFFF


def treatment(user: int, *, salt: int, num_arms: int) -> int:
    """Number of the arm of one user; `salt` is that of the experiment."""
    return mmh3.hash(str(user), salt, signed=False) % num_arms
