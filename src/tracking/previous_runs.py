"""Runs of MLflow that a run may resume."""

from pathlib import Path

from omegaconf import DictConfig

from segue.errors import InputError
from segue.runs.folder import is_resumable
from segue.runs.resume import PreviousRun, config_digest
from segue.terminal.console import console
from segue.tracking.named_runs import find_run
from segue.tracking.store import INTERRUPTED, KIND, PRUNED, find_runs, mark, open_store


def folder_of(name: str, tracking_uri: str | None) -> Path:
    """The folder of the run that `resume=` names.

    Raises:
        InputError: there is no such run, or its folder is not on this machine.
    """
    try:
        folder = find_run(name, tracking_uri).folder
    except InputError as error:
        raise InputError(f"resume={name}: {error}") from None
    if folder is None:
        raise InputError(f"resume={name}: MLflow does not know its run folder; give the path of the folder")
    if not folder.is_dir():
        raise InputError(f"resume={name}: its run folder {folder} is not on this machine; resume it where it ran")
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
