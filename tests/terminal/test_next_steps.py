"""What a person reads last of a training."""

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from src.terminal.next_steps import next_steps

CHOICES = {"datamodule": "simulated", "world": "small"}


def said(recommendations: Path | None = None, choices: dict[str, str] = CHOICES, **changes: Any) -> list[str]:
    config = {"run_dir": "runs/1", "logger": None, "parent_run_id": None, "datamodule": {"path": "data"}}
    return next_steps(OmegaConf.create({**config, **changes}), choices, recommendations).splitlines()


def test_a_run_of_simulated_logs_can_be_played_where_it_has_recommendations() -> None:
    sweep = "next         python train.py -m model=track,artist,mean,convex,contextual datamodule=simulated"
    play = "python simulate.py 'arms={C: popular, T1: runs/1/r.jsonl}' world=small"
    assert said(Path("runs/1/r.jsonl")) == ["run folder   runs/1", f"{sweep} datamodule.path=data", f"{'':13}{play}"]
    assert said() == said(Path("runs/1/r.jsonl"))[:2]
    assert len(said(Path("runs/1/r.jsonl"), choices={"datamodule": "botify"})) == 2


def test_a_job_of_a_sweep_names_no_next_command() -> None:
    assert said(parent_run_id="abc") == ["run folder   runs/1"]


@pytest.mark.parametrize(
    ("store", "line"),
    [("sqlite:///m.db", "mlflow ui --backend-store-uri sqlite:///m.db"), ("http://host:5000", "http://host:5000")],
)
def test_the_store_is_named_by_what_shows_it(store: str, line: str) -> None:
    assert f"MLflow UI    {line}" in said(logger={"tracking_uri": store})
