"""A live bar for training, with throughput and time left; a line an epoch where the output is no terminal."""

import time
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from src.datamodules.pair_datamodule import PairDataModule
from src.errors import check_number
from src.terminal.console import console

_BETWEEN_LOOKS_S = 0.05


class TrainingProgress(Callback):
    """Shows the epoch, the monitored metric now and at its best, and pairs a second.

    Args:
        datamodule: the data, set up.
        monitor: the metric that chooses the best epoch.
        mode: `max` or `min`: which of its values is best.
        max_epochs: how many epochs there can be; early stopping may end training before.

    Raises:
        InputError: `max_epochs` is not a whole number of at least 1.
    """

    def __init__(self, datamodule: PairDataModule, *, monitor: str, mode: str, max_epochs: int) -> None:
        check_number("trainer.max_epochs", max_epochs, whole=True, least=1)
        self._num_batches, self._max_epochs = len(datamodule.train_dataloader()), max_epochs
        self._monitor, self._better = monitor, max if mode == "max" else min
        self._scores: list[float] = []
        self._pairs, self._shown_at = 0, 0.0
        columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn()
        self._bar = Progress(
            *columns,
            TimeRemainingColumn(),
            TextColumn("{task.fields[speed]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Start the bar; its end is the last epoch, which early stopping may never reach."""
        self._bar.start()
        self._task = self._bar.add_task("training", total=self._max_epochs * self._num_batches, speed="")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Begin where a run that goes on had been."""
        self._show(trainer.current_epoch, 0)

    def _show(self, epoch: int, num_batches: int) -> None:
        self._bar.update(self._task, completed=epoch * self._num_batches + num_batches)

    def state_dict(self) -> dict[str, Any]:
        """The monitored metric so far, to know its best."""
        return {"scores": self._scores}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there; the best checkpoint, which is tested, knows of fewer epochs than there were."""
        if len(state_dict["scores"]) > len(self._scores):
            self._scores = list(state_dict["scores"])

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        outputs: Any,  # noqa: ARG002
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Advance, as often as an eye can see."""
        self._pairs += len(batch[0])
        if time.monotonic() - self._shown_at > _BETWEEN_LOOKS_S:
            self._show(trainer.current_epoch, batch_idx + 1)
            self._shown_at = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Show the metric of the epoch."""
        if self._monitor in trainer.callback_metrics:
            self._scores.append(float(trainer.callback_metrics[self._monitor]))
        self._show(trainer.current_epoch, self._num_batches)
        shown = f"epoch {trainer.current_epoch + 1}/{self._max_epochs}"
        if self._scores:
            shown += f"  {self._monitor} {self._scores[-1]:.4f}, best {self._better(self._scores):.4f}"
        elapsed = self._bar.tasks[self._task].elapsed or 1e-9
        self._bar.update(self._task, description=shown, speed=f"{self._pairs / elapsed:,.0f} pairs/s")
        if not console.is_terminal:
            console.print(shown)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """Take the bar away, however training ended."""
        self._bar.stop()
