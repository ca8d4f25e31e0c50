"""The examples in the docstrings hold."""

import doctest
from types import ModuleType

import numpy as np
import pytest

from segue.datamodules.describing import facts
from segue.reports import numbers
from segue.statistics import direction, ranking


@pytest.mark.parametrize("module", [direction, ranking, facts, numbers], ids=lambda module: module.__name__)
def test_the_examples_in_the_docstrings_hold(module: ModuleType) -> None:
    result = doctest.testmod(module, extraglobs={"np": np})
    assert result.attempted >= 1
    assert result.failed == 0
