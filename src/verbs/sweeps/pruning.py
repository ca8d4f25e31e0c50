"""Pruning: trials of a search that are worse than the others end early.

Optuna gives a trial to the process that asked for it, but Segue runs it in another process. The class and the methods
of the storage by which that one gets it too are public, but not documented for users. Tested with Optuna 5.0.0.
"""

import math
import warnings

import optuna
from pytorch_lightning import Callback, LightningModule, Trainer

from segue.reports.console import console
from segue.verbs.sweeps.search import PRUNED, open_storage


class Pruning(Callback):
    """Reports the monitored metric of each epoch to the study, and ends training where the study prunes the trial.

    A trial is pruned if its best value so far is worse than the median of the others at the same epoch. If an epoch is
    reported twice, its first value counts.

    Args:
        storage: where the study is kept; the process of the search uses it too.
        number: of the trial that this run is.
        prune_after_trials: finished trials before a trial is compared with them.
        prune_after_epochs: epochs that no trial is pruned in.
    """

    def __init__(
        self, *, storage: str, study: str, number: int, prune_after_trials: int, prune_after_epochs: int, monitor: str
    ) -> None:
        kept = open_storage(storage)
        pruner = optuna.pruners.MedianPruner(prune_after_trials, n_warmup_steps=prune_after_epochs + 1)  # from 1
        trial_id = kept.get_trial_id_from_study_id_trial_number(kept.get_study_id_from_name(study), number)
        self._trial = optuna.Trial(optuna.load_study(study_name=study, storage=kept, pruner=pruner), trial_id)
        self._monitor = monitor
        self.pruned = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Report the metric; end training where the study prunes the trial."""
        value, epoch = trainer.callback_metrics.get(self._monitor), trainer.current_epoch + 1
        if trainer.sanity_checking or value is None or not math.isfinite(value):
            return
        with warnings.catch_warnings(action="ignore"):  # of an epoch that is reported twice
            self._trial.report(float(value), epoch)
        if self._trial.should_prune():
            self._trial.set_user_attr(PRUNED, epoch)
            self.pruned = trainer.should_stop = True
            console.print(f"pruned in epoch {epoch}: worse than the median of the other trials")
