"""From runs in MLflow to what can be compared: which runs, their set-ups, their test queries and their curves."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import pandas as pd

from src.comparison.analysis import QUERY, TESTED, Comparison, Run
from src.errors import InputError
from src.runs.folder import short
from src.tracking.named_runs import find_run
from src.tracking.store import INTERRUPTED, KIND, PRUNED, client_of, describe, fetch, find_runs, log_to_run

_CURVES = ("train/loss", "val/loss")
_NAMED = 3
"""Differences between set-ups of one name that are named; where that is not enough, digits of their digest follow."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MatchingRuns:
    """Runs that can be compared.

    Args:
        runs: MLflow's, newest first.
        parent: the run above them, if they come from a sweep.
        notes: what is to be known of them, and why others are not among them, a sentence each.
    """

    runs: list[Any]
    parent: Any | None
    notes: list[str]


def find(tracking_uri: str, experiment: str, *, parent: str | None, filter_string: str) -> MatchingRuns:
    """The runs of a sweep, or of an experiment: finished ones that learned from the same data as the newest.

    Args:
        tracking_uri: the store.
        experiment: its name.
        parent: run id or folder of a sweep; None for the last one, or, where a filter is given or there was no sweep,
            for all runs.
        filter_string: MLflow's.

    Raises:
        InputError: there is no such sweep, or no finished run.
    """
    above = _sweep(tracking_uri, experiment, parent) if parent or not filter_string else None
    runs = find_runs(tracking_uri, experiment, filter_string)
    if above is not None:
        runs = [run for run in runs if _is_below(run, above.info.run_id)]
    runs = [run for run in runs if KIND not in run.data.tags]
    finished = [run for run in runs if run.info.status == "FINISHED" and PRUNED not in run.data.tags]
    where = f"sweep {above.info.run_name}" if above is not None else f"experiment {experiment!r}"
    if not finished and filter_string:
        num_runs = len([run for run in find_runs(tracking_uri, experiment) if KIND not in run.data.tags])
        raise InputError(
            f"no finished run in {where} of {tracking_uri} fits filter={filter_string}; of its {num_runs} runs "
            f"{len(runs)} do; change the filter, or leave it out (a page of the MLflow UI shows what a run has)"
        )
    if not finished:
        raise InputError(
            f"no finished runs in {where} of {tracking_uri}; train first: "
            "python train.py -m model=track,artist,mean,convex,contextual seed=1,2,3"
        )
    notes = []
    if len(finished) < len(runs):
        notes.append(f"{len(runs) - len(finished)} runs are not finished, or were pruned, and are left out.")
    if by_hand := sum(INTERRUPTED in run.data.tags for run in finished):
        notes.append(f"{by_hand} runs were ended by hand (Ctrl-C) and are compared as they are.")
    digest = finished[0].data.tags.get("data_digest")
    same = [run for run in finished if run.data.tags.get("data_digest") == digest]
    if len(same) < len(finished):
        notes.append(
            f"{len(finished) - len(same)} runs learned from other data than the newest ({digest}) and are left out; "
            "parent= or filter= choose others."
        )
    return MatchingRuns(runs=same, parent=above, notes=notes)


def _sweep(tracking_uri: str, experiment: str, parent: str | None) -> Any | None:
    sweeps = find_runs(tracking_uri, experiment, f"tags.`{KIND}` = 'sweep'")
    if parent is None:
        return sweeps[0] if sweeps else None
    try:
        named = find_run(parent, tracking_uri).run_id
    except InputError as error:
        raise InputError(f"parent={parent}: {error}") from None
    for run in sweeps:
        if run.info.run_id == named:
            return run
    raise InputError(
        f"parent={parent} is no sweep of experiment {experiment!r} in {tracking_uri}; give its run:<id> or its folder, "
        "or leave parent= out for the last one"
    )


def _is_below(run: Any, parent_id: str) -> bool:
    tags = run.data.tags
    return tags.get("mlflow.parentRunId") == parent_id or f"sweep.{parent_id}" in tags


def setup_names(runs: Sequence[Any]) -> dict[str, str]:
    """A name for the set-up of each run id; what set-ups of one name differ in is added to it."""
    of = {run.info.run_id: run.data.tags.get("setup_digest", run.info.run_id) for run in runs}
    first = {of[run.info.run_id]: run for run in reversed(runs)}
    named: dict[str, list[str]] = {}
    for digest, run in first.items():
        named.setdefault(run.data.tags.get("setup", run.info.run_name), []).append(digest)
    names = {}
    for name, digests in named.items():
        params = [_params(first[digest]) for digest in digests]
        keys = sorted({key for one in params for key in one if len({other.get(key) for other in params}) > 1})
        for digest, own in zip(digests, params, strict=True):
            differing = [f"{key.rpartition('.')[2]}={short(own.get(key, '–'))}" for key in keys]
            names[digest] = " ".join([name, *differing[:_NAMED]]) if len(digests) > 1 else name
    counts = Counter(names.values())
    return {
        run_id: names[digest] if counts[names[digest]] == 1 else f"{names[digest]} {digest[:4]}"
        for run_id, digest in of.items()
    }


