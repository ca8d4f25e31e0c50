"""The history of a run and its phases, kept by Lightning's hooks; always there, and no choice of conf."""

import time
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from segue.runs.history import RunHistory
from segue.runs.phases import PhaseClock


class KeepHistory(Callback):
    """Fills a `RunHistory`. It is the first callback, so that the others find the epoch or the test in it.

    Args:
        history: of the run.
        clock: of the run; training, validation and test are counted.
    """

    def __init__(self, history: RunHistory, clock: PhaseClock) -> None:
        self._history, self._clock = history, clock
        self._started = time.monotonic()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Start the clock, from the time that a resumed run had taken before."""
        self._started = time.monotonic() - self._history.fit_seconds

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Count what came before as training."""
        self._clock.end("training")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Count the validation."""
        self._clock.end("validation")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Keep the metrics of the epoch. The checkpoint is written later and has them."""
        self._history.add_epoch(trainer.current_epoch, _now(trainer))
        self._history.fit_seconds = time.monotonic() - self._started

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Stop the clock."""
        self._history.fit_seconds = time.monotonic() - self._started
        self._clock.end("training")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Keep the test metrics."""
        self._clock.end("test")
        kept = trainer.checkpoint_callback
        chosen_by = None
        if isinstance(kept, ModelCheckpoint) and kept.best_model_score is not None:
            chosen_by = str(kept.monitor), float(kept.best_model_score)
        self._history.add_test(_now(trainer), chosen_by)

    def state_dict(self) -> dict[str, Any]:
        """The epochs so far, and how long they took."""
        return {"epochs": self._history.epochs, "fit_seconds": self._history.fit_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore them."""
        self._history.restore(state_dict["epochs"], state_dict["fit_seconds"])


def _now(trainer: Trainer) -> dict[str, float]:
    return {name: float(value) for name, value in trainer.callback_metrics.items()}
