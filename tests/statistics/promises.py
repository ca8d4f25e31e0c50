"""How promises of the statistics are tested: on thousands of experiments whose truth is known."""

from typing import Any

import numpy as np


def within_four_errors(count: float, promised: float, num: int) -> bool:
    """Whether a rate is so close to the promised one that chance explains the rest."""
    return bool(abs(count / num - promised) < 4 * (promised * (1 - promised) / num) ** 0.5)


def skewed(rng: np.random.Generator, num: int) -> Any:
    """Time per session of users: 1 + a skewed rest, as listeners have it."""
    return 1 + rng.gamma(0.8, 3.0, num)
