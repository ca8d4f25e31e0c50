"""What a run of `train.py` left, and which command could come next."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig
from rich.console import RenderableType
from rich.text import Text

from segue.reports.result_table import Table
from segue.reports.tables import OF_LISTENERS, phases_table, tables_of_test
from segue.runs.folder import TRAINS_NOTHING, short_run_name
from segue.runs.provenance import call_of, program

if TYPE_CHECKING:
    import pandas as pd

_CHANGES_OF_WORLD = ("world.", "taste@")
# Overrides that decide which data a run learns from.
_SOURCE = ("datamodule=", "datamodule.", "experiment=", "world=", *_CHANGES_OF_WORLD)
# Overrides of one model, and of one run, which a comparison of models does not have.
_OF_ONE = (
    "model=", "model.", "context.encoder", "hydra", "run_dir=", "run_name=", "resume=", "trust=",
    "trainer=", "trainer.devices=", "trainer.num_nodes=",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class BetterModel:
    """A model that ranks validation queries better than the trained one, beyond the interval of the difference.

    Args:
        words: of the command line that choose it.
        own: ndcg@10 of the trained model, on the same queries.
    """

    words: str
    ndcg: float
    own: float


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A finished run, for the lines that end a training.

    Args:
        choices: the name that was chosen of each group of conf; None where nothing was.
        run_id: of MLflow; None where it has none.
        runs_page: where the MLflow UI shows the runs of the experiment: what follows its address; None without MLflow.
        examples: tracks with their recommendations; None where no recommendations were exported.
        is_job: whether it is a job of a multirun, whose parent says what comes next.
        better: a counting model that validates better; None where there is none, or none was compared.
        learned: what the tested model has learned, such as `the oldest 80 % of the sessions`.
        refit: what the exported model has learned, as in `refit.json`; None where the tested one is exported.
    """

    config: DictConfig
    choices: Mapping[str, str | None]
    overrides: Sequence[str]
    run_id: str | None
    runs_page: str | None
    metrics: Mapping[str, Any]
    examples: Table | None
    seconds: Mapping[str, float]
    is_job: bool
    learned: str
    refit: Mapping[str, Any] | None
    better: BetterModel | None = None


def training_report(run: FinishedRun) -> Iterator[RenderableType]:
    """The test metrics and what comes next; of a run that is no job, also examples and where the time went.

    Yields:
        What is printed: a text is not broken into lines.
    """
    yield from tables_of_test(run.metrics, title=run.config.run_name)
    better = what_is_better(run)
    if is_simulated(run):  # what its listeners say is said first
        yield from better
    if not run.is_job:
        yield from filter(None, [run.examples, phases_table(run.seconds)])
    if not is_simulated(run):
        yield from better
    yield next_steps(run)


def added_report(counts: Mapping[str, Any], run_dir: str) -> dict[str, str]:
    """What `train.py add=` has added (see `additions.json`), and what comes next: lines by name."""
    of_all = f"{counts['num_changed_lists']:,} of {counts['num_tracks']:,}"
    known = f"{counts['num_by_known_artists']:,} by known artists; about {counts['num_unknown']:,} nothing is known"
    return {
        "added": f"{counts['num_added']:,} tracks to {counts['num_tracks']:,}: {known}",
        "lists": f"{of_all} have new tracks; {counts['num_listed']:,} of the new tracks are in one",
        "run folder": run_dir,
        "next": f"{call_of('serve')} load store.folder=<run folder of the service>/store recommendations={run_dir}",
    }


def next_steps(run: FinishedRun) -> str:
    """Lines for a person: what the run is called, where it is, and what to type next."""
    config = run.config
    lines = [] if run.is_job else [*tested_and_exported(run).items()]
    lines += [("run", f"{short_run_name(run.run_id)}, in full {run.run_id}")] if run.run_id else []
    lines.append(("run folder", config.run_dir))
    if run.runs_page is not None:
        store = config.logger.tracking_uri
        if store.startswith("http"):
            lines.append(("MLflow UI", f"{store}/{run.runs_page}"))
        else:
            lines += [
                ("MLflow UI", f"mlflow ui --backend-store-uri {store}"),
                ("", f"http://127.0.0.1:5000/{run.runs_page}"),
            ]
    if not run.is_job:
        trains = run.choices["recipe"] not in TRAINS_NOTHING
        of_one = _typed(run, _OF_ONE)
        typed = [word for word in _typed(run, "") if word not in of_one] if trains else _typed(run, _SOURCE)
        lines.append(("next", _command("-m model=track,artist,mean,convex,contextual", *typed)))
        if is_simulated(run) and run.examples is not None:
            name = short_run_name(run.run_id) if run.run_id else config.run_dir
            arms = shlex.quote(f'arms={{C: popular, T1: "{name}"}}')
            is_found = not run.run_id or config.logger.tracking_uri == "sqlite:///mlflow.db"  # as without a variable
            store = "" if is_found else f"MLFLOW_TRACKING_URI={shlex.quote(config.logger.tracking_uri)} "
            world = " ".join([f"world={run.choices['world']}", *_typed(run, _CHANGES_OF_WORLD)])
            lines.append(("", f"{store}{call_of('simulate')} {arms} {world}"))
    return "\n".join(f"{name:12} {line}" for name, line in lines)


