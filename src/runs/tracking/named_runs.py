"""Which run a name means, and which runs `resume=true` may choose: the one place that decides it, for every verb.

Also the files of the recommendations of a run, and what was found out about it afterwards.

A run is named by `run:<id>`, by `run:<first characters of the id>`, or by the path of its folder or of its
recommendations. `run:` may be left out where only a run can be meant, as in `resume=` and `parent=`.
"""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from segue.errors import InputError
from segue.reports.console import console
from segue.runs.folder import is_resumable, short_run_name
from segue.runs.recommender_names import parse_name
from segue.runs.resume import PreviousRun, config_digest
from segue.runs.tracking.store import (
    EVALUATED,
    EXPORTED,
    INTERRUPTED,
    MODEL,
    PRUNED,
    REFITTED,
    add_to_run,
    client_of,
    existing_store,
    fetch,
    find_runs,
    open_store,
)

BESIDE = ("vectors.npz", "top_tracks.json", "plays.npz")
"""What `serve.py`, its page and `simulate.py` look for beside the recommendations of a run."""

# Keys of an effect in `abtest.json`, by their name in MLflow: the interval is the one of the verdict.
_EFFECT = {
    "effect_percent": "effect_percent",
    "lower_percent": "relative_lower_percent",
    "upper_percent": "relative_upper_percent",
}


@dataclass(frozen=True, kw_only=True)
class NamedRun:
    """The run that a name means.

    Args:
        run_id: of MLflow; None for a folder whose run has none.
        folder: the run folder, as far as it is known; it need not be on this machine.
    """

    run_id: str | None
    folder: Path | None


def find_run(name: str, tracking_uri: str | None = None) -> NamedRun:
    """The run of a name.

    Args:
        name: `run:<id>`, the first characters of an id, or a path.
        tracking_uri: the store; None for the one of `MLFLOW_TRACKING_URI`, or of this folder.

    Raises:
        InputError: there is no such run, more than one begins like this, or there is no such store.
    """
    path = Path(name)
    if not name.startswith("run:"):
        if path.exists():
            here = path if path.is_dir() else path.parent
            return NamedRun(run_id=_id_in(here), folder=here)
        if "/" in name:
            raise InputError(
                f"there is no folder {name}; where a run folder was deleted, MLflow still has the run: run:<id>"
            )
    run = _run_of_id(name.removeprefix("run:"), existing_store(tracking_uri))
    folder = run.data.tags.get("run_dir")
    return NamedRun(run_id=str(run.info.run_id), folder=Path(folder) if folder else None)


def _id_in(folder: Path) -> str | None:
    """The id that a run or a sweep left in its folder."""
    for file in ("run.json", "sweep.json"):
        with suppress(OSError, ValueError, KeyError, TypeError):
            if run_id := json.loads((folder / file).read_text(encoding="utf-8"))["mlflow_run_id"]:
                return str(run_id)
    return None


def _run_of_id(start: str, tracking_uri: str) -> Any:
    """MLflow's run whose id is `start`, or the only one whose id begins with it."""
    if not re.fullmatch(r"[0-9A-Za-z-]+", start):
        raise InputError(f"{start!r} cannot be the id of a run; give run:<id>, or the path of a run folder")
    with client_of(tracking_uri) as client:
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        matches = client.search_runs(experiments, f"attributes.run_id LIKE '{start}%'", max_results=5)
    if not matches:
        raise InputError(f"MLflow ({tracking_uri}) has no run whose id begins with {start}; give another, or a path")
    if len(matches) > 1:
        listed = ", ".join(f"{short_run_name(run.info.run_id)} ({run.info.run_name})" for run in matches)
        raise InputError(f"the ids of several runs begin with {start}: {listed}; give more of the id")
    return matches[0]


ADDED = "additions.json"
"""What was added to a run: the file that says that a run folder was not trained."""


class FilesOfRun:
    """Finds the files of a trained run: in its folder, or in MLflow if the folder is not on this machine.

    Args:
        called: what names the run in messages, such as `add=run:1234`.
        name: the run, see `find_run`.
        tracking_uri: the store; None for the usual one.

    Raises:
        InputError: there is no such run, or it was not trained.

    Attributes:
        name: the run as it was named.
        run_id: of MLflow; None where it has none.
        folder: the run folder; None where it is not on this machine.
    """

    def __init__(self, called: str, name: str, tracking_uri: str | None = None) -> None:
        try:
            found = find_run(name, tracking_uri)
        except InputError as error:
            raise InputError(f"{called}: {error}") from None
        self.name, self.run_id, self._called, self._uri = name, found.run_id, called, tracking_uri
        self.folder = found.folder if found.folder is not None and (found.folder / "config.yaml").is_file() else None
        if found.folder is not None and (found.folder / ADDED).is_file():
            raise InputError(f"{called} was not trained, but has tracks that were added to a run; name that run")
        if self.folder is None and self.run_id is None:
            raise InputError(f"{called}: no run of train.py is there; give run:<id>, or the folder of a finished run")

    def find(self, file: str, into: Path | None = None) -> Path | None:
        """The file; None if the run has none.

        Args:
            file: its path in the run folder.
            into: folder that it is copied to from MLflow; None for a temporary one.
        """
        if self.folder is not None:
            return self.folder / file if (self.folder / file).is_file() else None
        try:
            return fetch(existing_store(self._uri), str(self.run_id), file, into=into)
        except (InputError, OSError):
            return None

    def path(self, file: str, into: Path | None = None) -> Path:
        """The file.

        Args:
            file: its path in the run folder.
            into: folder that it is copied to from MLflow; None for a temporary one.

        Raises:
            InputError: the run has none.
        """
        if (found := self.find(file, into)) is None:
            raise InputError(
                f"{self._called} has no {file}; it has not finished, or callbacks were left out: train a run with all"
            )
        return found


