"""Holm's correction against statsmodels, and by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from segue.statistics.holm import holm, holm_alphas


def test_holm_agrees_with_statsmodels() -> None:
    p_values = np.random.default_rng(0).random(12) ** 3
    assert holm(p_values.tolist()) == pytest.approx(multipletests(p_values, method="holm")[1])


def test_holm_multiplies_each_p_value_by_the_number_of_tests_not_rejected_yet() -> None:
    assert holm([0.01, float("nan"), 0.04, 0.03]) == pytest.approx([0.03, float("nan"), 0.06, 0.06], nan_ok=True)


@pytest.mark.parametrize(
    ("p_values", "alphas"),
    [
        ([0.01, 0.04, 0.03], [0.05 / 3, 0.05 / 2, 0.05 / 2]),  # 0.03 is not below 0.05 / 2, where the procedure ends
        ([0.02, 0.001, 0.04], [0.05 / 2, 0.05 / 3, 0.05]),  # all are rejected
        ([0.9, float("nan"), 0.8], [0.05 / 2, 0.05, 0.05 / 2]),  # none is, and NaN is no test
        ([0.025, 0.01], [0.05, 0.05 / 2]),
        ([0.025, 0.025], [0.05 / 2, 0.05 / 2]),  # a p-value that equals its level is not rejected
        ([], []),
    ],
)
def test_each_p_value_is_compared_with_the_level_of_the_step_at_which_the_procedure_is(
    p_values: list[float], alphas: list[float]
) -> None:
    assert holm_alphas(p_values, 0.05) == pytest.approx(alphas)


@given(st.lists(st.floats(0, 1) | st.just(float("nan")), max_size=8))
def test_a_test_is_rejected_exactly_if_its_p_value_is_below_the_level_of_holms_procedure(values: list[float]) -> None:
    for p_value, corrected, alpha in zip(values, holm(values), holm_alphas(values, 0.05), strict=True):
        near = not np.isnan(p_value) and abs(p_value - alpha) < 1e-12
        assert near or (corrected < 0.05) == (p_value < alpha)
        assert 0.05 / 8 <= alpha <= 0.05
