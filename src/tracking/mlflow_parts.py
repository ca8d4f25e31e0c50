"""Undocumented parts of MLflow that Segue uses.

MLflow documents how system metrics of its own active run are logged. A run of Segue is not MLflow's active run: it is
written through a client, which may have to wait for its store. Tried on MLflow 3.17.2.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch


def watch_machine(*, run_id: str, tracking_uri: str, interval_s: float) -> Callable[[], None]:
    """Log processor, memory, disk, network and GPU to a run as `system/…`, in a thread of its own.

    Args:
        run_id: an existing run; its system metrics are continued.
        tracking_uri: the store.
        interval_s: seconds between two samples.

    Returns:
        A function that ends it.
    """
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(run_id, sampling_interval=interval_s, resume_logging=True, tracking_uri=tracking_uri)
    monitor.start()
    end: Callable[[], None] = monitor.finish
    return end


def requirements_unchecked() -> AbstractContextManager[Any]:
    """Let MLflow log a model without comparing its requirements with what is installed.

    The comparison only warns, and it looks through the files of all installed packages: half a second of every run. We
    name the requirements ourselves.
    """
    return patch("mlflow.utils.requirements_utils._check_requirement_satisfied", lambda _: None)
