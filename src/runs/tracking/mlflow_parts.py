"""Undocumented parts of MLflow that Segue uses.

Its clients cannot remove an artifact. MLflow documents how system metrics of its own active run are logged; a run of
Segue is not MLflow's active run, but is written through a client, which may have to wait for its store. Tried on MLflow
3.17.2.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, cast
from unittest.mock import patch


def watch_machine(*, run_id: str, tracking_uri: str, interval_s: float) -> Callable[[], None]:
    """Log processor, memory, disk, network and GPU to a run as `system/…`, in a thread of its own.

    Args:
        run_id: an existing run; its system metrics are continued.
        interval_s: seconds between two samples.

    Returns:
        A function that ends it.
    """
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(run_id, sampling_interval=interval_s, resume_logging=True, tracking_uri=tracking_uri)
    monitor.start()
    return cast("Callable[[], None]", monitor.finish)


def remove_artifact(artifact_uri: str, path: str, *, tracking_uri: str) -> None:
    """Remove a file or a folder of a run; nothing where there is none."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    get_artifact_repository(artifact_uri, tracking_uri=tracking_uri).delete_artifacts(path)


def requirements_unchecked() -> AbstractContextManager[Any]:
    """Let MLflow log a model without comparing its requirements with what is installed.

    The comparison only warns, and it looks through the files of all installed packages: half a second of every run. We
    name the requirements ourselves.
    """
    return patch("mlflow.utils.requirements_utils._check_requirement_satisfied", lambda _: None)
