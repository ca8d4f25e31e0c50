"""What a run came from and what came of it: in MLflow and in the run folder."""

import json
import time
from pathlib import Path
from typing import Any

import yaml
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import MLFlowLogger

from src.console import ROOT
from src.datamodules.pair_datamodule import PairDataModule
from src.tracking import flatten, provenance


class Lineage(Callback):
    """Logs parameters, provenance and files to MLflow, and writes `metrics.json`.

    `metrics.json` is flat: the validation metrics of the best epoch, the test metrics of its weights, and the id of
    the MLflow run (null where there is none). It stands last among the callbacks, so that every file is there.

    Args:
        datamodule: the data, set up.
        run_dir: the run folder, with the resolved `config.yaml` in it.
    """

    def __init__(self, datamodule: PairDataModule, *, run_dir: str) -> None:
        self._datamodule, self._run_dir = datamodule, Path(run_dir)
        self._epochs: list[dict[str, float]] = []
        self._started = time.monotonic()
        self._fit_seconds = 0.0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Tell MLflow what this run is."""
        self._started = time.monotonic()
        if (logger := self._mlflow(trainer)) is None:
            return
        config = yaml.safe_load((self._run_dir / "config.yaml").read_text(encoding="utf-8"))
        logger.log_hyperparams(flatten(config))
        tags = {**provenance(ROOT), "data_digest": self._datamodule.digest()}
        for name, value in tags.items():
            logger.experiment.set_tag(logger.run_id, name, value)
        logger.experiment.log_artifact(logger.run_id, str(self._run_dir / "config.yaml"))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Keep the metrics of the epoch, to know those of the best one later."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self._epochs.append({"epoch": trainer.current_epoch, **metrics})

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Stop the clock."""
        self._fit_seconds = time.monotonic() - self._started

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Write `metrics.json` and hand the run folder to MLflow."""
        checkpoint = next((c for c in trainer.callbacks if isinstance(c, ModelCheckpoint)), None)  # type: ignore[attr-defined]
        logger = self._mlflow(trainer)
        test = {name: float(value) for name, value in trainer.callback_metrics.items()}
        metrics: dict[str, float | str | None] = {
            **self._best_epoch(checkpoint),
            **test,
            "epochs": len(self._epochs),
            "fit_seconds": round(self._fit_seconds, 3),
            "mlflow_run_id": logger.run_id if logger else None,
        }
        path = self._run_dir / "metrics.json"
        partial = path.with_name(".metrics.json.partial")
        partial.write_text(json.dumps(metrics, indent=2, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")
        partial.replace(path)
        if logger:
            for file in sorted(self._run_dir.iterdir()):
                if file.is_file():
                    logger.experiment.log_artifact(logger.run_id, str(file))
            if checkpoint and checkpoint.best_model_path:
                logger.experiment.log_artifact(logger.run_id, checkpoint.best_model_path, "checkpoints")

    def _best_epoch(self, checkpoint: ModelCheckpoint | None) -> dict[str, float]:
        if not self._epochs:
            return {}
        if checkpoint is None or checkpoint.best_model_score is None:
            return self._epochs[-1]
        best = float(checkpoint.best_model_score)
        return next((epoch for epoch in self._epochs if epoch.get(str(checkpoint.monitor)) == best), self._epochs[-1])

    @staticmethod
    def _mlflow(trainer: Trainer) -> Any:
        return trainer.logger if isinstance(trainer.logger, MLFlowLogger) else None
