"""From runs in MLflow to a comparison: which runs, their set-ups, their test queries and their learning curves."""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from segue.errors import InputError
from segue.runs.folder import REFIT, RunRecord, digest, flatten, short
from segue.runs.targets import read_config
from segue.runs.tracking.named_runs import find_run
from segue.runs.tracking.store import (
    EVALUATED,
    EXPORTED,
    INTERRUPTED,
    KIND,
    MODEL,
    PRUNED,
    REFITTED,
    add_to_run,
    client_of,
    fetch,
    find_runs,
)  # fmt: skip
from segue.statistics.online import LISTENERS_FILE, TIME
from segue.statistics.ranking import BY_NEWNESS
from segue.verdicts.comparison.analysis import QUERY, TESTED, Comparison, Run

_MAX_DIFFERENCES = 3
"""Parameters that are added to the name of a set-up if several set-ups have the same name. If these are not enough,
four digits of the set-up's digest are added."""
_NOT_OF_A_SETUP = (
    "run_dir", "run_name", "datamodule.", "ranker.", "recipe.", "logger", "hydra.", "swept", "callbacks.", "seed",
    "trainer.plugins",
)  # fmt: skip
"""Beginnings of settings that say where a run is, or that repeat others."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MatchingRuns:
    """Runs that can be compared.

    Args:
        runs: MLflow runs, newest first.
        parent: the parent run of their sweep; None if they do not come from one sweep.
        notes: one sentence for each group of runs that was left out or needs a remark.
    """

    runs: list[Any]
    parent: Any | None
    notes: list[str]


def find(tracking_uri: str, experiment: str, *, parent: str | None, filter_string: str) -> MatchingRuns:
    """The finished runs of a sweep, or of an experiment, that were trained on the same data as the newest one.

    Args:
        tracking_uri: URI of the MLflow store.
        experiment: name of the experiment.
        parent: run id or folder of a sweep. None takes the last sweep; with a filter, or if there is no sweep, all
            runs of the experiment.
        filter_string: filter in MLflow's language; empty for none.

    Returns:
        The runs, their parent, and notes on what was left out.

    Raises:
        InputError: there is no such sweep, or no finished run, or the store cannot be used.
    """
    above = _sweep(tracking_uri, experiment, parent) if parent or not filter_string else None
    runs = [run for run in find_runs(tracking_uri, experiment, filter_string) if KIND not in run.data.tags]
    if above is not None:
        of_sweep = {"mlflow.parentRunId": above.info.run_id, f"sweep.{above.info.run_id}": "true"}
        runs = [run for run in runs if of_sweep.items() & run.data.tags.items()]
    finished = [run for run in runs if run.info.status == "FINISHED" and PRUNED not in run.data.tags]
    if not finished:
        where = f"sweep {above.info.run_name}" if above is not None else f"experiment {experiment!r}"
        fits = f" that fits filter={filter_string}" * bool(filter_string)
        raise InputError(
            f"no finished runs in {where} of {tracking_uri}{fits}, {len(runs)} others; train first: "
            "python train.py -m model=track,artist,mean,convex,contextual seed=1,2,3"
        )
    digest = finished[0].data.tags.get("data_digest")
    same = [run for run in finished if run.data.tags.get("data_digest") == digest]
    notes = {
        "left out: {} runs that are not finished or were pruned": len(runs) - len(finished),
        "interrupted with Ctrl-C, compared as they are: {} runs": sum(INTERRUPTED in run.data.tags for run in finished),
        f"left out: {{}} runs trained on other data than the newest run (data {digest}); parent= or filter= choose "
        "other runs": len(finished) - len(same),
    }
    return MatchingRuns(runs=same, parent=above, notes=[note.format(num) for note, num in notes.items() if num])


def _sweep(tracking_uri: str, experiment: str, parent: str | None) -> Any | None:
    sweeps = find_runs(tracking_uri, experiment, f"tags.`{KIND}` = 'sweep'")
    if parent is None:
        return next(iter(sweeps), None)
    return _one_of(sweeps, parent, f"parent={parent} is no sweep of experiment {experiment!r}", tracking_uri)


def _one_of(runs: Sequence[Any], name: str, refusal: str, tracking_uri: str) -> Any:
    """The run of a name, see `find_run`, among some runs of MLflow.

    Raises:
        InputError: there is no such run, or it is none of them.
    """
    run_id = find_run(name, tracking_uri).run_id
    if found := next((run for run in runs if run.info.run_id == run_id), None):
        return found
    raise InputError(f"{refusal} in {tracking_uri}; use run:<id> or its folder")


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """A run before its test queries are read.

    Args:
        run_id: id in MLflow, or the folder.
        name: of its set-up, which several can have.
        digest: of its set-up: the whole config but seed and data.
        params: the config in one level, as texts.
        file: from the name of one of its files to the file; an InputError or a FileNotFoundError where it has none.
    """

    run_id: str
    name: str
    digest: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    is_refitted: bool
    file: Callable[[str], Path]

    @classmethod
    def of_mlflow(cls, run: Any, tracking_uri: str) -> "Found":
        """A run of MLflow."""
        tags, run_id = run.data.tags, run.info.run_id
        return cls(
            run_id=run_id,
            name=tags.get("setup", run.info.run_name),
            digest=tags.get("setup_digest", run_id),
            params=run.data.params,
            metrics=dict(run.data.metrics),
            is_refitted=tags.get(EXPORTED) == REFITTED,
            file=partial(fetch, tracking_uri, run_id),
        )

    @classmethod
    def of_folder(cls, folder: Path) -> "Found":
        """A run folder.

        Raises:
            InputError: it has no finished run.
        """
        config = read_config(folder / "config.yaml")
        try:
            metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise InputError(f"{folder} has no finished run; train again") from None
        return cls(
            run_id=str(folder),
            name=str(config["run_name"]).removesuffix(f" seed={config['seed']}"),
            digest=digest({**config, "seed": 0} | dict.fromkeys(("callbacks", "datamodule", "hydra"))),
            params={name: str(value) for name, value in flatten(config).items()},
            metrics={key: float(value) for key, value in metrics.items() if isinstance(value, int | float)},
            is_refitted=(folder / REFIT).is_file(),
            file=folder.joinpath,
        )

    def own_params(self) -> dict[str, str]:
        """The parameters of its set-up: of a class only the name, because modules move."""
        return {
            key: value.rpartition(".")[2] if key.endswith("_target_") else value
            for key, value in self.params.items()
            if not key.startswith(_NOT_OF_A_SETUP)
        }

    def frame(self, name: str) -> pd.DataFrame | None:
        """One of its tables; None where it has none."""
        try:
            return pd.read_parquet(self.file(name))
        except (InputError, FileNotFoundError):
            return None


def setup_names(runs: Sequence[Found]) -> list[str]:
    """The name of the set-up of each run. Set-ups with the same name get the parameters in which they differ."""
    first = {run.digest: run for run in reversed(runs)}
    names = {}
    for name in {run.name for run in runs}:
        params = {setup: run.own_params() for setup, run in first.items() if run.name == name}
        keys = sorted({key for one in params.values() for key in one})
        keys = [key for key in keys if len({one.get(key) for one in params.values()}) > 1][:_MAX_DIFFERENCES]
        for setup, own in params.items():
            names[setup] = " ".join([name, *(f"{key.rpartition('.')[2]}={short(own.get(key, '–'))}" for key in keys)])
    counts = Counter(names.values())
    full = {setup: name if counts[name] == 1 else f"{name} {setup[:4]}" for setup, name in names.items()}
    return [full[run.digest] for run in runs]


def read(
    runs: Sequence[Found], names: Sequence[str] | None = None, *, on_run: Callable[[int], None] = lambda _: None
) -> list[Run]:
    """Read the test queries and the listening test of each run.

    Args:
        runs: of MLflow, or of folders.
        names: name of the set-up of each; by default what distinguishes it from the others.
        on_run: called with 1 after each run.

    Raises:
        InputError: the store cannot be used.
    """
    found = []
    for run, name in zip(runs, names or setup_names(runs), strict=True):
        queries = run.frame("test_queries.parquet")
        if queries is not None:
            queries = queries[[*QUERY, *TESTED, *queries.columns.intersection(list(BY_NEWNESS))]]
        one = Run(
            run_id=run.run_id,
            setup=name,
            seed=int(run.params.get("seed", 0)),
            metrics=run.metrics,
            queries=queries,
            listening=run.frame(LISTENERS_FILE) if TIME in run.metrics else None,
            is_refitted=run.is_refitted,
        )
        found.append(one)
        on_run(1)
    return found


def in_folders(folders: Sequence[Path]) -> list[Found]:
    """The runs in some folders, without a store.

    Args:
        folders: the run folders of `train.py`.

    Raises:
        InputError: a folder has no finished run, or the runs are trained on other data than the first.
    """
    if twice := next((folder for folder in folders if list(folders).count(folder) > 1), None):
        raise InputError(f"{twice} is named twice; a run is compared with other runs")
    digests = [RunRecord.read(folder).data_digest for folder in folders]
    if other := next((folder for folder, own in zip(folders, digests, strict=True) if own != digests[0]), None):
        raise InputError(f"{other} is trained on other data than {folders[0]}; compare models of the same plays")
    return [Found.of_folder(folder) for folder in folders]


def attach(folder: Path, parent: Any, tracking_uri: str) -> None:
    """Log the files of a comparison to the parent run of a sweep; the text of `comparison.md` becomes its description.

    Args:
        folder: folder with the files of the comparison.
        parent: the parent run in MLflow.
        tracking_uri: URI of the MLflow store.

    Raises:
        InputError: the store cannot be used.
    """
    files = [folder / f"comparison.{ending}" for ending in ("png", "md", "json")]
    text = _PICTURE.sub("", files[1].read_text(encoding="utf-8"))  # the page of a run does not find its artifacts
    add_to_run(tracking_uri, parent.info.run_id, files=files, tags={"mlflow.note.content": text})


_PICTURE = re.compile(r"^!\[.*\n\n", flags=re.MULTILINE)


def run_to_register(requested: str, matching: MatchingRuns, comparison: Comparison, tracking_uri: str) -> Any:
    """The MLflow run whose model is to be registered.

    Args:
        requested: `best`, or the name of a run (see `find_run`).
        matching: the runs that were compared.
        comparison: their comparison.
        tracking_uri: the store.

    Raises:
        InputError: there is no such run, or it is not among those compared.
    """
    name = f"run:{comparison.winner.run_id}" if requested == "best" else requested
    return _one_of(matching.runs, name, f"register={requested} is none of the compared runs", tracking_uri)


def register(run: Any, tracking_uri: str, *, name: str, alias: str) -> str:
    """Register the models of a run under a name, and move an alias to the exported one.

    Args:
        run: the MLflow run.
        tracking_uri: URI of the MLflow store.
        name: name of the registered model.
        alias: alias, such as `champion`; the version that had it before loses it.

    Returns:
        The version of the registered model, that of the exported one. If it was refitted, the version before it is the
            evaluated model; the tag `segue.model` of a version says which it is.

    Raises:
        InputError: the run has no model, or the store cannot be used.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    mlflow.set_tracking_uri(tracking_uri)  # the registry looks for models there, whichever store its client uses
    with client_of(tracking_uri) as client:
        run = client.get_run(run.info.run_id)
        given = [client.get_logged_model(one.model_id) for one in run.outputs.model_outputs] if run.outputs else []
        given.sort(key=lambda one: int(one.creation_timestamp))  # a resumed run logs others
        models = {one.tags.get(MODEL, EVALUATED): one.model_id for one in given}
        exported = run.data.tags.get(EXPORTED, EVALUATED)
        if exported not in models:
            says = f"run {run.info.run_id} has no {exported} model to register"
            raise InputError(f"{says}; resume it with callbacks.lineage.model=true")
        with suppress(MlflowException):  # it exists already; if it cannot be created, the version's error says why
            client.create_registered_model(name)
        for kind in dict.fromkeys([EVALUATED, exported]):  # the exported model comes last
            if kind in models:
                source, tags = f"models:/{models[kind]}", {MODEL: kind}
                made = client.create_model_version(name, source, run.info.run_id, tags=tags, model_id=models[kind])
        client.set_registered_model_alias(name, alias, made.version)
    return str(made.version)
