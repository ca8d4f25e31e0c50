"""Sweeps and searches as their user meets them, with each launcher."""

import csv
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import mlflow
import pytest

from tests.conftest import ROOT, new_store
from tests.e2e.forks import CHILDREN_TOO
from tests.e2e.test_train import command, interrupted

TINY = (
    *("trainer.accelerator=cpu", "trainer.max_epochs=2", "datamodule.batch_size=256", "callbacks.export.k=5"),
    *("~callbacks.plots", "callbacks.lineage.model=false", "callbacks.lineage.system_metrics_s=null"),
)
JOBLIB = "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"


def sweep(
    cwd: Path, logs: Path, *words: str, code: int = 0, more_env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    new_store(cwd)
    env = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        command("-m", "datamodule=botify", f"datamodule.path={logs}", "hydra.sweep.dir=sweep", *TINY, *words),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        env={**env, "PYTHONPATH": str(ROOT), **(more_env or {})},
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def runs(cwd: Path) -> tuple[Any, list[Any]]:
    """The parent in MLflow, and those below it."""
    client = mlflow.MlflowClient(f"sqlite:///{cwd}/mlflow.db")
    experiment = client.get_experiment_by_name("segue")
    found = client.search_runs([experiment.experiment_id])
    [parent] = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    below = [run for run in found if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(below) == len(found) - 1
    return parent, below


def test_jobs_side_by_side_share_the_cores_and_hang_below_one_parent_and_one_that_fails_is_listed(
    ring_logs: Path, tmp_path: Path
) -> None:
    spy = "+callbacks.threads={_target_: tests.e2e.spy.Threads, path: '${run_dir}/threads.json'}"
    done = sweep(tmp_path, ring_logs, "model.dim=8,0", *JOBLIB, spy, "trainer.max_epochs=1", code=2)
    summary = done.stderr.splitlines()[-2:]
    assert summary[0] == "error: 1 of 2 jobs failed:"
    assert summary[1].startswith("  1 model.dim=0: model.dim must be a whole number of at least 1, got 0")
    parent, below = runs(tmp_path)
    assert [run.info.status for run in below] == ["FINISHED"]
    assert parent.info.status == "FAILED"
    assert f"python compare.py parent=run:{parent.info.run_id[:8]}" in done.stdout
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    seen = json.loads((tmp_path / "sweep" / "0" / "threads.json").read_text())
    assert (seen["torch"], seen["duckdb"]) == (threads, threads)
    errors = [line for line in done.stderr.splitlines() if "dim must be" in line]
    assert errors[0].startswith("[1] error: model.dim must be")
    assert "[0] epoch 1/1" in done.stdout


def test_jobs_of_submitit_hang_below_one_parent_too(ring_logs: Path, tmp_path: Path) -> None:
    sweep(tmp_path, ring_logs, "model.dim=8", "hydra/launcher=submitit_local", "trainer.max_epochs=1")
    parent, below = runs(tmp_path)
    assert [run.info.status for run in (parent, *below)] == ["FINISHED"] * 2


@pytest.mark.timing
def test_a_job_that_is_killed_ends_the_sweep_in_one_line(ring_logs: Path, tmp_path: Path) -> None:
    spy = f"+callbacks.kill={{_target_: tests.e2e.spy.Kill, mark: {tmp_path}/killed, when: true}}"
    done = sweep(tmp_path, ring_logs, "model.dim=8,16", *JOBLIB, spy, code=2, more_env=CHILDREN_TOO)
    assert [line for line in done.stderr.splitlines() if "error" in line] == [
        "error: the process of a job died (SIGKILL), and the jobs beside it were stopped; a possible cause is too "
        "little memory; run fewer jobs at once, and add resume=true to run only the missing jobs"
    ]
    assert runs(tmp_path)[0].info.status == "FAILED"


def table(cwd: Path) -> list[dict[str, str]]:
    with (cwd / "sweep" / "search.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_search_that_is_killed_goes_on_with_the_trial_it_was_at(ring_logs: Path, tmp_path: Path) -> None:
    spy = f"+callbacks.kill={{_target_: tests.e2e.spy.Kill, mark: {tmp_path}/killed, when: true}}"
    words = "search=optuna", "search.num_trials=2", "search.random_trials=1", "model.dim=8,16", spy
    killed = sweep(tmp_path, ring_logs, *words, code=-signal.SIGKILL)
    assert "trial 0 (1/2)" not in killed.stdout
    done = sweep(tmp_path, ring_logs, *words, "resume=true")
    assert "trial 1 (1/2): val/loss" in done.stdout
    assert "trial 2 (2/2): val/loss" in done.stdout
    first, second = table(tmp_path)
    assert (first["state"], second["state"]) == ("complete", "complete")
    parent, below = runs(tmp_path)
    assert parent.info.status == "FINISHED"
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    assert {file.path for file in client.list_artifacts(parent.info.run_id)} >= {"search.csv", "search_history.png"}
    values = {run.data.params["optimizer.lr"]: run.data.metrics["val/loss"] for run in below}
    assert values[first["optimizer.lr"]] == pytest.approx(float(first["value"]), rel=1e-6)
    [following] = [line for line in done.stdout.splitlines() if line.startswith("next")]
    assert "python train.py datamodule=botify" in following
    best = min((first, second), key=lambda line: float(line["value"]))
    assert f"optimizer.lr={best['optimizer.lr']}" in following
    assert "trial=" not in following


@pytest.mark.timing
def test_ctrl_c_ends_a_sweep_and_its_parent(ring_logs: Path, tmp_path: Path) -> None:
    code, printed = interrupted(tmp_path, ring_logs, "-m", *TINY, "model.dim=8,16")
    assert code == 130, printed
    assert printed.splitlines()[-1] == "interrupted"
    parent, below = runs(tmp_path)
    assert parent.info.status != "FINISHED"
    assert len(below) == 1
