"""Lineage of a run in MLflow: provenance, data, files and model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from segue.callbacks.run_context import RunContext
from segue.datamodules.reading.files import is_address
from segue.datamodules.split_datamodule import SplitDataModule
from segue.describing.joining import material_of
from segue.describing.measures import measure
from segue.runs.atomic import write_whole
from segue.runs.beginning import UNCOMMITTED
from segue.runs.provenance import git_diff, provenance
from segue.runs.recommendations import key_of_lines
from segue.tracking.mlflow_parts import watch_machine
from segue.tracking.training_run import run_logger

_MAX_DIFF = 1_000_000
"""Characters of uncommitted changes that are kept."""
_MAX_QUERIES = 50_000
"""Test queries that are ranked by plays for the description of the data."""
_MAX_PLAYS = 30_000_000
"""Data with more plays are not described: measuring them takes much memory."""
NUM_RECOMMENDED = 10
"""Default number of recommendations of the MLflow model."""


class Lineage(Callback):
    """Logs provenance, data, files and the model to MLflow, and keeps uncommitted changes in the run folder.

    It comes last among the callbacks that write files, when every file exists.

    Args:
        context: of the run; the results of other callbacks are logged.
        run_dir: the run folder, with the resolved `config.yaml` in it.
        system_metrics_s: seconds between two samples of processor, memory, disk, network and GPU, which MLflow logs as
            `system/…`; None for none.
        model: whether the recommendations are logged as an MLflow model too, where they were exported.
    """

    def __init__(self, context: RunContext, *, run_dir: str, system_metrics_s: float | None, model: bool) -> None:
        self._context, self._run_dir = context, Path(run_dir)
        self._system_metrics_s, self._with_model = system_metrics_s, model
        self._stop_watching: Callable[[], None] | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Log provenance and data."""
        if diff := git_diff()[:_MAX_DIFF]:
            path = self._run_dir / UNCOMMITTED
            write_whole(path, lambda partial: partial.write_text(diff + "\n", encoding="utf-8"))
        if (logger := run_logger(trainer)) is None:
            return
        logger.log_tags(provenance())
        data = self._context.datamodule
        logger.log_dataset(
            name=Path(data.path).name,
            digest=data.digest(),
            address=data.path if is_address(data.path) else str(Path(data.path).resolve()),
            columns={"previous": "long", "following": "long", "played_ratio": "float"},
            profile={**json.loads(data.summary().to_json(orient="index")), **_description(data)},
        )
        logger.log_file(self._run_dir / "config.yaml")
        if self._system_metrics_s is not None and logger.run_id is not None:
            self._stop_watching = watch_machine(
                run_id=logger.run_id, tracking_uri=logger.tracking_uri, interval_s=self._system_metrics_s
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Log the epochs of a resumed run that MLflow does not have."""
        epochs = self._context.history.epochs
        if (logger := run_logger(trainer)) is not None and epochs:
            logger.log_missing(epochs)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Log the run folder and the model."""
        if (logger := run_logger(trainer)) is None:
            return
        history, context = self._context.history, self._context
        best = {name: value for name, value in history.tested_epoch.items() if name.startswith("val/")}
        # the last value of a metric is the one that MLflow's UI compares
        logger.log_metrics({**best, "fit_seconds": history.fit_seconds, "epoch": len(history.epochs)})
        for file in sorted(self._run_dir.glob("*.*")):
            if file.is_file() and not file.name.startswith("."):
                logger.log_file(file)
        for picture in sorted(context.pictures):
            logger.log_file(picture, "plots")
        checkpoint = trainer.checkpoint_callback
        if isinstance(checkpoint, ModelCheckpoint) and checkpoint.best_model_path:
            logger.log_file(Path(checkpoint.best_model_path), "checkpoints")
        if self._with_model and context.recommendations is not None:
            tracks = context.datamodule.catalog.track_ids[:2].tolist()
            lists = context.recommendations
            logger.log_model(lists, tracks, NUM_RECOMMENDED, key=key_of_lines(lists))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """Stop logging system metrics."""
        if self._stop_watching is not None and stage == "fit":
            self._stop_watching()
            self._stop_watching = None


def _description(datamodule: SplitDataModule) -> dict[str, Any]:
    """What `describe.py` measures, under the name `description`; no play of anybody; nothing for very large data."""
    if len(datamodule.sessions.listens.track) > _MAX_PLAYS:
        return {}
    facts = measure(material_of(datamodule), max_test_queries=_MAX_QUERIES, num_sessions=0, num_plays=0)
    return {"description": facts.profile()}
