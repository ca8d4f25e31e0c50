"""Lineage of a run in MLflow: provenance, data, files and model."""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from segue.atomic import write_text
from segue.callbacks.run_context import RunContext
from segue.datamodules.reading.files import is_address
from segue.models.export import OF_EVALUATED
from segue.models.restoring import REFITTED as REFITTED_CHECKPOINT
from segue.runs.folder import REFIT, UNCOMMITTED
from segue.runs.provenance import git_diff, provenance
from segue.runs.recommendations import key_of_lines
from segue.runs.tracking.logger import run_logger
from segue.runs.tracking.mlflow_parts import watch_machine
from segue.runs.tracking.store import EXPORTED, REFITTED
from segue.settings import Setting, settings


@settings("callbacks.lineage")
class Lineage(Callback):
    """Logs provenance, data, files and the model to MLflow, and keeps uncommitted changes in the run folder.

    Args:
        run_dir: the run folder, with the resolved `config.yaml` in it.
    """

    def __init__(
        self,
        context: RunContext,
        *,
        run_dir: str,
        system_metrics_s: Annotated[
            float | None,
            Setting("seconds between two samples of processor, memory, disk, network and GPU, system/…", above=0),
        ],
        model: Annotated[bool, Setting("whether the recommendations are logged as an MLflow model too")],
    ) -> None:
        self._context, self._run_dir = context, Path(run_dir)
        self._system_metrics_s, self._with_model = system_metrics_s, model
        self._watching = ExitStack()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Log provenance and data."""
        if diff := git_diff()[:1_000_000]:
            write_text(diff + "\n", self._run_dir / UNCOMMITTED)
        if (logger := run_logger(trainer)) is None:
            return
        logger.log_tags(provenance())
        data = self._context.datamodule
        kind = "string" if data.catalog.has_texts else "long"
        logger.log_dataset(
            name=Path(data.path).name,
            digest=data.digest(),
            address=data.path if is_address(data.path) else str(Path(data.path).resolve()),
            columns={"previous": kind, "following": kind, "played_ratio": "float"},
            profile={**json.loads(data.summary().to_json(orient="index")), **self._context.describe(data.data)},
        )
        logger.log_file(self._run_dir / "config.yaml")
        if self._system_metrics_s is not None and logger.run_id is not None:
            self._watching.callback(
                watch_machine(run_id=logger.run_id, tracking_uri=logger.tracking_uri, interval_s=self._system_metrics_s)
            )

    def log_results(self, trainer: Trainer, models: Mapping[str, Path], pictures: Sequence[Path]) -> None:
        """Log the run folder and the models, when every file exists.

        Args:
            models: the recommendations of each model, by what it is: EVALUATED, REFITTED. The last one is exported.
        """
        if (logger := run_logger(trainer)) is None:
            return
        if REFITTED not in models:  # a run that is resumed may have had one
            logger.remove_files(REFIT, OF_EVALUATED, REFITTED_CHECKPOINT)
        history, checkpoint = self._context.history, trainer.checkpoint_callback
        best = {name: value for name, value in history.tested_epoch.items() if name.startswith("val/")}
        # the last value of a metric is the one that MLflow's UI compares
        logger.log_metrics({**best, "fit_seconds": history.fit_seconds, "epoch": len(history.epochs)})
        for file in sorted(self._run_dir.glob("*.*")):
            if file.is_file() and not file.name.startswith("."):
                logger.log_file(file)
        for picture in sorted(pictures):
            logger.log_file(picture, "plots")
        if isinstance(checkpoint, ModelCheckpoint):
            of_refit = [self._run_dir / REFITTED_CHECKPOINT] * (REFITTED in models)
            for file in [Path(checkpoint.best_model_path), *of_refit]:
                if file.is_file():
                    logger.log_file(file, "checkpoints")
        for kind, recommendations in models.items():
            if recommendations.parent != self._run_dir:
                for file in sorted(recommendations.parent.glob("*.*")):
                    logger.log_file(file, recommendations.parent.name)
            if self._with_model:
                tracks = self._context.datamodule.catalog.track_ids[:2].tolist()
                logger.log_model(recommendations, tracks, key=key_of_lines(recommendations), which=kind)
        if models:
            logger.log_tags({EXPORTED: list(models)[-1]})

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """Stop logging system metrics."""
        self._watching.close()
