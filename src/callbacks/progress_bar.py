"""A progress bar for training, and a line after each epoch."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from segue.callbacks.run_context import RunContext
from segue.reports.console import console
from segue.reports.progress import progress


class TrainingProgress(Callback):
    """Shows the batches, and after each epoch the monitored metric now and at its best.

    Args:
        monitor: the metric that chooses the best epoch.
        mode: `max` or `min`: which of its values is best.
        max_epochs: how many epochs there can be, at least 1; early stopping may end training before.
    """

    def __init__(self, context: RunContext, *, monitor: str, mode: str, max_epochs: int, label: str = "epoch") -> None:
        self._history, self._max_epochs, self._label = context.history, max_epochs, label
        self._monitor, self._better = monitor, max if mode == "max" else min
        self._bar = ExitStack()
        self._advance: Callable[[int], None] = _nothing

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Start the bar, at the epoch of a resumed run; its end is the last epoch, which may never be reached."""
        num_batches = int(trainer.num_training_batches)
        self._advance = self._bar.enter_context(progress("training", self._max_epochs * num_batches))
        self._advance(trainer.current_epoch * num_batches)

    def on_train_batch_end(self, *_: Any) -> None:
        """Advance."""
        self._advance(1)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Show the metric of the epoch."""
        shown = f"{self._label} {trainer.current_epoch + 1}/{self._max_epochs}"
        if scores := [epoch[self._monitor] for epoch in self._history.epochs if self._monitor in epoch]:
            shown += f"  {self._monitor} {scores[-1]:.4f}, best {self._better(scores):.4f}"
        console.print(shown)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """Remove the bar, also after an error."""
        self._bar.close()


def _nothing(steps: int) -> None:
    """Before the bar is there."""
