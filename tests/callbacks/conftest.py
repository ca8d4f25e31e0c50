"""What the tests of callbacks share."""

from collections.abc import Callable
from pathlib import Path

import pytest

from segue.datamodules.pair_datamodule import PairDataModule


@pytest.fixture
def ring(datamodule_of: Callable[..., PairDataModule], ring_logs: Path) -> PairDataModule:
    datamodule = datamodule_of(ring_logs)
    datamodule.setup()
    return datamodule