def tested_and_exported(run: FinishedRun) -> dict[str, str]:
    """Which model the metrics are of, and which one is exported: lines by name."""
    epoch, epochs = int(run.metrics.get("epoch", 0)) + 1, run.metrics["epochs"]
    chosen = f"epoch {epoch} of {epochs}, " if epochs > 1 else ""
    lines = {"tested": f"{chosen}trained on {run.learned}"}
    if run.refit is not None:
        until = f" until {run.refit['until']}" if run.refit["until"] else ""
        lines["exported"] = f"refitted on all {run.refit['sessions']:,} sessions{until}"
    elif run.examples is not None:
        again = "; with refit=all it is trained again on all sessions" * (run.choices["recipe"] != "mixture")
        lines["exported"] = f"the tested model{again}"
    from segue.runs.profiles import FILE as PROFILES  # a command without a run does not wait for numpy

    if (Path(run.config.run_dir) / PROFILES).is_file():
        lines["listeners"] = f"{PROFILES} has what each has heard, under keys of their ids (docs/privacy.md)"
    return lines


def share_learned(sizes: "pd.DataFrame", *, is_by_time: bool) -> str:
    """What training has seen of the data, in words.

    Args:
        sizes: a line for each split and a line `all`, as `PairDataModule.summary` returns them.
        is_by_time: whether the newest sessions test.
    """
    unit = "pairs" if sizes["events"].isna()["train"] else "sessions"  # single pairs were split
    share = float(sizes[unit]["train"] / sizes[unit]["all"])
    return f"{'the oldest ' * is_by_time}{100 * share:.0f} % of the {unit}"


def what_is_better(run: FinishedRun) -> list[RenderableType]:
    """Which floors have a better recall than the model, beyond its interval, and which model validates better.

    Each with its command; empty where there are none.
    """
    below = _floors_above(run.metrics)
    lines: list[RenderableType] = []
    source = [word for word in _typed(run, _SOURCE) if not word.startswith("experiment=")]
    if below:
        names = "; ".join(f"below {floor} in {', '.join(metrics)}" for floor, metrics in below.items())
        what, command = _better_at_recall(run, source)
        lines = [Text(f"The model is {names}. {_why(run)}"), Text(f"{what}:"), f"{'':13}{command}"]
        floor = max(below, key=lambda floor: run.metrics[f"test/{below[floor][-1]}_{floor}_floor"])
        if not is_simulated(run) and floor not in OF_LISTENERS:
            lines += [
                Text(f"To use {floor}:"),
                f"{'':13}{_command(*source, _WORDS_OF_FLOORS.get(floor, f'model={floor}'))}",
            ]
    if run.better is not None:
        own, other = f"{run.better.own:.4f}", f"{run.better.ndcg:.4f}"
        lines.append(Text(f"On validation {run.better.words} is better: its ndcg@10 is {other}, this model has {own}:"))
        lines.append(f"{'':13}{_command(*source, run.better.words)}")
    return lines


_WORDS_OF_FLOORS = {"counts": "model=rules model.window=1"}  # what trains a floor that is not a model of its name


def _floors_above(metrics: Mapping[str, Any]) -> dict[str, list[str]]:
    """By the name of each floor, in which metrics the model is below it."""
    found: dict[str, list[str]] = {}
    for name, floor in metrics.items():
        if (match := re.fullmatch(r"test/(recall_at_\d+)_(?!position_)(\w+)_floor", name)) and (own := match[1]):
            upper = metrics[f"test/{own}"] + metrics.get(f"test/{own}_half_width", 0.0)
            if upper < floor:
                found.setdefault(match[2], []).append(own)
    return {floor: sorted(names, key=lambda name: int(name.rpartition("_")[2])) for floor, names in found.items()}


def _why(run: FinishedRun) -> str:
    if not is_simulated(run):
        return (
            "Such a simple rule ranks the track that followed in these logs higher than the model does. "
            + logs_are_not_listeners()
        )
    arms = run.config.datamodule.prepare.arms.values()
    names = (str(arm["recommender"] if isinstance(arm, Mapping) else arm) for arm in arms)
    why = (
        f"The recommenders of these logs were {', '.join(dict.fromkeys(names))}; recall says how well such logs are "
        "predicted. The aim is a high mean time per session."
    )
    if "online/mean_time_per_session" in run.metrics:
        why += " The listening test above measures it."
    return why


def logs_are_not_listeners() -> str:
    """What recall does not say, and which commands measure it."""
    return (
        "Recall says how well the logs are predicted, and logs also depend on what was recommended when they were "
        f"written. An A/B test ({program('serve')}, {program('abtest')}) measures what listeners play longer."
    )


def _better_at_recall(run: FinishedRun, source: Sequence[str]) -> tuple[str, str]:
    """What may rank the next track of these logs better, and its command."""
    if (kind := TRAINS_NOTHING.get(str(run.choices["recipe"]))) is not None:
        return f"A head may rank better than this {kind}", _command(*source)
    of_model = *source, *_typed(run, ("model=", "context="))
    if (recipe := run.choices["recipe"]) in ("shares", "published"):
        return (
            "To learn which track came next, and not how much of it was played",
            _command(*of_model, "recipe=playlists"),
        )
    return "A search may find better settings", _command("-m search=optuna", *of_model, f"recipe={recipe}")


def _command(*words: str) -> str:
    return " ".join([call_of("train"), *words])


def is_simulated(run: FinishedRun) -> bool:
    """Whether its listeners are simulated."""
    return run.choices["datamodule"] == "simulated"


def _typed(run: FinishedRun, keys: str | tuple[str, ...]) -> list[str]:
    """The overrides of some keys, for a shell."""
    return [shlex.quote(word) for word in run.overrides if word.lstrip("+~").startswith(keys)]
