"""What validation says after each epoch of a training, and the processor time until then."""

import time
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, Trainer

from segue.runs.atomic import write_record


class Curve(Callback):
    """Writes, for each epoch, the processor time of training until then, without validation, and validation ndcg@10.

    Args:
        path: of the JSON file.
    """

    def __init__(self, *, path: str) -> None:
        self._path, self._spent_s, self._began_s = Path(path), 0.0, 0.0
        self._points: list[tuple[float, float]] = []

    def on_train_epoch_start(self, *_: Any) -> None:
        """Start the clock."""
        self._began_s = time.process_time()

    def on_validation_start(self, *_: Any) -> None:
        """Stop the clock."""
        self._spent_s += time.process_time() - self._began_s

    def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        """Add the epoch. Validation was before."""
        self._points.append((self._spent_s, float(trainer.callback_metrics["val/ndcg_at_10"])))

    def on_fit_end(self, *_: Any) -> None:
        """Write the file."""
        write_record({"curve": self._points}, self._path)
