"""MLflow: open the store, and what a run is told of where it came from."""

import math
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock

from src.errors import InputError

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")

_PACKAGES = ("torch", "pytorch-lightning", "mlflow", "hydra-core", "duckdb", "pandas", "numpy")


def open_store(tracking_uri: str, experiment: str) -> None:
    """Make sure that the store and the experiment are there, before any run is started.

    Two processes that open a new sqlite store at once destroy it, so the first opening is under a lock.

    Raises:
        InputError: the store cannot be opened.
    """
    import mlflow
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    file = tracking_uri.removeprefix("sqlite:///") if tracking_uri.startswith("sqlite:///") else None
    lock = Path(file).parent / f".{Path(file).name}.lock" if file else Path(os.devnull)
    try:
        if file is None:
            _ensure_experiment(mlflow.MlflowClient(tracking_uri), experiment)
            return
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            _ensure_experiment(mlflow.MlflowClient(tracking_uri), experiment)
    except (MlflowException, SQLAlchemyError, OSError) as error:
        first = str(error).splitlines()[0][:300]
        raise InputError(f"cannot open the MLflow store {tracking_uri}: {first}; set logger.tracking_uri") from error


def _ensure_experiment(client: Any, name: str) -> None:
    if client.get_experiment_by_name(name) is None:
        client.create_experiment(name)


def git_state(root: Path) -> dict[str, str]:
    """`git_commit` (`unknown` outside a checkout) and `git_dirty` (`true` where tracked files differ from it)."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

    commit = git("rev-parse", "HEAD")
    dirty = git("status", "--porcelain", "--untracked-files=no")
    return {"git_commit": commit or "unknown", "git_dirty": "unknown" if dirty is None else str(bool(dirty)).lower()}


def provenance(root: Path) -> dict[str, str]:
    """Where a result came from: command, commit, versions, machine. Every result file carries it."""
    state = {"command": shlex.join(["python", *sys.argv]), **git_state(root)}
    state["python"] = platform.python_version()
    state |= {package: version(package) for package in _PACKAGES}
    state["machine"] = f"{platform.machine()}, {os.cpu_count()} cores"
    return state


def run_name(*, model: str, alpha: float | str | None, experiment: str | None, seed: int) -> str:
    """What tells the runs of a sweep apart, for people: `convex α=0.9 seed=1`."""
    parts = [model, f"α={alpha}" if alpha is not None else "", experiment or "", f"seed={seed}"]
    return " ".join(part for part in parts if part)


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested names joined by dots: `{"model": {"alpha": 1}}` → `{"model.alpha": 1}`."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def refuse_used_folder(run_dir: Path, record: str = "config.yaml") -> None:
    """Refuse a run folder that has a run in it already, before anything there can be lost.

    Args:
        run_dir: the folder.
        record: the file that every run leaves.

    Raises:
        InputError: it is there.
    """
    if (run_dir / record).exists():
        raise InputError(f"{run_dir} holds a run already; choose another folder with hydra.run.dir=<folder>")


def write_config(config: Any, path: Path, root: Path) -> None:
    """Write the resolved config (plain dicts, lists and values), headed by its provenance.

    Raises:
        InputError: the folder holds a run already.
    """
    refuse_used_folder(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    head = "".join(f"# {name}: {value}\n" for name, value in provenance(root).items())
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(head + yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")
    try:
        path.hardlink_to(partial)  # fails where another run was faster
    except FileExistsError:
        refuse_used_folder(path.parent)
    finally:
        partial.unlink()


def locate_recommendations(name: str) -> Path:
    """The `recommendations.jsonl` of `run:<MLflow run id>` or `model:<registered name>@<alias>`.

    The store is the one that MLflow's own `MLFLOW_TRACKING_URI` names, by default the one of this folder.

    Raises:
        InputError: there is no such run or model, or it has no recommendations.
    """
    import mlflow
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    uri = _default_store()
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        raise InputError(f"{name}: there is no MLflow store {uri} here; train first, or set MLFLOW_TRACKING_URI")
    kind, _, key = name.partition(":")
    try:
        client = mlflow.MlflowClient(uri)
        if kind == "model":
            model, _, alias = key.partition("@")
            key = str(client.get_model_version_by_alias(model, alias).run_id)
        client.get_run(key)
        return Path(
            mlflow.artifacts.download_artifacts(run_id=key, artifact_path="recommendations.jsonl", tracking_uri=uri)
        )
    except (MlflowException, SQLAlchemyError, OSError) as error:
        first = str(error).splitlines()[0][:300]
        raise InputError(f"cannot get the recommendations of {name} from {uri}: {first}") from None


def attach_abtest(record: Mapping[str, Any], folder: Path, roles: Mapping[str, str | None]) -> None:
    """Give an A/B test's result to the MLflow runs that took part: `ab/<metric>_effect_percent`, bounds, the report.

    Args:
        record: of the test.
        folder: of its report.
        roles: name of the recommender in each role; those that are `run:<id>` are runs.
    """
    runs = {role: name.removeprefix("run:") for role, name in roles.items() if name and name.startswith("run:")}
    if not runs:
        return
    import mlflow

    client = mlflow.MlflowClient(_default_store())
    for role, run_id in runs.items():
        for effect in record["effects"]:
            for name in ("effect_percent", "lower_percent", "upper_percent"):
                if math.isfinite(effect[name]):
                    client.log_metric(run_id, f"ab/{effect['metric']}_{name}", effect[name])
            client.log_metric(run_id, f"ab/{effect['metric']}_{role}_mean", effect[f"{role}_mean"])
        client.set_tag(run_id, "ab_role", role)
        client.set_tag(run_id, "ab_verdict", "; ".join(record["verdicts"].values()))
        for name in ("abtest.json", "abtest.md", "abtest.png"):
            client.log_artifact(run_id, str(folder / name), "abtest")


def _default_store() -> str:
    return os.environ.get("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
