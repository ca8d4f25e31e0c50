"""Each callback of conf can be left out: the run ends well, and lacks only what that callback makes."""

from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.e2e.test_train import DIRTY, FILES, PLOTS, metrics_of, quick

NAMES = [name for name in yaml.safe_load((ROOT / "conf/callbacks/default.yaml").read_text()) if name != "defaults"]
LISTS = {"recommendations.jsonl", "top_tracks.json", "plays.npz", "vectors.npz"}
REFITTED = {"refit.json", "checkpoints/refitted.ckpt", *(f"evaluated/{name}" for name in LISTS)}
LACKS = {"ranking": {"test_queries.parquet", *REFITTED}, "export": {*LISTS, *REFITTED}}
"""What a run lacks without a callback; nothing, where none is said."""
_OTHERS = [name for name in NAMES if name not in (*LACKS, "lineage", "plots", "checkpoint")]
QUIET = {"quiet": _OTHERS[::2], "quiet too": _OTHERS[1::2]}
"""Callbacks that leave nothing of their own. Each half of them is left out beside the other half, which may need it;
the others are left out one at a time, or in every other test."""
ALL = {*FILES, *REFITTED, *(f"plots/{name}" for name in PLOTS), "checkpoints/best.ckpt", "checkpoints/last.ckpt"}
OF_MLFLOW = ALL - {"checkpoints/last.ckpt"}


def left(folder: Path) -> set[str]:
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return files - DIRTY


def tracked(cwd: Path) -> set[str]:
    """Files of the only run in MLflow, and `model` where it has one."""
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{cwd}/mlflow.db")
    [run] = client.search_runs([client.get_experiment_by_name("segue").experiment_id])
    assert run.info.status == "FINISHED"
    found = {file.path for file in client.list_artifacts(run.info.run_id)}
    for folder in found & {"plots", "checkpoints", "evaluated"}:
        found = found - {folder} | {file.path for file in client.list_artifacts(run.info.run_id, folder)}
    return found - DIRTY | ({"model"} if run.outputs and run.outputs.model_outputs else set())


def test_the_names_are_those_of_conf() -> None:
    assert set(LACKS) < set(NAMES)


@pytest.mark.parametrize("name", [*LACKS, "lineage", *QUIET])
def test_each_callback_can_be_left_out(ring_logs: Path, tmp_path: Path, name: str) -> None:
    is_tracked = name not in QUIET
    logger = ("logger=mlflow",) if is_tracked else ("logger=none", "callbacks.plots=null")
    done = quick(
        tmp_path,
        ring_logs,
        *(f"callbacks.{one}=null" for one in QUIET.get(name, [name])),
        "monitor=loss",
        f"refit={'none' if name == 'ranking' else 'auto'}",
        *logger,
        "trainer.max_epochs=2",
        "hydra.run.dir=run",
    )
    lacks = LACKS.get(name, set() if is_tracked else {f"plots/{name}" for name in PLOTS})
    assert left(tmp_path / "run") == ALL - lacks
    strays = {path.name for path in tmp_path.iterdir() if "mlflow" not in path.name} - {"run", "mlruns"}
    assert not strays
    assert not done.stderr
    metrics = metrics_of(tmp_path / "run")
    assert metrics["epochs"] == 2
    assert {"val/loss", "test/loss", "alpha"} <= metrics.keys()
    assert ("test/mrr" in metrics) == ("val/mrr" in metrics) == (name != "ranking")
    assert f"{metrics['test/mse']:.4g}" in done.stdout
    if is_tracked:
        model = set() if name == "export" else {"model"}
        assert tracked(tmp_path) == (
            {"metrics.json", "model_card.md"} if name == "lineage" else OF_MLFLOW - lacks | model
        )


def test_all_callbacks_can_be_left_out_together(ring_logs: Path, tmp_path: Path) -> None:
    without = [f"callbacks.{name}=null" for name in NAMES]
    done = quick(
        tmp_path, ring_logs, *without, "monitor=loss", "trainer.max_epochs=2", "logger=none", "hydra.run.dir=run"
    )
    assert left(tmp_path / "run") == {"config.yaml", "run.json", "metrics.json", "model_card.md"}
    assert metrics_of(tmp_path / "run")["epoch"] == metrics_of(tmp_path / "run")["epochs"] - 1
    assert metrics_of(tmp_path / "run")["mlflow_run_id"] is None
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert "test" in done.stdout


def test_without_a_checkpoint_the_last_epoch_is_tested_and_with_one_the_best(ring_logs: Path, tmp_path: Path) -> None:
    worse = "optimizer.lr=30", "trainer.max_epochs=4", "monitor=loss", "logger=none", "callbacks.plots=null"
    quick(tmp_path, ring_logs, *worse, "hydra.run.dir=best")
    quick(tmp_path, ring_logs, *worse, "callbacks.checkpoint=null", "hydra.run.dir=last")
    best, last = metrics_of(tmp_path / "best"), metrics_of(tmp_path / "last")
    assert best["epoch"] < last["epoch"] == 3
    assert best["val/loss"] < last["val/loss"]
    assert best["test/loss"] != last["test/loss"]
