"""What a run of `train.py` left, and which command could come next."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig
from rich.console import RenderableType

from segue.reports.result_table import Table
from segue.reports.tables import phases_table, tables_of_test
from segue.runs.folder import short_run_name
from segue.runs.provenance import call_of

if TYPE_CHECKING:
    import pandas as pd


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
    if not run.is_job:
        yield from filter(None, [run.examples, phases_table(run.seconds)])
    yield "\n".join(f"{name:12} {line}" for name, line in next_steps(run).items())


def next_steps(run: FinishedRun) -> dict[str, str]:
    """Lines for a person, by their names: what the run is called, where it is, and what to type next."""
    config, lines = run.config, {} if run.is_job else tested_and_exported(run)
    if run.better is not None:
        ndcg, own = f"{run.better.ndcg:.4f}", f"{run.better.own:.4f}"
        lines["better"] = f"{run.better.words}: its ndcg@10 on validation is {ndcg}, this model has {own}"
    if run.run_id:
        lines["run"] = f"{short_run_name(run.run_id)}, in full {run.run_id}"
    lines["run folder"] = config.run_dir
    if run.runs_page is not None:
        store = config.logger.tracking_uri
        is_server = store.startswith("http")
        page = f"{store if is_server else 'http://127.0.0.1:5000'}/{run.runs_page}"
        lines["MLflow UI"] = page if is_server else f"mlflow ui --backend-store-uri {store}\n{'':13}{page}"
    if not run.is_job and run.examples is not None:
        lines["next"] = f"{call_of('serve')} recommendations={config.run_dir}"
    return lines


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


def added_report(counts: Mapping[str, Any], run_dir: str) -> dict[str, str]:
    """What `train.py add=` has added (see `additions.json`), and what comes next: lines by name."""
    known = f"{counts['num_by_known_artists']:,} by known artists; about {counts['num_unknown']:,} nothing is known"
    changed = f"{counts['num_changed_lists']:,} of {counts['num_tracks']:,} have new tracks"
    return {
        "added": f"{counts['num_added']:,} tracks to {counts['num_tracks']:,}: {known}",
        "lists": f"{changed}; {counts['num_listed']:,} of the new tracks are in one",
        "run folder": run_dir,
        "next": f"{call_of('serve')} load store.folder=<run folder of the service>/store recommendations={run_dir}",
    }
