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
    corrected[order] = np.minimum(np.maximum.accumulate(corrected[order] * np.arange(len(order), 0, -1)), 1)
    return [float(value) for value in corrected]


def holm_alphas(p_values: list[float], alpha: float) -> list[float]:
    """The level that Holm's procedure compares each p-value with.

    The smallest of m p-values is compared with alpha / m, the next with alpha / (m − 1), and so on. The first that is
    not below its level, and all after it, are not rejected; each of them is above the level of that first one. An
    interval of level 1 − this alpha therefore excludes 0 exactly if the test is rejected.

    Args:
        p_values: one for each test, in [0, 1]; NaN where there was no test.
        alpha: of the family, in (0, 1).

    Returns:
        The levels in the same order; `alpha` where there was no test.
    """
    values = np.array(p_values, np.float64)
    order = np.argsort(values, kind="stable")[: int((~np.isnan(values)).sum())]
    levels = alpha / np.arange(len(order), 0, -1)
    is_kept = values[order] >= levels
    if is_kept.any():
        levels[int(is_kept.argmax()) :] = levels[int(is_kept.argmax())]
    alphas = np.full(len(values), alpha)
    alphas[order] = levels
    return [float(value) for value in alphas]
