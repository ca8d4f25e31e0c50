"""`compare.py` as its user meets it: after a sweep."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from segue.runs.tracking.named_runs import locate_recommendations
from tests.e2e.running import run_verb
from tests.e2e.test_train import metrics_of, quick

METRICS = ("val/ndcg_at_10", "test/recall_at_10", "test/ndcg_at_10", "test/mse")


compare = partial(run_verb, "compare.py", env={"COLUMNS": "160"})


@pytest.fixture(scope="module")
def swept(ring_logs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sweep of two set-ups by two seeds."""
    cwd = tmp_path_factory.mktemp("swept")
    few = "trainer.max_epochs=2", "callbacks.plots=null", "refit=none"
    quick(cwd, ring_logs, "--multirun", "model=artist,convex", "seed=1,2", "hydra.sweep.dir=sweep", *few)
    return cwd


@pytest.fixture(scope="module")
def compared(swept: Path) -> tuple[Path, str]:
    return swept / "answer", compare(swept, "hydra.run.dir=answer").stdout


def runs_of(swept: Path) -> dict[str, list[Path]]:
    return {
        "artist α=0": [swept / "sweep" / "0", swept / "sweep" / "1"],
        "convex α=learned": [swept / "sweep" / "2", swept / "sweep" / "3"],
    }


def test_the_table_is_what_scipy_makes_of_the_run_folders(swept: Path, compared: tuple[Path, str]) -> None:
    record = json.loads((compared[0] / "comparison.json").read_text())
    tidy = {one["setup"]: one for one in record["setups"]}
    for setup, runs in runs_of(swept).items():
        assert len({metrics_of(run)["test/mse"] for run in runs}) == len(runs), "another seed, other numbers"
        for metric in METRICS:
            values = [metrics_of(run)[metric] for run in runs]
            row = tidy[setup]["metrics"][metric]
            assert row["mean"] == pytest.approx(np.mean(values), rel=1e-6)
            reach = stats.sem(values) * stats.t.ppf(0.975, 1)
            assert row["upper"] - row["mean"] == pytest.approx(reach, rel=1e-4, abs=1e-9)
    queries = {
        setup: np.mean([pd.read_parquet(run / "test_queries.parquet")["ndcg_at_10"] for run in runs], axis=0)
        for setup, runs in runs_of(swept).items()
    }
    difference = tidy["artist α=0"]["differences"]["test/ndcg_at_10"]["difference"]
    assert difference == pytest.approx((queries["artist α=0"] - queries["convex α=learned"]).mean(), rel=1e-6)


def test_the_answer_names_the_best_and_what_comes_next(compared: tuple[Path, str]) -> None:
    folder, printed = compared
    assert "4 runs of model=artist,convex seed=1,2" in printed
    assert "convex α=learned is best by val/ndcg_at_10" in printed
    assert "python serve.py recommendations=run:" in printed
    assert {path.name for path in folder.iterdir()} == {f"comparison.{end}" for end in ("md", "png", "json")}
    assert "| convex α=learned" in (folder / "comparison.md").read_text()


def client_of(cwd: Path) -> Any:
    import mlflow

    return mlflow.MlflowClient(f"sqlite:///{cwd}/mlflow.db")


def test_the_sweep_carries_the_answer_in_mlflow(swept: Path, compared: tuple[Path, str]) -> None:
    client = client_of(swept)
    experiment = client.get_experiment_by_name("segue").experiment_id
    [parent] = client.search_runs([experiment], "tags.`segue.kind` = 'sweep'")
    files = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert {"comparison.png", "comparison.md", "comparison.json"} <= files
    text, shown = (compared[0] / "comparison.md").read_text(), parent.data.tags["mlflow.note.content"]
    assert len(text.split("\n\n")) == len(shown.split("\n\n")) + 1
    assert "comparison.png" in text
    assert "comparison.png" not in shown  # the description of a run cannot show it
    children = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    assert sorted(run.info.run_name for run in children) == [
        *("artist α=0 seed=1", "artist α=0 seed=2", "convex α=learned seed=1", "convex α=learned seed=2")
    ]


def test_the_winner_is_registered_and_found_by_its_alias(swept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = compare(swept, "register=best", f"parent={swept / 'sweep'}", "hydra.run.dir=registered")
    assert "registered   segue version 1, champion: run" in done.stdout
    assert "python serve.py recommendations=model:segue@champion" in done.stdout
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{swept}/mlflow.db")
    best = max(runs_of(swept)["convex α=learned"], key=lambda run: metrics_of(run)["val/ndcg_at_10"])
    assert locate_recommendations("model:segue@champion").read_bytes() == (best / "recommendations.jsonl").read_bytes()
    short = f"run:{metrics_of(best)['mlflow_run_id'][:8]}"
    again = compare(swept, f"register={short}", "hydra.run.dir=again")
    assert "registered   segue version 2, champion" in again.stdout


def test_bad_input_ends_in_one_line(swept: Path) -> None:
    [line] = compare(swept, "experiment=other", code=2).stderr.splitlines()
    assert line.startswith("error: ")
    assert "no finished runs in experiment 'other'" in line
