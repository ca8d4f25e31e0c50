"""What Segue uses of MLflow that its documentation does not offer.

MLflow documents how its own active run is watched, but a run of Segue is nobody's active run: it is written to through
a client, which may have to wait for its store. Tried on MLflow 3.17.2.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


def watch_machine(*, run_id: str, tracking_uri: str, interval_s: float) -> Callable[[], None]:
    """Log processor, memory, disk, network and GPU to a run as `system/…`, in a thread of its own.

    Args:
        run_id: the run, which is there; what it has of these metrics is continued.
        tracking_uri: the store.
        interval_s: seconds between two looks.

    Returns:
        Ends it.
    """
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(run_id, sampling_interval=interval_s, resume_logging=True, tracking_uri=tracking_uri)
    monitor.start()
    end: Callable[[], None] = monitor.finish
    return end


@contextmanager
def requirements_unchecked() -> Iterator[None]:
    """Let MLflow log a model without comparing its requirements with what is installed.

    The comparison only warns, and it looks through the files of all installed packages: half a second of every run. We
    name the requirements ourselves.
    """
    from mlflow.utils import requirements_utils

    check = requirements_utils._check_requirement_satisfied
    requirements_utils._check_requirement_satisfied = lambda _: None
    try:
        yield
    finally:
        requirements_utils._check_requirement_satisfied = check
