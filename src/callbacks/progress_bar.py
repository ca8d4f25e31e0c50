"""A progress bar for training, with throughput and time left; a line per epoch where the output is not a terminal."""

import time
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from segue.callbacks.run_context import RunContext
from segue.reports.console import console
from segue.reports.progress import bars

_UPDATE_INTERVAL_S = 0.05


class TrainingProgress(Callback):
    """Shows the epoch, the monitored metric now and at its best, and pairs a second.

    Args:
        monitor: the metric that chooses the best epoch.
        mode: `max` or `min`: which of its values is best.
        max_epochs: how many epochs there can be, at least 1; early stopping may end training before.
    """

    def __init__(self, context: RunContext, *, monitor: str, mode: str, max_epochs: int, label: str = "epoch") -> None:
        self._history, self._max_epochs, self._label = context.history, max_epochs, label
        self._num_batches = len(context.datamodule.train_dataloader())
        self._monitor, self._better = monitor, max if mode == "max" else min
        self._pairs, self._shown_at, self._began = 0, 0.0, 0.0
        self._bar = bars(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[speed]}"),
        )
        self._task = self._bar.add_task("training", start=False, total=max_epochs * self._num_batches, speed="")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Start the bar, at the epoch of a resumed run; its end is the last epoch, which may never be reached."""
        self._bar.start()
        self._began = time.monotonic()
        self._bar.start_task(self._task)
        self._bar.update(self._task, completed=trainer.current_epoch * self._num_batches)

    def on_train_batch_end(self, trainer: Trainer, _: LightningModule, __: Any, batch: Any, batch_idx: int) -> None:
        """Advance, at most twenty times a second."""
        self._pairs += len(batch[0])
        if time.monotonic() - self._shown_at > _UPDATE_INTERVAL_S:
            self._bar.update(self._task, completed=trainer.current_epoch * self._num_batches + batch_idx + 1)
            self._shown_at = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Show the metric of the epoch."""
        shown = f"{self._label} {trainer.current_epoch + 1}/{self._max_epochs}"
        if scores := [epoch[self._monitor] for epoch in self._history.epochs if self._monitor in epoch]:
            shown += f"  {self._monitor} {scores[-1]:.4f}, best {self._better(scores):.4f}"
        speed = f"{self._pairs / (time.monotonic() - self._began):,.0f} pairs/s"
        self._bar.update(
            self._task, completed=(trainer.current_epoch + 1) * self._num_batches, description=shown, speed=speed
        )
        if not (console.is_terminal or console.is_jupyter):
            console.print(shown)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """Remove the bar, also after an error."""
        self._bar.stop()
