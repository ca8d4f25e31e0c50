"""One of two processes that train together: without a stop, and stopped in the middle of an epoch and resumed."""

import sys
from pathlib import Path
from typing import Any

from segue.training.strategy import ExchangedGradients
from tests.datamodules.test_shards import Fitted, check_equal, fitted, windowed


def main(shards: Path, folder: Path) -> None:
    def fit(name: str, **more: Any) -> Fitted:
        shared: dict[str, Any] = {
            "strategy": ExchangedGradients(timeout_minutes=2),
            "devices": 2,
            "use_distributed_sampler": False,
        }
        return fitted(windowed(shards, 700), folder / name, **shared, **more)

    whole = fit("whole")
    fit("stopped", stop_at=30)
    check_equal(fit("stopped", resume=True), whole)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
