"""Holm's correction against statsmodels, and by hand."""

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from src.statistics.holm import holm


def test_holm_agrees_with_statsmodels() -> None:
    p_values = np.random.default_rng(0).random(12) ** 3
    assert holm(p_values.tolist()) == pytest.approx(multipletests(p_values, method="holm")[1])


def test_holm_multiplies_each_p_value_by_the_number_of_tests_not_rejected_yet() -> None:
    assert holm([0.01, float("nan"), 0.04, 0.03]) == pytest.approx([0.03, float("nan"), 0.06, 0.06], nan_ok=True)
