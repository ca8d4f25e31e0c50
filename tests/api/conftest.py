"""Fits of these tests are compared with no counting models, which takes half of the time of each.

`tests/training/test_choosing.py` tests the comparison.
"""

from collections.abc import Iterator

import pytest

from segue.training import choosing


@pytest.fixture(scope="package", autouse=True)
def no_rivals() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choosing, "_LEAST_QUERIES", 10**9)
        yield
