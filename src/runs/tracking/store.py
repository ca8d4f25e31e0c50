"""MLflow: open the store, find runs and their files, and the parent runs of sweeps."""

import hashlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from filelock import FileLock

from segue.atomic import write_record
from segue.errors import InputError
from segue.reports.console import warn
from segue.runs.provenance import command_line

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
# src/runs/tracking/logger.py repeats requests to an unreachable server itself, and training does not wait for it.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")

MAX_TAG = 5000
"""Characters that MLflow takes of a tag."""

KIND = "segue.kind"
"""Tag of a run that is no training: `sweep`."""
INTERRUPTED = "interrupted"
"""Tag of a run whose training was ended by Ctrl-C."""
EXPORTED = "exported"
"""Tag of a run: which of its models its lists are of."""
MODEL = "segue.model"
"""Tag of a model and of its version in the registry: which model of the run it is."""
EVALUATED, REFITTED = "evaluated", "refitted"
"""The model that was tested, and the one that has learned all sessions."""

PRUNED = "pruned"
"""Tag of a run that a search pruned."""


@contextmanager
def client_of(tracking_uri: str) -> Iterator[Any]:
    """A client of a store, whose failures become one line.

    Raises:
        InputError: the store cannot be opened, or does not have what is requested.
    """
    import mlflow
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield mlflow.MlflowClient(tracking_uri)
    except (MlflowException, SQLAlchemyError, OSError) as error:
        first = str(error).splitlines()[0][:300]
        if is_refusal(error):
            raise InputError(f"MLflow ({tracking_uri}) refuses: {first}") from error
        raise InputError(
            f"cannot use the MLflow store {tracking_uri}: {first}; set logger.tracking_uri or MLFLOW_TRACKING_URI"
        ) from error


_REFUSALS = (
    "INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "INVALID_STATE", "BAD_REQUEST",
)  # fmt: skip


def is_refusal(error: Exception) -> bool:
    """Whether a store was reached and refuses a request, which it will do again."""
    return getattr(error, "error_code", None) in _REFUSALS


def open_store(tracking_uri: str, experiment: str) -> str:
    """Create the store and the experiment where they are missing, before a run is started.

    Two processes that create the same sqlite store at the same time destroy it; a lock prevents that.

    Returns:
        The id of the experiment.

    Raises:
        InputError: the store cannot be opened.
    """
    file = _file_of(tracking_uri)
    try:
        held: Any = nullcontext()
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            held = FileLock(file.parent / f".{file.name}.lock").acquire()
    except OSError as error:
        raise InputError(f"cannot use the MLflow store {tracking_uri}: {error}; set logger.tracking_uri") from None
    with held, client_of(tracking_uri) as client:
        return _ensure_experiment(client, experiment)


def _file_of(tracking_uri: str) -> Path | None:
    return Path(tracking_uri.removeprefix("sqlite:///")) if tracking_uri.startswith("sqlite:///") else None


def _ensure_experiment(client: Any, name: str) -> str:
    """The id of an experiment; it is created where it is missing, perhaps by another machine at the same moment."""
    from mlflow.exceptions import MlflowException

    if (experiment := client.get_experiment_by_name(name)) is None:
        try:
            client.create_experiment(name)
        except MlflowException:
            if client.get_experiment_by_name(name) is None:
                raise
        experiment = client.get_experiment_by_name(name)
    if experiment.lifecycle_stage != "active":
        raise InputError(
            f"the experiment {name!r} was deleted; restore it in MLflow, or set another logger.experiment_name"
        )
    if "mlflow.experimentKind" not in experiment.tags:  # without one the UI guesses; one that somebody chose is kept
        client.set_experiment_tag(experiment.experiment_id, "mlflow.experimentKind", "custom_model_development")
    return str(experiment.experiment_id)


def runs_page(experiment_id: str) -> str:
    """Where MLflow's UI shows the runs of an experiment: what follows the address of the UI.

    MLflow 3.17 would open an experiment in its view of language models, whatever its kind.
    """
    return f"#/experiments/{experiment_id}/runs?workflowType=machine_learning"


def existing_store(tracking_uri: str | None = None) -> str:
    """The store to read from: the one given, or named by MLflow's own `MLFLOW_TRACKING_URI`, or of this folder.

    Raises:
        InputError: it is a file that does not exist; reading must not create one.
    """
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    if (file := _file_of(uri)) is not None and not file.exists():
        raise InputError(f"there is no MLflow store {uri} here; train first, or set MLFLOW_TRACKING_URI")
    return uri


