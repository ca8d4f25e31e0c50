"""A control chart: whether a value is beyond what earlier values of the same process vary by."""

from collections.abc import Sequence

import numpy as np

LEAST = 5
"""Values that limits are computed from, at least."""
_OF_MOVING_RANGE = 2.66  # three standard deviations in units of the mean moving range: 3 / 1.128


def limits(values: Sequence[float]) -> tuple[float, float] | None:
    """The limits of Shewhart's chart of individual values: mean ± 2.66 times the mean moving range.

    A slow trend widens the limits little, because only neighbouring values are compared.

    Args:
        values: earlier values, oldest first.

    Returns:
        The lower and the upper limit; None with fewer than LEAST values.

    Source: Montgomery, Introduction to statistical quality control, section 6.4.
    """
    if len(values) < LEAST:
        return None
    given = np.asarray(values, np.float64)
    margin = _OF_MOVING_RANGE * float(np.abs(np.diff(given)).mean())
    return float(given.mean()) - margin, float(given.mean()) + margin
