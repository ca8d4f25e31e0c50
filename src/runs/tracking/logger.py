"""The Lightning logger: it writes to MLflow in order, and repeats later what an unreachable store did not get.

It also starts the run of a training, with all by which it is found again.
"""

import json
import re
import time
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import MLFlowLogger

from segue.reports.console import console
from segue.runs.folder import parameters
from segue.runs.resume import config_digest, setup_digest
from segue.runs.tracking.mlflow_parts import remove_artifact, requirements_unchecked
from segue.runs.tracking.store import INTERRUPTED, MAX_TAG, MODEL, PRUNED, client_of, is_refusal, open_store

# Seconds before a store that could not be reached is tried again, so that training does not wait for it.
_PAUSE_S = 10.0


class RunLogger(MLFlowLogger):
    """Logs one run to MLflow, and loses nothing while its store cannot be reached.

    What is logged is in a queue until the store has it. Training never fails because of a store that cannot be reached
    and never waits for it; at the end `finish` waits up to `patience_s`, and reports what it could not send.

    Args:
        experiment_name: an existing experiment.
        patience_s: seconds that `finish` waits for a store that cannot be reached.
        run_id: the run to resume; None starts one.
    """

    def __init__(
        self,
        *,
        experiment_name: str,
        run_name: str,
        tracking_uri: str,
        patience_s: float,
        run_id: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(experiment_name, run_name, tracking_uri, dict(tags or {}), run_id=run_id)
        self.tracking_uri, self._continued, self._patience_s = tracking_uri, run_id, patience_s
        self._waiting: deque[tuple[str, Callable[[], Any]]] = deque()
        self._refused: list[str] = []
        self._retry_at = 0.0

    def start(self) -> None:
        """Start the run, or resume it.

        Raises:
            InputError: the store cannot be reached, or has no such run.
        """
        with client_of(self.tracking_uri) as client:
            if self._continued is not None:
                client.update_run(self._continued, status="RUNNING")
                for tag in {INTERRUPTED, PRUNED} & client.get_run(self._continued).data.tags.keys():
                    client.delete_tag(self._continued, tag)
            _ = self.experiment  # starts it

    def send(self, what: str, call: Callable[[], Any]) -> None:
        """Call the store now, or later where it cannot be reached.

        Args:
            call: a request to the store; must be safe to repeat where it failed half-way.
        """
        self._waiting.append((what, call))
        if time.monotonic() >= self._retry_at:
            self._drain()

    def _drain(self) -> bool:
        """Send the queue to the store, in order; False where it cannot be reached."""
        from mlflow.exceptions import MlflowException
        from requests import RequestException

        while self._waiting:
            what, call = self._waiting[0]
            try:
                call()
            except Exception as error:
                if isinstance(error, MlflowException | RequestException | ConnectionError) and not is_refusal(error):
                    if not self._retry_at:
                        console.print(f"{self.tracking_uri} cannot be reached; training continues", soft_wrap=True)
                    self._retry_at = time.monotonic() + _PAUSE_S
                    return False
                self._refused.append(f"{what} ({str(error).splitlines()[0][:200]})")
            self._waiting.popleft()
        self._retry_at = 0.0
        return True

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics by epoch, where Lightning has it, so that curves with different batch sizes can be compared."""
        values = dict(metrics)
        step = int(values.pop("epoch", step or 0))
        self.send(f"metrics of epoch {step}", lambda: MLFlowLogger.log_metrics(self, values, step))

    def log_hyperparams(self, params: Any) -> None:
        """Log the parameters that the run does not have: MLflow accepts each only once, and no quotes in a name."""
        from mlflow.entities import Param

        def send() -> None:
            known = self.experiment.get_run(self.run_id).data.params
            legal = {re.sub(r"[^\w.:/ -]", "", key): value for key, value in params.items()}
            new = [Param(key, str(value)[:6000]) for key, value in legal.items() if key not in known]
            for start in range(0, len(new), 100):
                self.experiment.log_batch(self.run_id, params=new[start : start + 100])

        self.send("parameters", send)

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags."""
        from mlflow.entities import RunTag

        run_tags = [RunTag(name, value[:MAX_TAG]) for name, value in tags.items()]
        self.send("tags", lambda: self.experiment.log_batch(self.run_id, tags=run_tags))

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Log a file as an artifact, under `folder`."""
        self.send(path.name, lambda: self.experiment.log_artifact(self.run_id, str(path), folder))

    def remove_files(self, *paths: str) -> None:
        """Remove artifacts that a run had before it was resumed: files or folders."""

        def send() -> None:
            at = self.experiment.get_run(self.run_id).info.artifact_uri
            for path in paths:
                remove_artifact(at, path, tracking_uri=self.tracking_uri)

        if self._continued is not None:
            self.send(f"that {', '.join(paths)} are gone", send)

    def log_dataset(
        self, *, name: str, digest: str, address: str, columns: Mapping[str, str], profile: Mapping[str, Any]
    ) -> None:
        """Log the data that the run learns from, as an MLflow dataset.

        Args:
            digest: changes whenever the data does.
            columns: name and type of each column of a pair.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name=name,
            digest=digest,
            source_type="local",
            source=json.dumps({"uri": address}),
            schema=json.dumps({"mlflow_colspec": [{"type": kind, "name": column} for column, kind in columns.items()]}),
            profile=json.dumps(profile),
        )
        dataset_input = DatasetInput(dataset=dataset, tags=[InputTag("mlflow.data.context", "training")])
        self.send("the dataset", lambda: self.experiment.log_inputs(self.run_id, datasets=[dataset_input]))

    def log_model(self, recommendations: Path, tracks: Sequence[int | str], *, key: str, which: str) -> None:
        """Log recommendations as a model, which recommends 10 tracks by default; see `src/runs/tracking/model.py`.

        Args:
            tracks: ids for the example; all ids are of their type.
            key: that its lines have for their track.
            which: `evaluated` or `refitted`, its tag.
        """

        def send() -> None:
            import pandas as pd
            from mlflow import pyfunc
            from mlflow.models import Model, ModelSignature
            from mlflow.types.schema import Array, ColSpec, DataType, ParamSchema, ParamSpec, Schema

            model = self.experiment.create_logged_model(
                self.experiment_id, name="model", source_run_id=self.run_id, tags={MODEL: which}
            )
            kind = DataType.string if isinstance(tracks[0], str) else DataType.long
            track = ColSpec(kind, "track")
            signature = ModelSignature(
                inputs=Schema([track]),
                outputs=Schema([track, ColSpec(Array(kind), "recommendations")]),
                params=ParamSchema([ParamSpec("k", DataType.long, 10)]),
            )
            with warnings.catch_warnings(action="ignore"), requirements_unchecked():
                Model.log(
                    artifact_path=None,
                    flavor=pyfunc,
                    run_id=self.run_id,
                    name="model",
                    model_id=model.model_id,
                    python_model=str(Path(__file__).with_name("model.py")),
                    artifacts={"recommendations": str(recommendations)},
                    model_config={"key": key},
                    signature=signature,
                    input_example=pd.DataFrame({"track": list(tracks)}),
                    pip_requirements=["mlflow", "pandas"],
                )

        self.send(f"the {which} model", send)

    def finalize(self, status: str = "success") -> None:
        """Called by Lightning after fit, after test and when one of them fails; only a failure ends the run here."""
        if status == "failed":
            self.finish("FAILED")

    def finish(self, status: str = "FINISHED") -> bool:
        """End the run; wait for a store that cannot be reached.

        Returns:
            Whether the store has everything.
        """
        self.send(f"that the run is {status}", lambda: self.experiment.set_terminated(self.run_id, status))
        deadline = time.monotonic() + self._patience_s
        while self._waiting and not self._drain() and time.monotonic() < deadline:
            time.sleep(1)
        if lost := [*self._refused, *(what for what, _ in self._waiting)]:
            line = f"MLflow did not get: {', '.join(dict.fromkeys(lost))}; the run folder has it all"
            console.print(line, soft_wrap=True, markup=False)
        return not lost