def _params(run: Any) -> dict[str, str]:
    """What makes its set-up: of a class only its name, since modules move, and nothing of callbacks, which report."""
    return {
        key: value.rpartition(".")[2] if key.endswith("_target_") else value
        for key, value in run.data.params.items()
        if key != "seed" and not key.startswith(("callbacks.", "trainer.plugins"))
    }


def read(
    runs: Sequence[Any], tracking_uri: str, *, select: str, on_run: Callable[[int], None] = lambda _: None
) -> list[Run]:
    """What a comparison needs of each run; brought here from the store.

    Args:
        runs: MLflow's.
        tracking_uri: the store.
        select: a metric whose curve is wanted beside the losses.
        on_run: called with 1 after each run.

    Raises:
        InputError: the store cannot be used.
    """
    names, read_runs = setup_names(runs), []
    for run in runs:
        metrics: Mapping[str, float] = run.data.metrics
        read_runs.append(
            Run(
                run_id=run.info.run_id,
                setup=names[run.info.run_id],
                seed=int(run.data.params.get("seed", 0)),
                metrics=dict(metrics),
                queries=_queries(run, tracking_uri),
                history={name: _curve(run, tracking_uri, name) for name in (*_CURVES, select) if name in metrics},
                alpha=metrics.get("alpha"),
            )
        )
        on_run(1)
    return read_runs


def _queries(run: Any, tracking_uri: str) -> pd.DataFrame | None:
    try:
        path = fetch(tracking_uri, run.info.run_id, "test_queries.parquet")
        return pd.read_parquet(path, columns=[*QUERY, *TESTED])
    except InputError:
        return None


def _curve(run: Any, tracking_uri: str, metric: str) -> list[tuple[int, float]]:
    """By epoch. What was logged last is the value of the best one once more, and no epoch of its own."""
    with client_of(tracking_uri) as client:
        values = {one.step: one.value for one in client.get_metric_history(run.info.run_id, metric)}
        end = max((one.step for one in client.get_metric_history(run.info.run_id, "fit_seconds")), default=None)
    return [(step, value) for step, value in sorted(values.items()) if end is None or step < end]


def winner(comparison: Comparison) -> str:
    """Id of the run of the best set-up that validates best."""
    sign = 1 if comparison.mode == "max" else -1
    return max(comparison.best.runs, key=lambda run: sign * run.metrics.get(comparison.select, -sign * inf)).run_id


def attach(folder: Path, parent: Any, tracking_uri: str) -> None:
    """Give the files of a comparison to the run above a sweep, and its Markdown as the description of that run.

    Raises:
        InputError: the store cannot be used.
    """
    files = [folder / f"comparison.{ending}" for ending in ("png", "md", "csv", "json")]
    log_to_run(tracking_uri, parent.info.run_id, files)
    describe(tracking_uri, parent.info.run_id, (folder / "comparison.md").read_text(encoding="utf-8"))


def run_to_register(asked: str | None, matching: MatchingRuns, comparison: Comparison, tracking_uri: str) -> Any | None:
    """The run whose model is to be registered; None where none is.

    Args:
        asked: `best`, the name of a run (see `find_run`), or None.
        matching: the runs compared.
        comparison: of them.
        tracking_uri: the store.

    Raises:
        InputError: there is no such run, or it is none of those compared.
    """
    if asked is None:
        return None
    try:
        run_id = winner(comparison) if asked == "best" else find_run(asked, tracking_uri).run_id
    except InputError as error:
        raise InputError(f"register={asked}: {error}") from None
    for run in matching.runs:
        if run.info.run_id == run_id:
            return run
    raise InputError(f"register={asked} is none of the runs compared; use register=best, or run:<id> of one of them")


def register(run: Any, tracking_uri: str, *, name: str, alias: str) -> str:
    """Give the model of a run a registered name and an alias, which is taken from whatever had it before.

    Returns:
        Its version.

    Raises:
        InputError: the run has no model, or the store cannot be used.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    mlflow.set_tracking_uri(tracking_uri)  # where the registry looks for models, whatever its client uses
    with client_of(tracking_uri) as client:
        run = client.get_run(run.info.run_id)
        models = [client.get_logged_model(one.model_id) for one in run.outputs.model_outputs] if run.outputs else []
        if not models:
            raise InputError(
                f"run {run.info.run_id} has no model to register; train it with callbacks.lineage.model=true"
            )
        model_id = max(models, key=lambda one: int(one.creation_timestamp)).model_id  # a run that goes on logs another
        with ExitStack() as undo:  # a name or an alias that is refused leaves nothing behind
            with suppress(MlflowException):  # it is there already; if it cannot be created, the version says why
                client.create_registered_model(name)
                undo.callback(_remove_if_empty, client, name)
            source = f"models:/{model_id}"
            version = client.create_model_version(name, source, run.info.run_id, model_id=model_id).version
            undo.callback(client.delete_model_version, name, version)
            client.set_registered_model_alias(name, alias, version)
            undo.pop_all()
    return str(version)


def _remove_if_empty(client: Any, name: str) -> None:
    """Remove a registered model, unless somebody has given it a version meanwhile."""
    if not client.get_registered_model(name).latest_versions:
        client.delete_registered_model(name)
