"""Pruning: trials of a search that are worse than the others end early."""

import math

from pytorch_lightning import Callback, LightningModule, Trainer

from segue.sweeps.optuna_parts import RunningTrial
from segue.sweeps.search_study import PRUNED, make_pruner, open_storage
from segue.terminal.console import console


class Pruning(Callback):
    """Reports the monitored metric of each epoch to the study, and ends training where the study prunes the trial.

    It may run in another process than the search; they share the storage of the study.

    Args:
        storage: where the study is kept.
        study: its name.
        number: of the trial that this run is.
        prune_after_trials: finished trials before a trial is compared with them.
        prune_after_epochs: epochs that no trial is pruned in.
        monitor: the metric.
    """

    def __init__(
        self, *, storage: str, study: str, number: int, prune_after_trials: int, prune_after_epochs: int, monitor: str
    ) -> None:
        pruner = make_pruner(after_trials=prune_after_trials, after_epochs=prune_after_epochs)
        self._trial = RunningTrial(storage=open_storage(storage), study=study, number=number, pruner=pruner)
        self._monitor = monitor
        self.pruned = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Report the metric; end training where the study prunes the trial."""
        value = trainer.callback_metrics.get(self._monitor)
        if trainer.sanity_checking or value is None or not math.isfinite(value):
            return
        if self._trial.report(float(value), trainer.current_epoch + 1):
            self._trial.note(PRUNED, trainer.current_epoch + 1)
            self.pruned = trainer.should_stop = True
            console.print(f"pruned in epoch {trainer.current_epoch + 1}: worse than the median of the other trials")
