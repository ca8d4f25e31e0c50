"""What a run of `train.py` left, and which command could come next."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from segue.reports.training_tables import (
    ExampleTrack,
    examples_table,
    listening_table,
    metrics_tables,
    newness_table,
    phases_table,
)
from segue.runs.folder import short_run_name
from segue.terminal.console import console, show_lines

_STORE = "sqlite:///mlflow.db"
"""Where runs are looked for, unless `MLFLOW_TRACKING_URI` names another store."""
_UI = "http://127.0.0.1:5000"
"""Where `mlflow ui` answers."""
_CHANGES_OF_WORLD = ("world.", "taste@")
_SOURCE = ("datamodule=", "datamodule.", "experiment=", "world=", *_CHANGES_OF_WORLD)
"""Overrides that decide which data a run learns from."""


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A finished run, for the lines that end a training.

    Args:
        config: of the run, all of it.
        choices: the name that was chosen of each group of conf.
        overrides: of the command line, all of them.
        run_id: of MLflow; None where it has none.
        runs_page: where the MLflow UI shows the runs of the experiment: what follows its address; None without MLflow.
        has_recommendations: whether recommendations were exported.
        is_played: whether its lists were played to simulated listeners.
        below_popular: the metrics in which the model is below the list of the most played tracks.
        is_job: whether it is a job of a multirun, whose parent says what comes next.
    """

    config: DictConfig
    choices: Mapping[str, str]
    overrides: Sequence[str]
    run_id: str | None
    runs_page: str | None
    has_recommendations: bool
    is_played: bool
    below_popular: Sequence[str]
    is_job: bool


def show_training(
    run: FinishedRun, metrics: Mapping[str, Any], examples: Sequence[ExampleTrack], seconds: Mapping[str, float]
) -> None:
    """Print the test metrics and what comes next; of a run that is no job, also examples and where the time went.

    Args:
        run: what is shown.
        metrics: of the run, by name.
        examples: tracks with their recommendations; may be empty.
        seconds: of each phase of the run.
    """
    tables = metrics_tables(metrics, title=run.config.run_name)
    for table in (*tables, newness_table(metrics), listening_table(metrics)):
        if table is not None:
            console.print(table)
    for line in why_below_popular(run):
        console.print(line, soft_wrap=line.startswith(" "), markup=False)
    if examples and not run.is_job:
        console.print(examples_table(examples, console.width))
    if not run.is_job:
        console.print(phases_table(seconds))
    console.print(next_steps(run), soft_wrap=True, markup=False)


def show_added(counts: Mapping[str, Any], run_dir: str) -> None:
    """Print what `train.py add=` has added, and what comes next.

    Args:
        counts: what `additions.json` has.
        run_dir: where it is.
    """
    of_all = f"{counts['num_changed_lists']:,} of {counts['num_tracks']:,}"
    known = f"{counts['num_by_known_artists']:,} by known artists; about {counts['num_unknown']:,} nothing is known"
    lines = {
        "added": f"{counts['num_added']:,} tracks to {counts['num_tracks']:,}: {known}",
        "lists": f"{of_all} have new tracks; {counts['num_listed']:,} of the new tracks are in one",
        "run folder": run_dir,
        "next": f"python serve.py load store.folder=<run folder of the service>/store recommendations={run_dir}",
    }
    show_lines(lines.items())


def next_steps(run: FinishedRun) -> str:
    """Lines for a person: what the run is called, where it is, and what to type next."""
    config = run.config
    lines = [("run", f"{short_run_name(run.run_id)}, in full {run.run_id}")] if run.run_id else []
    lines.append(("run folder", config.run_dir))
    if run.runs_page is not None:
        store = config.logger.tracking_uri
        if store.startswith("http"):
            lines.append(("MLflow UI", f"{store}/{run.runs_page}"))
        else:
            lines += [("MLflow UI", f"mlflow ui --backend-store-uri {store}"), ("", f"{_UI}/{run.runs_page}")]
    if not run.is_job:
        lines += [("" if number else "next", command) for number, command in enumerate(_commands(run))]
    return "\n".join(f"{name:12} {line}" for name, line in lines)