def build_logger(config: DictConfig, run_id: str | None) -> RunLogger | None:
    """The logger that the config chose, with its store open; None where it chose none.

    Args:
        run_id: the run to resume; None for a new one.

    Raises:
        InputError: the store cannot be opened.
    """
    if not config.get("logger"):
        return None
    open_store(config.logger.tracking_uri, config.logger.experiment_name)
    tags = {"mlflow.parentRunId": config.parent_run_id} if config.parent_run_id else {}
    return cast("RunLogger", instantiate(config.logger, _convert_="all", tags=tags, run_id=run_id))


def run_logger(trainer: Trainer) -> RunLogger | None:
    """The logger of a trainer; None where it has none, as in a `fast_dev_run`."""
    return trainer.logger if isinstance(trainer.logger, RunLogger) else None


def start_run(logger: RunLogger, config: DictConfig, *, setup: str, source: str, data_digest: str) -> None:
    """Start or resume the run, and log its parameters, its set-up and the digests by which it is found again.

    Raises:
        InputError: the store cannot be reached, or has no such run.
    """
    logger.start()
    logger.log_hyperparams(parameters(config))
    digests = {"setup_digest": setup_digest(config), "config_digest": config_digest(config), "data_digest": data_digest}
    logger.log_tags({"setup": setup, "source": source, "run_dir": str(Path(config.run_dir)), **digests})
