"""The model that is served: the recipe again, on all sessions, for as many epochs as validation chose.

No metric is computed from it, because it has learned the test sessions; the test judges the evaluated model.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint

from segue.callbacks.assembly import Refitted
from segue.callbacks.run_context import RunContext, ranker_of
from segue.datamodules.pair_datamodule import PairDataModule
from segue.errors import InputError
from segue.models.after_training import fit_boosts
from segue.models.head_ranker import HeadRanker
from segue.models.restoring import REFITTED, read_checkpoint
from segue.models.retrieval.ranks import refuse_non_finite
from segue.runs.folder import as_dict
from segue.settings import Setting, settings


@settings()
def is_refitted(
    data: PairDataModule,
    *,
    refit: Annotated[
        str,
        Setting(
            "whether what is exported is trained again on all sessions; auto: in a single run whose newest ones test",
            choices=("auto", "all", "none"),
        ),
    ],
    is_job: bool,
    is_exported: bool,
) -> bool:
    """Whether a run is trained again on all of its data.

    Args:
        data: of the run, set up.
        is_job: whether it is a job of a multirun. Those are compared, and the winner alone is refitted.
        is_exported: whether the run exports a model.

    Raises:
        InputError: `refit` is unknown, or there is no refit of this run.
    """
    if refit == "all" and is_job:
        raise InputError(
            "refit=all trains one run again, and a multirun (-m) compares runs; leave it out, and refit the winner: "
            "python train.py resume=run:<id> refit=all"
        )
    if refit == "all" and not is_exported:
        raise InputError("refit=all trains the model that is exported, and callbacks.export=null exports none")
    if refit == "all" and data.source.not_as_training is not None:
        raise InputError(f"refit=all: {data.source.not_as_training}; use refit=none")
    by_default = data.is_by_time and is_exported and data.source.not_as_training is None and not is_job
    return refit == "all" or (refit == "auto" and by_default)


def epochs_of_refit(
    num_epochs: int, evaluated: PairDataModule, data: PairDataModule, *, limit: int | float | None
) -> int:
    """How many epochs of all sessions have as many steps as those that validation chose; at least one.

    Args:
        num_epochs: that validation chose.
        data: all of it as training data, whose epochs have more steps.
        limit: `trainer.limit_train_batches`; a whole number of batches is the same in both.
    """
    if isinstance(limit, int) and not isinstance(limit, bool):
        return num_epochs
    return max(1, round(num_epochs * len(evaluated.pairs["train"]) / len(data.pairs["train"])))


def refit(
    config: DictConfig,
    data: PairDataModule,
    decided: Mapping[str, Any],
    epochs: Sequence[Mapping[str, float]],
    *,
    checkpoint: Path | None = None,
) -> Refitted:
    """Train the recipe of a run on all sessions, from its beginning.

    It writes `checkpoints/refitted.ckpt` after each epoch.

    Args:
        decided: what validation decided for the evaluated model; see `Ranker.decided`.
        epochs: metrics of the first epochs of its training: this one gets as many.
        checkpoint: of a refit that was stopped, from which this one goes on.

    Raises:
        InputError: the recipe refuses all sessions, or its training has diverged.
    """
    seed_everything(config.seed, workers=True, verbose=False)
    model: LightningModule = instantiate(config.ranker, _convert_="all")(vocabulary=data.vocabulary)
    ranker_of(model).decide(decided)
    path, keeps = Path(config.run_dir) / REFITTED, config.callbacks.get("checkpoint") is not None
    callbacks = [
        *_callbacks(config, data, len(epochs)),
        _InsteadOfValidation(config.monitor.metric, epochs, decided),
    ]
    if keeps:
        callbacks.append(
            ModelCheckpoint(path.parent, filename=path.stem, save_on_train_epoch_end=True, enable_version_counter=False)
        )
    trainer: Trainer = instantiate(
        config.trainer,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=keeps,
        max_epochs=len(epochs),
        max_time=None,
        limit_val_batches=0,
        _convert_="all",
    )
    trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    refuse_non_finite(*(one.reshape(-1) for one in model.parameters()))
    return Refitted(module=model, data=data, num_epochs=trainer.current_epoch)


def decided_by(trainer: Trainer, evaluated: LightningModule) -> dict[str, Any]:
    """What validation decided for the evaluated model, which gets the weights that are tested: those of its best epoch.

    Without a checkpoint these are the weights of the last epoch, which it has.
    """
    kept = trainer.checkpoint_callback
    if isinstance(kept, ModelCheckpoint) and kept.best_model_path:
        checkpoint = dict(read_checkpoint(Path(kept.best_model_path)))
        evaluated.on_load_checkpoint(checkpoint)
        evaluated.load_state_dict(checkpoint["state_dict"])
    return dict(ranker_of(evaluated).decided())


def begun(run_dir: Path, num_epochs: int, decided: Mapping[str, Any]) -> Path | None:
    """The checkpoint of a refit that was stopped; None where there is none, or it was another refit."""
    path = run_dir / REFITTED
    is_same = path.is_file() and read_checkpoint(path).get(_PLAN) == _plan(num_epochs, decided)
    return path if is_same else None


_PLAN = "refit"  # what a checkpoint of a refit says of it


def _plan(num_epochs: int, decided: Mapping[str, Any]) -> dict[str, Any]:
    return {"epochs": num_epochs, "decided": dict(decided)}


def _callbacks(config: DictConfig, data: PairDataModule, num_epochs: int) -> list[Callback]:
    """Those of the run that belong to any training: the bar, and the random numbers of each epoch."""
    bar = {"context": RunContext(datamodule=data), "max_epochs": num_epochs, "label": "refit"}
    return [
        instantiate({**as_dict(chosen), "_partial_": True}, _convert_="all")(**given)
        for name, given in (("progress", bar), ("resume", {}))
        if (chosen := config.callbacks.get(name)) is not None
    ]


class _InsteadOfValidation(Callback):
    """Gives a scheduler that watches a validation metric what it saw in the training of the evaluated model.

    After the last epoch the model fits what it otherwise fits before each validation.
    """

    def __init__(self, name: str, epochs: Sequence[Mapping[str, float]], decided: Mapping[str, Any]) -> None:
        self._name, self._epochs, self._decided = name, epochs, decided

    def on_save_checkpoint(self, _: Trainer, __: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Say which refit it is."""
        checkpoint[_PLAN] = _plan(len(self._epochs), self._decided)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log its value of the epoch; fit the boosts of tracks already heard, before the checkpoint is written."""
        is_last = trainer.current_epoch == len(self._epochs) - 1
        if is_last and isinstance(ranker := ranker_of(pl_module), HeadRanker):
            pl_module.eval()
            fit_boosts(ranker)
            pl_module.train()
        if (value := self._epochs[trainer.current_epoch].get(self._name)) is not None:
            pl_module.log(self._name, value)
