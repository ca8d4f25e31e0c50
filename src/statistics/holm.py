"""Holm's correction of p-values for the number of tests."""

import numpy as np


def holm(p_values: list[float]) -> list[float]:
    """Holm's step-down correction.

    Args:
        p_values: one for each test, in [0, 1]; NaN where there was no test.

    Returns:
        The corrected p-values in the same order; NaN stays NaN and does not count as a test.

    Source: Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979.
    """
    # not from statsmodels: that collects all garbage of the process at each call, 0.2 s
    corrected = np.array(p_values, np.float64)
    order = np.argsort(corrected, kind="stable")[: int((~np.isnan(corrected)).sum())]  # NaN are last
    num_not_rejected = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(corrected[order] * num_not_rejected), 1)
    return [float(value) for value in corrected]
