"""What a person reads last of a training."""

import io
from typing import Any

import pytest
from omegaconf import OmegaConf
from rich.console import Console

from segue.reports.result_table import Table
from segue.verbs.training.next_steps import BetterModel, FinishedRun, next_steps, training_report

ID = "3fa2c1d0" + "0" * 24
PAGE = "#/experiments/1/runs?viewStateShareKey=segue"
EXAMPLES = Table(columns=["after"], rows=[["Two by Bob"]], align="l")


def finished(**changes: Any) -> FinishedRun:
    config = {
        "run_dir": "runs/1",
        "run_name": "convex seed=1",
        "logger": {"tracking_uri": changes.pop("store", "sqlite:///mlflow.db")},
        "datamodule": {"path": "data"},
    }
    usual: dict[str, Any] = {
        "config": OmegaConf.create(config),
        "choices": {"datamodule": "simulated", "world": "small", "recipe": "shares"},
        "run_id": ID,
        "runs_page": PAGE,
        "metrics": {"epochs": 1},
        "examples": EXAMPLES,
        "seconds": {"training": 1.0},
        "is_job": False,
        "learned": "the oldest 80 % of the sessions",
        "refit": None,
    }
    return FinishedRun(**{**usual, **changes})


def test_it_says_what_the_run_is_called_where_it_is_and_what_to_type_next() -> None:
    better = BetterModel(words="model=rules context=session", ndcg=0.2, own=0.1)
    assert next_steps(finished(better=better)) == {
        "tested": "trained on the oldest 80 % of the sessions",
        "exported": "the tested model; with refit=all it is trained again on all sessions",
        "better": "model=rules context=session: its ndcg@10 on validation is 0.2000, this model has 0.1000",
        "run": f"run:3fa2c1d0, in full {ID}",
        "run folder": "runs/1",
        "MLflow UI": f"mlflow ui --backend-store-uri sqlite:///mlflow.db\n{'':13}http://127.0.0.1:5000/{PAGE}",
        "next": "python serve.py recommendations=runs/1",
    }


def test_it_says_which_model_was_tested_and_which_is_exported() -> None:
    refit = {"epochs": 5, "sessions": 12_345, "pairs": 1, "until": "2026-11-20 00:00:00"}
    lines = next_steps(finished(refit=refit, metrics={"epoch": 4, "epochs": 10}))
    assert lines["tested"] == "epoch 5 of 10, trained on the oldest 80 % of the sessions"
    assert lines["exported"] == "refitted on all 12,345 sessions until 2026-11-20 00:00:00"
    assert next_steps(finished(refit={**refit, "until": None}))["exported"] == "refitted on all 12,345 sessions"
    mixture = {"datamodule": "table", "world": "small", "recipe": "mixture"}
    assert next_steps(finished(choices=mixture))["exported"] == "the tested model"


def test_what_there_is_not_has_no_line() -> None:
    assert {"exported", "next"}.isdisjoint(next_steps(finished(examples=None)))
    assert {"run", "MLflow UI"}.isdisjoint(next_steps(finished(run_id=None, runs_page=None)))
    assert list(next_steps(finished(is_job=True))) == ["run", "run folder", "MLflow UI"]
    assert next_steps(finished(store="http://host:5000"))["MLflow UI"] == f"http://host:5000/{PAGE}"


@pytest.mark.parametrize("is_job", [False, True])
def test_tracks_and_times_are_shown_of_a_single_run_and_not_of_a_job(is_job: bool) -> None:
    console = Console(file=io.StringIO(), width=80)
    with console.capture() as printed:
        console.print(*training_report(finished(is_job=is_job, metrics={"test/mrr": 0.5, "epochs": 1})))
    assert "mrr" in printed.get()
    assert ("Two by Bob" in printed.get()) == (not is_job)
    assert printed.get().count("Where the time went") == (not is_job)