def _commands(run: FinishedRun) -> list[str]:
    """The commands that a person could type next."""
    commands = [" ".join(["python train.py -m model=track,artist,mean,convex,contextual", *_source(run)])]
    if _is_simulated(run) and run.has_recommendations:
        arms = shlex.quote(f'arms={{C: popular, T1: "{_name(run)}"}}')
        commands.append(f"{_store(run)}python simulate.py {arms} {_world(run)}")
    return commands


def why_below_popular(run: FinishedRun) -> list[str]:
    """Lines that say why the most played tracks have a better recall than the model, and which command would change it.

    Empty where they have not.
    """
    if not run.below_popular:
        return []
    below = f"The model is below popular in {', '.join(run.below_popular)}."
    what, command = _better_at_recall(run)
    change = [f"{what}:", f"{'':13}{command}"]
    if not _is_simulated(run):
        why = (
            f"{below} In these logs the most played tracks follow more often than those that the model ranks first. "
            "Recall says how well the logs are predicted, and logs also depend on what was recommended when they were "
            "written. An A/B test (serve.py, abtest.py) measures what listeners play longer."
        )
        return [why, *change]
    arms = run.config.datamodule.prepare.arms.values()
    names = (str(arm["recommender"] if isinstance(arm, Mapping) else arm) for arm in arms)
    players = ", ".join(dict.fromkeys(names))
    why = (
        f"{below} The recommenders of these logs were {players}; recall says how well such logs are predicted. "
        "The aim is a high mean time per session."
    )
    if run.is_played:
        return [f"{why} The listening test above measures it.", *change]
    if not run.has_recommendations:
        return [why, *change]
    measure = f"{'':13}{_store(run)}python abtest.py control=popular treatment={_name(run)} {_world(run)}"
    return [f"{why} This command measures it:", measure, *change]


def _better_at_recall(run: FinishedRun) -> tuple[str, str]:
    """What ranks the next track of these logs better, and its command."""
    source = [word for word in _source(run) if not word.startswith("experiment=")]
    if run.choices["recipe"] == "counting":
        return "A head may rank better than this baseline", " ".join(["python train.py", *source])
    if run.choices["recipe"] in ("shares", "published"):
        words = ["python train.py", *source, *_typed(run, ("model=", "context=")), "recipe=playlists"]
        return "To learn which track came next, and not how much of it was played", " ".join(words)
    return "A search may find better settings", " ".join(["python train.py -m search=optuna", *source])


def _is_simulated(run: FinishedRun) -> bool:
    return run.choices["datamodule"] == "simulated"


def _name(run: FinishedRun) -> str:
    """The name of the run for other verbs: `run:<short id>`, or the run folder where MLflow does not have it."""
    return short_run_name(run.run_id) if run.run_id else str(run.config.run_dir)


def _store(run: FinishedRun) -> str:
    """What comes before a command, so that it finds the run in a store other than the usual one."""
    if run.run_id is None or run.config.logger.tracking_uri == _STORE:
        return ""
    return f"MLFLOW_TRACKING_URI={shlex.quote(run.config.logger.tracking_uri)} "


def _world(run: FinishedRun) -> str:
    """The world, and what was typed of it, which another verb needs too."""
    return " ".join([f"world={run.choices['world']}", *_typed(run, _CHANGES_OF_WORLD)])


def _source(run: FinishedRun) -> list[str]:
    """What was typed of the data, for a shell."""
    return _typed(run, _SOURCE)


def _typed(run: FinishedRun, keys: tuple[str, ...]) -> list[str]:
    """The overrides of some keys, for a shell."""
    return [shlex.quote(word) for word in run.overrides if word.lstrip("+~").startswith(keys)]
