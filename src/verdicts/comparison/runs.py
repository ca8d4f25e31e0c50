"""From runs in MLflow to a comparison: which runs, their set-ups, their test queries and their learning curves."""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
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

# Parameters that are added to the name of a set-up if several set-ups have the same name. If these are not enough,
# four digits of the set-up's digest are added.
_MAX_DIFFERENCES = 3


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
        parent_id = above.info.run_id
        runs = [
            run
            for run in runs
            if run.data.tags.get("mlflow.parentRunId") == parent_id or f"sweep.{parent_id}" in run.data.tags
        ]
    finished = [run for run in runs if run.info.status == "FINISHED" and PRUNED not in run.data.tags]
    where = f"sweep {above.info.run_name}" if above is not None else f"experiment {experiment!r}"
    if not finished and filter_string:
        num_runs = sum(KIND not in run.data.tags for run in find_runs(tracking_uri, experiment))
        raise InputError(
            f"no finished run in {where} of {tracking_uri} fits filter={filter_string}; of its {num_runs} runs "
            f"{len(runs)} do; change the filter, or leave it out (a page of the MLflow UI shows what a run has)"
        )
    if not finished:
        raise InputError(
            f"no finished runs in {where} of {tracking_uri}; train first: "
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
        return sweeps[0] if sweeps else None
    named = _named("parent", parent, tracking_uri)
    if found := next((run for run in sweeps if run.info.run_id == named), None):
        return found
    raise InputError(
        f"parent={parent} is no sweep of experiment {experiment!r} in {tracking_uri}; use run:<id> or the folder of a "
        "sweep, or leave out parent= for the last sweep"
    )


def _named(key: str, given: str, tracking_uri: str) -> str:
    """Id of the run that a word of the command line names."""
    try:
        return str(find_run(given, tracking_uri).run_id)
    except InputError as error:
        raise InputError(f"{key}={given}: {error}") from None


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """A run before its test queries are read.

    Args:
        run_id: id in MLflow, or the folder.
        name: of its set-up, which several can have.
        digest: of its set-up: the whole config but seed and data.
        params: the config in one level, as texts.
    """

    run_id: str
    name: str
    digest: str
    params: Mapping[str, str]

    @classmethod
    def of_mlflow(cls, run: Any) -> "Found":
        """A run of MLflow."""
        tags, run_id = run.data.tags, run.info.run_id
        name, digest_of_setup = tags.get("setup", run.info.run_name), tags.get("setup_digest", run_id)
        return cls(run_id=run_id, name=name, digest=digest_of_setup, params=run.data.params)

    @classmethod
    def of_folder(cls, folder: Path) -> "Found":
        """A run folder."""
        config = read_config(folder / "config.yaml")
        of_setup = {**config, "seed": 0} | dict.fromkeys(("callbacks", "datamodule", "hydra"))
        params = {name: str(value) for name, value in flatten(config).items() if not name.startswith(_OF_A_FOLDER)}
        name = str(config["run_name"]).removesuffix(f" seed={config['seed']}")
        return cls(run_id=str(folder), name=name, digest=digest(of_setup), params={**params, "seed": config["seed"]})


# Beginnings of settings that say where a run is, or that repeat others.
_OF_A_FOLDER = ("run_dir", "run_name", "datamodule.", "ranker.", "recipe.", "logger", "hydra.", "swept", "callbacks.")


def setup_names(runs: Sequence[Found]) -> list[str]:
    """The name of the set-up of each run. Set-ups with the same name get the parameters in which they differ."""
    first = {run.digest: run for run in reversed(runs)}
    names = {}
    for name in {run.name for run in runs}:
        params = {setup: _params(run) for setup, run in first.items() if run.name == name}
        keys = sorted({key for one in params.values() for key in one})
        keys = [key for key in keys if len({one.get(key) for one in params.values()}) > 1][:_MAX_DIFFERENCES]
        for setup, own in params.items():
            names[setup] = " ".join([name, *(f"{key.rpartition('.')[2]}={short(own.get(key, '–'))}" for key in keys)])
    counts = Counter(names.values())
    full = {setup: name if counts[name] == 1 else f"{name} {setup[:4]}" for setup, name in names.items()}
    return [full[run.digest] for run in runs]


def _params(run: Found) -> dict[str, str]:
    """The parameters of its set-up: of a class only the name, because modules move; none of callbacks."""
    return {
        key: value.rpartition(".")[2] if key.endswith("_target_") else value
        for key, value in run.params.items()
        if key != "seed" and not key.startswith(("callbacks.", "trainer.plugins"))
    }


def read(runs: Sequence[Any], tracking_uri: str, *, on_run: Callable[[int], None] = lambda _: None) -> list[Run]:
    """Fetch metrics, test queries and listening test of each run from the store.

    Args:
        runs: MLflow runs.
        tracking_uri: URI of the MLflow store.
        on_run: called with 1 after each run.

    Raises:
        InputError: the store cannot be used.
    """
    fetched = []

    def frame(run: Any, file: str) -> pd.DataFrame | None:
        try:
            return pd.read_parquet(fetch(tracking_uri, run.info.run_id, file))
        except InputError:
            return None

    for run, name in zip(runs, setup_names([Found.of_mlflow(one) for one in runs]), strict=True):
        one = Run(
            run_id=run.info.run_id,
            setup=name,
            seed=int(run.data.params.get("seed", 0)),
            metrics=dict(run.data.metrics),
            queries=_tested(frame(run, "test_queries.parquet")),
            listening=frame(run, LISTENERS_FILE) if TIME in run.data.metrics else None,
            is_refitted=run.data.tags.get(EXPORTED) == REFITTED,
        )
        fetched.append(one)
        on_run(1)
    return fetched


def read_folders(folders: Sequence[Path], names: Sequence[str] | None = None) -> list[Run]:
    """Read runs from their folders, without a store.

    Args:
        folders: the run folders of `train.py`.
        names: name of the set-up of each; by default what distinguishes it from the others.

    Returns:
        One run for each folder, in the same order. Its folder takes the place of the id.

    Raises:
        InputError: a folder has no finished run, or the runs are trained on other data than the first.
    """
    runs = list[Run]()
    digests = {folder: RunRecord.read(folder).data_digest for folder in folders}
    if len(digests) < len(folders):
        raise InputError(f"{max(folders, key=list(folders).count)} is named twice; a run is compared with other runs")
    if other := next((folder for folder in folders if digests[folder] != digests[folders[0]]), None):
        raise InputError(
            f"{other} is trained on other data than {folders[0]} (digest {digests[other]}, not {digests[folders[0]]}); "
            "compare models of the same plays"
        )
    found = [Found.of_folder(folder) for folder in folders]
    for folder, one, name in zip(folders, found, names or setup_names(found), strict=True):
        try:
            metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise InputError(f"{folder} has no finished run; train again") from None
        frames = [folder / "test_queries.parquet", folder / LISTENERS_FILE]
        queries, listening = (pd.read_parquet(path) if path.is_file() else None for path in frames)
        run = Run(
            run_id=one.run_id,
            setup=name,
            seed=int(one.params["seed"]),
            metrics={key: float(value) for key, value in metrics.items() if isinstance(value, int | float)},
            queries=_tested(queries),
            listening=listening,
            is_refitted=(folder / REFIT).is_file(),
        )
        runs.append(run)
    return runs


def _tested(queries: pd.DataFrame | None) -> pd.DataFrame | None:
    return None if queries is None else queries[[*QUERY, *TESTED, *queries.columns.intersection(list(BY_NEWNESS))]]


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


def run_to_register(
    requested: str | None, matching: MatchingRuns, comparison: Comparison, tracking_uri: str
) -> Any | None:
    """The run whose model is to be registered.

    Args:
        requested: `best`, the name of a run (see `find_run`), or None.
        matching: the runs that were compared.
        comparison: their comparison.
        tracking_uri: the store.

    Returns:
        The MLflow run; None if `requested` is None.

    Raises:
        InputError: there is no such run, or it is not among those compared.
    """
    if requested is None:
        return None
    run_id = comparison.winner.run_id if requested == "best" else _named("register", requested, tracking_uri)
    if found := next((run for run in matching.runs if run.info.run_id == run_id), None):
        return found
    raise InputError(
        f"register={requested} is not among the {len(matching.runs)} compared runs; "
        "use register=best or run:<id> of one of them"
    )


def register(run: Any, tracking_uri: str, *, name: str, alias: str) -> str:
    """Register the model of a run under a name, and move an alias to it.

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
        kinds = [EVALUATED, REFITTED] if run.data.tags.get(EXPORTED) == REFITTED else [EVALUATED]
        models = {
            kind: one.model_id
            for one in sorted(given, key=lambda one: int(one.creation_timestamp))  # a resumed run logs others
            if (kind := one.tags.get(MODEL, EVALUATED)) in kinds
        }
        if kinds[-1] not in models:
            again = "resume it with refit=all and" if kinds[-1] == REFITTED else "train it with"
            raise InputError(
                f"run {run.info.run_id} has no {kinds[-1]} model to register; {again} callbacks.lineage.model=true"
            )
        with ExitStack() as undo:  # a name or an alias that MLflow refuses leaves nothing behind
            with suppress(MlflowException):  # it exists already; if it cannot be created, the version's error says why
                client.create_registered_model(name)
                undo.callback(_remove_if_empty, client, name)
            for kind in filter(models.get, kinds):  # the exported model comes last
                made = client.create_model_version(
                    name, f"models:/{models[kind]}", run.info.run_id, tags={MODEL: kind}, model_id=models[kind]
                )
                version = made.version
                undo.callback(client.delete_model_version, name, version)
            client.set_registered_model_alias(name, alias, version)
            undo.pop_all()
    return str(version)


def _remove_if_empty(client: Any, name: str) -> None:
    """Remove a registered model, unless it has got a version in the meantime."""
    if not client.get_registered_model(name).latest_versions:
        client.delete_registered_model(name)
