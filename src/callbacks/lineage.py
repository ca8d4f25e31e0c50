"""What a run came from and what came of it: in MLflow and in the run folder."""

import json
import time
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from src.datamodules.pair_datamodule import PairDataModule
from src.runs.atomic import write_record, write_whole
from src.runs.provenance import git_diff, provenance
from src.tracking.logger import RunLogger

_MAX_DIFF = 1_000_000
"""Characters of uncommitted changes that are kept."""
NUM_RECOMMENDED = 10
"""Tracks that the MLflow model recommends where nobody says how many."""


class Lineage(Callback):
    """Logs provenance, data, files and the model to MLflow, and writes `metrics.json`.

    `metrics.json` is flat: the validation metrics of the best epoch, the test metrics of its weights, and the id of
    the MLflow run (null where there is none). It stands last among the callbacks, so that every file is there.

    Args:
        datamodule: the data, set up.
        run_dir: the run folder, with the resolved `config.yaml` in it.
        system_metrics_s: seconds between two looks at the machine (processor, memory, disk, network, GPU), which
            MLflow logs as `system/…`; None for none.
        model: whether the recommendations are logged as an MLflow model too.
    """

    def __init__(
        self, datamodule: PairDataModule, *, run_dir: str, system_metrics_s: float | None, model: bool
    ) -> None:
        self._datamodule, self._run_dir = datamodule, Path(run_dir)
        self._system_metrics_s, self._with_model = system_metrics_s, model
        self._epochs: list[dict[str, float]] = []
        self._started = time.monotonic()
        self._fit_seconds = 0.0
        self._monitor: Any = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Tell MLflow what this run is."""
        self._started = time.monotonic() - self._fit_seconds
        if diff := git_diff()[:_MAX_DIFF]:
            path = self._run_dir / "uncommitted.diff"
            write_whole(path, lambda partial: partial.write_text(diff + "\n", encoding="utf-8"))
        if (logger := _run_logger(trainer)) is None:
            return
        logger.log_tags({**provenance(), "data_digest": self._datamodule.digest(), "run_dir": str(self._run_dir)})
        data = self._datamodule
        logger.log_dataset(
            name=data.path.name,
            digest=data.digest(),
            folder=data.path.resolve(),
            columns={"previous": "long", "following": "long", "played_ratio": "float"},
            profile=json.loads(data.summary().to_json(orient="index")),
        )
        logger.log_file(self._run_dir / "config.yaml")
        if self._system_metrics_s is not None:
            self._monitor = _watch_the_machine(logger, self._system_metrics_s)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Tell MLflow what it missed of the epochs that a run which goes on has behind it."""
        if (logger := _run_logger(trainer)) is not None and self._epochs:
            logger.log_missing(self._epochs)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Keep the metrics of the epoch, to know those of the best one later."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self._epochs.append({"epoch": trainer.current_epoch, **metrics})
        self._fit_seconds = time.monotonic() - self._started

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Stop the clock."""
        self._fit_seconds = time.monotonic() - self._started

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Write `metrics.json` and hand the run folder to MLflow."""
        checkpoint = next((c for c in trainer.callbacks if isinstance(c, ModelCheckpoint)), None)  # type: ignore[attr-defined]
        logger = _run_logger(trainer)
        test = {name: float(value) for name, value in trainer.callback_metrics.items()}
        metrics: dict[str, float | str | None] = {
            **self._best_epoch(checkpoint),
            **test,
            "epochs": len(self._epochs),
            "fit_seconds": round(self._fit_seconds, 3),
            "mlflow_run_id": logger.run_id if logger else None,
        }
        write_record(dict(sorted(metrics.items())), self._run_dir / "metrics.json")
        if logger is None:
            return
        best = {name: value for name, value in self._best_epoch(checkpoint).items() if name.startswith("val/")}
        # the last value of a metric is the one that MLflow's UI compares
        logger.log_metrics({**best, "fit_seconds": self._fit_seconds, "epoch": len(self._epochs)})
        for folder in (None, "plots"):
            for file in sorted((self._run_dir / (folder or ".")).glob("*.*")):
                if file.is_file() and not file.name.startswith("."):
                    logger.log_file(file, folder)
        if checkpoint and checkpoint.best_model_path:
            logger.log_file(Path(checkpoint.best_model_path), "checkpoints")
        if self._with_model:
            tracks = self._datamodule.catalog.track_ids[:2].tolist()
            logger.log_model(self._run_dir / "recommendations.jsonl", tracks, NUM_RECOMMENDED)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """Watch the machine no longer."""
        if self._monitor is not None and stage == "fit":
            self._monitor.finish()
            self._monitor = None

    def state_dict(self) -> dict[str, Any]:
        """The epochs so far, and how long they took."""
        return {"epochs": self._epochs, "fit_seconds": self._fit_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there; the best checkpoint, which is tested, knows of fewer epochs than there were."""
        if len(state_dict["epochs"]) > len(self._epochs):
            self._epochs, self._fit_seconds = list(state_dict["epochs"]), state_dict["fit_seconds"]

    def _best_epoch(self, checkpoint: ModelCheckpoint | None) -> dict[str, float]:
        if not self._epochs:
            return {}
        if checkpoint is None or checkpoint.best_model_score is None:
            return self._epochs[-1]
        best = float(checkpoint.best_model_score)
        return next((epoch for epoch in self._epochs if epoch.get(str(checkpoint.monitor)) == best), self._epochs[-1])


def _run_logger(trainer: Trainer) -> RunLogger | None:
    return trainer.logger if isinstance(trainer.logger, RunLogger) else None


def _watch_the_machine(logger: RunLogger, interval_s: float) -> Any:
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(
        logger.run_id, sampling_interval=interval_s, resume_logging=True, tracking_uri=logger.tracking_uri
    )
    monitor.start()
    return monitor