def find_runs(tracking_uri: str, experiment: str, filter_string: str = "") -> list[Any]:
    """Runs of an experiment that fit MLflow's filter, newest first; none where there is no such experiment.

    Raises:
        InputError: the store cannot be used, or does not understand the filter.
    """
    with client_of(tracking_uri) as client:
        if (found := client.get_experiment_by_name(experiment)) is None:
            return []
        newest = ["attributes.start_time DESC"]
        return list(client.search_runs([found.experiment_id], filter_string, max_results=_MOST_RUNS, order_by=newest))


_MOST_RUNS = 50_000  # that MLflow returns at once


# Overrides that do not change what a sweep consists of, but how it is run.
_HOW = (
    "resume=", "hydra.sweep.dir=", "hydra/launcher=", "hydra.launcher.", "hydra.sweeper.num_trials=",
    "hydra.sweeper.batch=",
)  # fmt: skip


@contextmanager
def parent_run(
    tracking_uri: str, experiment_name: str, run_name: str, run_dir: Path, *, resume: bool, tags: Mapping[str, str]
) -> Iterator[str]:
    """Start the parent run of the jobs of a multirun, and end it, and jobs that are marked as running; yields its id.

    Args:
        experiment_name: the experiment; created where it is missing.
        resume: take the newest parent of the same command, if there is one.

    Raises:
        InputError: the store cannot be used. At the end this is printed, because it must not hide an earlier error.
    """
    experiment_id = open_store(tracking_uri, experiment_name)
    asked = sorted(word for word in command_line()[1:] if not word.startswith(_HOW))
    same = hashlib.sha256("\n".join(asked).encode()).hexdigest()[:16]
    before = find_runs(tracking_uri, experiment_name, f"tags.sweep_digest = '{same}'") if resume else []
    named = {"mlflow.runName": run_name, KIND: "sweep", "sweep_digest": same, "run_dir": str(run_dir)}
    with client_of(tracking_uri) as client:
        run = before[0] if before else client.create_run(experiment_id, tags={**tags, **named})
        run_id = str(run.info.run_id)
        client.update_run(run_id, status="RUNNING")
    run_dir.mkdir(parents=True, exist_ok=True)
    write_record({"mlflow_run_id": run_id}, run_dir / "sweep.json")
    status = "FAILED"
    try:
        yield run_id
        status = "FINISHED"
    finally:
        try:
            with client_of(tracking_uri) as client:
                for child in client.search_runs([experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'"):
                    if child.info.status == "RUNNING":
                        client.set_terminated(child.info.run_id, "KILLED")
                client.set_terminated(run_id, status)
        except InputError as error:
            warn(str(error))


def add_to_run(
    tracking_uri: str,
    run_id: str,
    *,
    metrics: Mapping[str, float] | None = None,
    tags: Mapping[str, str] | None = None,
    files: Sequence[Path] = (),
    folder: str | None = None,
) -> None:
    """Add to a run what was found out after it.

    Args:
        metrics: by name; those that are no finite numbers are left out.
        tags: by name; what is too long for MLflow is cut off.
        files: logged as its artifacts.

    Raises:
        InputError: the store cannot be used.
    """
    with client_of(tracking_uri) as client:
        for name, value in (metrics or {}).items():
            if math.isfinite(value):
                client.log_metric(run_id, name, value)
        for name, text in (tags or {}).items():
            client.set_tag(run_id, name, text[:MAX_TAG])
        for file in files:
            client.log_artifact(run_id, str(file), folder)


def fetch(tracking_uri: str, run_id: str, path: str, *, into: Path | None = None) -> Path:
    """A file of a run; it is downloaded where it is not on this machine, into a new folder or into `into`.

    Raises:
        InputError: the run or the file is not there.
    """
    import mlflow

    with client_of(tracking_uri) as client:
        artifacts = client.get_run(run_id).info.artifact_uri
        if (parts := urlsplit(artifacts)).scheme in ("", "file"):
            if not (here := Path(url2pathname(parts.path if parts.scheme else artifacts)) / path).exists():
                raise InputError(
                    f"run {run_id} has no {path}; it has not finished, or its files in {here.parent} were deleted"
                )
            return here
        return Path(
            mlflow.artifacts.download_artifacts(
                run_id=run_id, artifact_path=path, tracking_uri=tracking_uri, dst_path=into and str(into)
            )
        )
