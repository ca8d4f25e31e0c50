"""Exact resuming: a run that was stopped, even by kill -9, ends with the numbers of one that was not."""

import io
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from segue.atomic import write_whole
from segue.errors import InputError

_WATCHED = "watched_metrics"  # in a checkpoint


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it, so that no kill leaves half of one.

    Lightning's own goes through the system's temporary folder, which may lie on another disk.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:  # noqa: ARG002
        """Write, then rename.

        Raises:
            OSError: the disk is full, or must not be written to.
        """
        whole = io.BytesIO()  # torch would hide why a file could not be written
        torch.save(checkpoint, whole)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_whole(Path(path), lambda partial: partial.write_bytes(whole.getbuffer()))

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        """Read a checkpoint.

        Raises:
            InputError: it is damaged, such as one that was copied in part.
        """
        try:
            return super().load_checkpoint(path, map_location, weights_only)
        except FileNotFoundError:
            raise
        except (OSError, RuntimeError, EOFError, ValueError, LookupError, UnpicklingError) as error:
            remedy = "copy it here again, or delete it and resume the run, which then begins at its first epoch"
            raise InputError(f"the checkpoint {path} cannot be read ({str(error)[:100]}); {remedy}") from None


class ExactResume(Callback):
    """Adds to `last.ckpt` what it lacks, so that a resumed run ends with the numbers of one that was never stopped.

    Lightning keeps weights, optimizer, schedulers, epoch and callbacks at the end of each epoch. What is missing: the
    random numbers, which are seeded for each epoch; the step of schedulers that watch a metric, which comes after the
    checkpoint; and that early stopping had ended training. Checkpoints that it names are those of its folder, also
    where the run was moved, and the patience is that of the config.

    Args:
        seed: decides the random numbers of every epoch.
    """

    def __init__(self, *, seed: int) -> None:
        self._seed = seed
        self._watched: dict[str, float] = {}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:  # noqa: ARG002
        """Add the metrics that schedulers watch."""
        metrics = trainer.callback_metrics
        names = {str(plan.monitor) for plan in trainer.lr_scheduler_configs if plan.reduce_on_plateau}
        checkpoint[_WATCHED] = {name: float(metrics[name]) for name in names & metrics.keys()}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:  # noqa: ARG002
        """Keep them until training starts, and change what callbacks are about to restore."""
        self._watched = checkpoint.get(_WATCHED, {})
        states = checkpoint["callbacks"]
        for one in [*trainer.early_stopping_callbacks, *trainer.checkpoint_callbacks]:
            if isinstance(one, EarlyStopping) and one.state_key in states:
                states[one.state_key]["patience"] = one.patience
            if isinstance(one, ModelCheckpoint) and one.state_key in states:
                states[one.state_key] = _moved(states[one.state_key], Path(str(one.dirpath)))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Step the schedulers, and end training where early stopping had ended it."""
        for plan in trainer.lr_scheduler_configs:
            if plan.reduce_on_plateau and plan.monitor in self._watched:
                plan.scheduler.step(self._watched[plan.monitor])  # type: ignore[arg-type]  # of ReduceLROnPlateau
        for one in trainer.early_stopping_callbacks:
            if isinstance(one, EarlyStopping) and one.wait_count >= max(one.patience, 1):
                trainer.should_stop = True

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Seed the random numbers of the epoch. Not earlier, because building the batches of a new run draws some."""
        if batch_idx == 0:
            entropy = np.random.SeedSequence([self._seed, trainer.current_epoch])
            torch.manual_seed(int(entropy.generate_state(1)[0]))


def _moved(state: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The state of a `ModelCheckpoint` whose folder is this one."""

    def here(path: str) -> str:
        return str(folder / Path(path).name) if path else path

    paths = {name: here(path) for name, path in state.items() if name.endswith("_model_path")}
    best = {here(path): score for path, score in state["best_k_models"].items()}
    return {**state, **paths, "dirpath": str(folder), "best_k_models": best}