def folder_of(name: str, tracking_uri: str | None) -> Path:
    """The folder of the run that `resume=` names.

    Raises:
        InputError: there is no such run, or its folder is not on this machine.
    """
    try:
        folder = find_run(name, tracking_uri).folder
    except InputError as error:
        raise InputError(f"resume={name}: {error}") from None
    if folder is None or not folder.is_dir():
        raise InputError(f"resume={name}: its run folder {folder or ''} is not on this machine; resume it where it ran")
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
        is_finished = run.info.status == "FINISHED" and not {INTERRUPTED, PRUNED} & run.data.tags.keys()
        value = run.data.metrics.get(config.monitor.metric, float("nan")) if is_finished else None
        if is_finished or is_resumable(folder):
            found.append(PreviousRun(run_dir=folder, run_id=run_id, value=value))
    return found


def join_sweep(config: DictConfig, previous: PreviousRun) -> None:
    """Let a run that is resumed, or done already, count among those of the sweep that asked for it.

    Raises:
        InputError: the store cannot be used.
    """
    if config.parent_run_id and previous.run_id:
        add_to_run(config.logger.tracking_uri, previous.run_id, tags={f"sweep.{config.parent_run_id}": "true"})


def locate_recommendations(name: str) -> Path:
    """The `recommendations.jsonl` of `run:<start of a run id>` or `model:<name>@<alias>`, with what is beside it.

    The store is the one that MLflow's own `MLFLOW_TRACKING_URI` names, by default the one of this folder.

    Raises:
        InputError: there is no such run or model, or it has no recommendations.
    """
    try:
        uri = existing_store()
        folder = ""
        if name.startswith("model:"):
            model, _, alias = name.removeprefix("model:").partition("@")
            with client_of(uri) as client:
                version = client.get_model_version_by_alias(model, alias)
                run_id, exported = str(version.run_id), client.get_run(version.run_id).data.tags.get(EXPORTED)
            if exported == REFITTED and version.tags.get(MODEL) == EVALUATED:
                folder = "evaluated/"
        else:
            run_id = str(find_run(name, uri).run_id)
        lists = fetch(uri, run_id, f"{folder}recommendations.jsonl")
        for beside in BESIDE:  # a run may lack them; where files are on this machine, they are in the same folder
            if not lists.with_name(beside).exists():
                with suppress(InputError, OSError):
                    fetch(uri, run_id, f"{folder}{beside}", into=lists.parent)
        return lists
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def attach_abtest(record: Mapping[str, Any], folder: Path, roles: Mapping[str, str | None]) -> None:
    """Give an A/B test's result to the MLflow runs that took part: the report and `ab/<metric>_<role>_mean`.

    The treatment has `ab/<metric>_effect_percent` and its bounds too.

    Args:
        roles: name of the recommender in each role; those that name a run or its folder are runs.
    """
    for role, name in roles.items():
        metrics: dict[str, float] = {}
        for effect in record["effects"]:
            metrics[f"ab/{effect['metric']}_{role}_mean"] = effect[f"{role}_mean"]
            if role == "treatment":
                metrics |= {f"ab/{effect['metric']}_{end}": effect[key] for end, key in _EFFECT.items()}
        tags = {"ab_role": role, "ab_verdict": "; ".join(record["verdicts"].values())}
        files = [folder / f"abtest.{ending}" for ending in ("json", "md", "png")]
        _attach("result", name, metrics=metrics, tags=tags, files=files, folder="abtest")


def attach_estimate(metrics: Mapping[str, float], folder: Path, name: str, *, logs: Path, pick: str) -> bool:
    """Give an off-policy estimate to the MLflow run that was its candidate: the report and `estimate/<metric>`.

    Args:
        metrics: the estimates by their names.
        name: of the candidate; one that names a run or its folder is a run.
        pick: how the candidate picks from its lists.

    Returns:
        Whether the candidate is a run that has them now.
    """
    return _attach(
        "estimate",
        name,
        metrics={f"estimate/{metric}": value for metric, value in metrics.items()},
        tags={"estimate_logs": str(logs.absolute()), "estimate_pick": pick},
        files=[folder / "estimate.json", folder / "estimate.md"],
        folder="estimate",
    )


def _attach(what: str, name: str | None, **added: Any) -> bool:
    """Add to the run of a recommender; False where it is none, or its store cannot be used."""
    try:
        named = parse_name(name or "")
        is_run = named.kind == "path" or named.name.startswith("run:")
        if name is None or not is_run or (run_id := find_run(name).run_id) is None:
            return False
        add_to_run(existing_store(), run_id, **added)
    except InputError as error:
        console.print(f"the {what} is not attached to {name}: {error}", soft_wrap=True, markup=False)
        return False
    return True
