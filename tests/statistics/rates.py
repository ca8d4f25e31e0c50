"""How error rates are tested: on thousands of synthetic experiments whose true effect is known."""

from collections.abc import Callable
from typing import Any, TypeVar

import jaxtyping
import numpy as np
import pytest

Result = TypeVar("Result")


def within_four_standard_errors(count: float, expected: float, num: int) -> bool:
    """Whether the rate `count / num` is within four standard errors of the expected rate."""
    return bool(abs(count / num - expected) < 4 * (expected * (1 - expected) / num) ** 0.5)


def repeat(num: int, experiment: Callable[[], Result]) -> list[Result]:
    """The results of an experiment that is repeated.

    Shapes are checked in the first one: they are those of all, and a check takes longer than what it checks.
    """
    results = [experiment()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        results += [experiment() for _ in range(num - 1)]
    return results


def skewed(rng: np.random.Generator, num: int | tuple[int, ...]) -> Any:
    """Time per session of users: 1 plus a skewed part, as for simulated listeners."""
    return 1 + rng.gamma(0.8, 3.0, num)
