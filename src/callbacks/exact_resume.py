"""Exact resuming: a run that was stopped, even by kill -9, ends with the numbers of one that was not."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.plugins.io import TorchCheckpointIO

from segue.atomic import write_whole
from segue.errors import InputError


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it, so that no kill leaves half of one.

    Lightning's own goes through the system's temporary folder, which may lie on another disk.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:  # noqa: ARG002
        """Write, then rename.

        Raises:
            OSError: the disk is full, or must not be written to.
        """
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_whole(Path(path), lambda partial: _save(checkpoint, partial))

    def load_checkpoint(
        self, path: Any, map_location: Any = lambda storage, _: storage, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint; checkpoints that it names are those of its folder, also where the run was moved.

        Raises:
            InputError: it is damaged, such as one that was copied in part.
        """
        try:
            checkpoint = super().load_checkpoint(path, map_location, weights_only)
            callbacks = {
                name: _moved(state, Path(path).resolve().parent) if "best_k_models" in state else state
                for name, state in checkpoint.get("callbacks", {}).items()
            }
            return {**checkpoint, "callbacks": callbacks}
        except FileNotFoundError:
            raise
        except (OSError, RuntimeError, EOFError, ValueError, LookupError, UnpicklingError) as error:
            why = next(iter(str(error).splitlines()), type(error).__name__)
            raise InputError(
                f"the checkpoint {path} cannot be read ({why[:200]}); copy it here again, or delete it and resume the "
                "run, which then begins at its first epoch"
            ) from None


def _moved(state: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The state of a `ModelCheckpoint` whose folder is this one."""

    def here(path: str) -> str:
        return str(folder / Path(path).name) if path else path

    paths = {name: here(path) for name, path in state.items() if name.endswith("_model_path")}
    best = {here(path): score for path, score in state["best_k_models"].items()}
    return {**state, **paths, "dirpath": str(folder), "best_k_models": best}


def _save(checkpoint: dict[str, Any], path: Path) -> None:
    with path.open("wb") as file:
        try:
            torch.save(checkpoint, file)
        except RuntimeError as error:  # torch hides why the file could not be written
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


class ExactResume(Callback):
    """Adds to `last.ckpt` what it lacks, so that a resumed run ends with the numbers of one that was never stopped.

    Lightning keeps weights, optimizer, schedulers, epoch and callbacks at the end of each epoch. What is missing: the
    random numbers, which are seeded for each epoch; the step of schedulers that watch a metric, which comes after the
    checkpoint; and that early stopping had ended training.

    Args:
        seed: decides the random numbers of every epoch.
    """

    def __init__(self, *, seed: int) -> None:
        self._seed = seed
        self._before: dict[str, Any] = {}
        self._patience: dict[EarlyStopping, int] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """Keep the patience of early stopping from the config: loading its state would restore the old one."""
        self._patience = {
            one: one.patience for one in trainer.early_stopping_callbacks if isinstance(one, EarlyStopping)
        }

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:  # noqa: ARG002
        """Add the metrics that schedulers watch."""
        metrics = trainer.callback_metrics
        watched = {str(plan.monitor) for plan in trainer.lr_scheduler_configs if plan.reduce_on_plateau}
        checkpoint["segue"] = {"watched": {name: float(metrics[name]) for name in watched & metrics.keys()}}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:  # noqa: ARG002
        """Keep them until training starts.

        Raises:
            InputError: the checkpoint has no such metrics.
        """
        if "segue" not in checkpoint:
            raise InputError(
                "resume: this run was trained with callbacks.resume=null, so it cannot be resumed exactly; "
                "add callbacks.resume=null to resume it with other random numbers"
            )
        self._before = checkpoint["segue"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Step the schedulers, and end training where early stopping had ended it."""
        if not self._before:
            return
        for plan in trainer.lr_scheduler_configs:
            if plan.reduce_on_plateau and plan.monitor in self._before["watched"]:
                plan.scheduler.step(self._before["watched"][plan.monitor])
        for stopping, patience in self._patience.items():
            stopping.patience = patience
            if stopping.wait_count >= patience:
                trainer.should_stop = True

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Seed the random numbers of the epoch. Not earlier, because building the batches of a new run draws some."""
        if batch_idx == 0:
            entropy = np.random.SeedSequence([self._seed, trainer.current_epoch])
            torch.manual_seed(int(entropy.generate_state(1)[0]))
