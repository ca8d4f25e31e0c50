"""Recommenders that are runs or registered models: their files, and attaching what they were found to do to them."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segue.errors import InputError
from segue.runs.recommender_names import parse_name
from segue.terminal.console import console
from segue.tracking.named_runs import find_run
from segue.tracking.store import add_to_run, client_of, existing_store, fetch

BESIDE = ("vectors.npz", "top_tracks.json", "plays.npz")
"""What `serve.py`, its page and `simulate.py` look for beside the recommendations of a run."""

_EFFECT = {
    "effect_percent": "effect_percent",
    "lower_percent": "relative_lower_percent",
    "upper_percent": "relative_upper_percent",
}
"""Keys of an effect in `abtest.json`, by their name in MLflow: the interval is the one of the verdict."""


def locate_recommendations(name: str) -> Path:
    """The `recommendations.jsonl` of `run:<start of a run id>` or `model:<name>@<alias>`, with what is beside it.

    The store is the one that MLflow's own `MLFLOW_TRACKING_URI` names, by default the one of this folder.

    Raises:
        InputError: there is no such run or model, or it has no recommendations.
    """
    try:
        uri = existing_store()
        if name.startswith("model:"):
            model, _, alias = name.removeprefix("model:").partition("@")
            with client_of(uri) as client:
                run_id = str(client.get_model_version_by_alias(model, alias).run_id)
        else:
            run_id = str(find_run(name, uri).run_id)
        lists = fetch(uri, run_id, "recommendations.jsonl")
        for beside in BESIDE:  # a run may lack them; where files are on this machine, they are in the same folder
            if not lists.with_name(beside).exists():
                with contextlib.suppress(InputError, OSError):
                    fetch(uri, run_id, beside, into=lists.parent)
        return lists
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def attach_abtest(record: Mapping[str, Any], folder: Path, roles: Mapping[str, str | None]) -> None:
    """Give an A/B test's result to the MLflow runs that took part: the report and `ab/<metric>_<role>_mean`.

    The treatment has `ab/<metric>_effect_percent` and its bounds too.

    Args:
        record: of the test.
        folder: of its report.
        roles: name of the recommender in each role; those that name a run or its folder are runs.
    """
    for role, name in roles.items():
        metrics: dict[str, float] = {}
        for effect in record["effects"]:
            metrics[f"ab/{effect['metric']}_{role}_mean"] = effect[f"{role}_mean"]
            if role == "treatment":
                metrics |= {f"ab/{effect['metric']}_{end}": effect[key] for end, key in _EFFECT.items()}
        tags = {"ab_role": role, "ab_verdict": "; ".join(record["verdicts"].values())}
        files = [folder / f"abtest.{ending}" for ending in ("json", "md", "html", "png")]
        _attach("result", name, metrics=metrics, tags=tags, files=files, folder="abtest")


def attach_estimate(metrics: Mapping[str, float], folder: Path, name: str, *, logs: Path, pick: str) -> bool:
    """Give an off-policy estimate to the MLflow run that was its candidate: the report and `estimate/<metric>`.

    They are not `offline/<metric>`, which `train.py` estimated from the test logs of the run.

    Args:
        metrics: the estimates, named `offline/<metric>`.
        folder: of the report.
        name: of the candidate; one that names a run or its folder is a run.
        logs: that the estimates are from.
        pick: how the candidate picks from its lists.

    Returns:
        Whether the candidate is a run that has them now.
    """
    return _attach(
        "estimate",
        name,
        metrics={metric.replace("offline/", "estimate/", 1): value for metric, value in metrics.items()},
        tags={"estimate_logs": str(logs.absolute()), "estimate_pick": pick},
        files=[folder / "estimate.json", folder / "estimate.md"],
        folder="estimate",
    )


def _attach(what: str, name: str | None, **added: Any) -> bool:
    """Add to the run of a recommender; False where it is none, or its store cannot be used."""
    try:
        if name is None or (run_id := _run_id_of(name)) is None:
            return False
        add_to_run(existing_store(), run_id, **added)
    except InputError as error:
        console.print(f"the {what} is not attached to {name}: {error}", soft_wrap=True, markup=False)
        return False
    return True


def _run_id_of(name: str) -> str | None:
    """The id of the run that a recommender's name means; None where it is no run, or one without MLflow."""
    named = parse_name(name)
    if named.kind == "path" or named.name.startswith("run:"):
        return find_run(name).run_id
    return None
