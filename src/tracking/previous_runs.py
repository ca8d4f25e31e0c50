"""Runs of MLflow that a run may resume."""

from pathlib import Path

from omegaconf import DictConfig

from src.errors import InputError
from src.runs.folder import is_resumable
from src.runs.resume import PreviousRun, config_digest
from src.terminal.console import console
from src.tracking.store import INTERRUPTED, KIND, PRUNED, find_runs, mark, open_store, store_that_is_there, talking_to


def folder_of(run_id: str, tracking_uri: str | None) -> Path:
    """The run folder of a run id.

    Raises:
        InputError: there is no such run, or it is not on this machine.
    """
    try:
        with talking_to(store_that_is_there(tracking_uri)) as client:
            folder = Path(client.get_run(run_id).data.tags.get("run_dir", ""))
    except InputError as error:
        raise InputError(f"resume={run_id} is no folder, and no run either: {error}") from None
    if not (folder / "run.json").exists():
        raise InputError(f"resume={run_id}: its run folder {folder} is not on this machine; resume it where it ran")
    return folder


def same_runs(config: DictConfig, data_digest: str) -> list[PreviousRun]:
    """Runs of the same config on the same data, newest first: finished ones, and those that can be resumed.

    Raises:
        InputError: the store cannot be used.
    """
    uri, experiment = config.logger.tracking_uri, config.logger.experiment_name
    open_store(uri, experiment)
    same = {"config_digest": config_digest(config), "data_digest": data_digest}
    runs = find_runs(uri, experiment, " AND ".join(f"tags.{name} = '{value}'" for name, value in same.items()))
    found = []
    for run in runs:
        folder, run_id = Path(run.data.tags.get("run_dir", "")), run.info.run_id
        if run.info.status == "FINISHED" and not {INTERRUPTED, PRUNED} & run.data.tags.keys():
            value = run.data.metrics.get(config.monitor.metric, float("nan"))
            found.append(PreviousRun(run_dir=folder, run_id=run_id, value=value))
        elif is_resumable(folder):
            found.append(PreviousRun(run_dir=folder, run_id=run_id))
    if not found:
        _report_runs_of_before(uri, experiment, data_digest)
    return found


def _report_runs_of_before(uri: str, experiment: str, data_digest: str) -> None:
    """Say that runs which began before recipes are not looked at, since their settings have other names."""
    runs = find_runs(uri, experiment, f"tags.data_digest = '{data_digest}'")
    before = [run for run in runs if RECIPE not in run.data.params and KIND not in run.data.tags]
    if before:
        commit = before[0].data.tags.get("git_commit", "unknown")
        console.print(
            f"resume=true: {len(before)} runs on these data began before settings had today's names (the newest at "
            f"commit {commit}) and are not resumed; a new run starts",
            soft_wrap=True,
            markup=False,
        )


RECIPE = "recipe.name"
"""Parameter that every run has had since its settings have today's names."""


def join_sweep(config: DictConfig, previous: PreviousRun) -> None:
    """Let a run that is resumed, or done already, count among those of the sweep that asked for it.

    Raises:
        InputError: the store cannot be used.
    """
    if config.parent_run_id and previous.run_id:
        mark(config.logger.tracking_uri, previous.run_id, f"sweep.{config.parent_run_id}")
