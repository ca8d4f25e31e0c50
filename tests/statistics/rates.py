"""How error rates are tested: on thousands of synthetic experiments whose true effect is known."""

from typing import Any

import numpy as np


def within_four_standard_errors(count: float, expected: float, num: int) -> bool:
    """Whether the rate `count / num` is within four standard errors of the expected rate."""
    return bool(abs(count / num - expected) < 4 * (expected * (1 - expected) / num) ** 0.5)


def skewed(rng: np.random.Generator, num: int | tuple[int, ...]) -> Any:
    """Time per session of users: 1 plus a skewed part, as for simulated listeners."""
    return 1 + rng.gamma(0.8, 3.0, num)
