"""Fits of these tests are compared with no counting models, which takes half of the time of each.

`tests/verbs/training/test_choosing.py` tests the comparison.
"""

from collections.abc import Iterator

import pytest

import segue
from segue.verbs.training import choosing
from tests.conftest import ROOT


@pytest.fixture(scope="package", autouse=True)
def no_rivals() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choosing, "_LEAST_SESSIONS", 10**9)
        yield


@pytest.fixture(scope="package")
def plays() -> segue.Plays:
    """The plays of the examples, which take a second to read; tests change them nowhere."""
    return segue.read_plays(ROOT / "examples" / "plays.csv")
