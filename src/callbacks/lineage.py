"""Lineage of a run in MLflow: provenance, data, files and model."""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

from pytorch_lightning import Callback, LightningModule, Trainer

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

_LOGGED = ("", "plots", "checkpoints", OF_EVALUATED)  # parts of a run folder
_MACHINE = "seconds between two samples of processor, memory, disk, network and GPU, system/…"
_Seconds = Annotated[float | None, Setting(_MACHINE, above=0)]
_IsLogged = Annotated[bool, Setting("whether the recommendations are logged as an MLflow model too")]


@settings("callbacks.lineage")
class Lineage(Callback):
    """Logs provenance, data, files and the model to MLflow, and keeps uncommitted changes in the run folder.

    Args:
        run_dir: the run folder, with the resolved `config.yaml` in it.
    """

    def __init__(self, context: RunContext, *, run_dir: str, system_metrics_s: _Seconds, model: _IsLogged) -> None:
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
        if (seconds := self._system_metrics_s) is not None:
            run_id = str(logger.run_id)
            self._watching.callback(watch_machine(run_id=run_id, tracking_uri=logger.tracking_uri, interval_s=seconds))

    def log_results(self, trainer: Trainer, models: Mapping[str, Path]) -> None:
        """Log the run folder and the models, when every file exists.

        Args:
            models: the recommendations of each model, by what it is: EVALUATED, REFITTED. The last one is exported.
        """
        if (logger := run_logger(trainer)) is None:
            return
        left_out = {"last.ckpt"}
        if REFITTED not in models:  # a run that is resumed may have had one
            logger.remove_files(REFIT, OF_EVALUATED, REFITTED_CHECKPOINT)
            left_out.add(Path(REFITTED_CHECKPOINT).name)
        history = self._context.history
        best = {name: value for name, value in history.tested_epoch.items() if name.startswith("val/")}
        # the last value of a metric is the one that MLflow's UI compares
        logger.log_metrics({**best, "fit_seconds": history.fit_seconds, "epoch": len(history.epochs)})
        for folder in _LOGGED:
            for file in sorted((self._run_dir / folder).glob("[!.]*.*")):
                if file.is_file() and file.name not in left_out:
                    logger.log_file(file, folder or None)
        tracks = self._context.datamodule.catalog.track_ids[:2].tolist()
        for kind, path in models.items():
            if self._with_model:
                logger.log_model(path, tracks, key=key_of_lines(path), which=kind)
            logger.log_tags({EXPORTED: kind})

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """Stop logging system metrics."""
        self._watching.close()
