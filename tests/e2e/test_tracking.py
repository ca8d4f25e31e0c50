"""One store, many processes; and a store on another machine, which may go away."""

import json
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.e2e.test_train import metrics_of, quick


@pytest.fixture(scope="module")
def tracked(ring_logs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder with a run in it, and the run as MLflow has it."""
    import mlflow

    cwd = tmp_path_factory.mktemp("tracked")
    words = "hydra.run.dir=run", "trainer.max_epochs=3", "callbacks.lineage.system_metrics_s=0.1", "refit=none"
    quick(cwd, ring_logs, *words)
    client = mlflow.MlflowClient(f"sqlite:///{cwd}/mlflow.db")
    return cwd, client.get_run(metrics_of(cwd / "run")["mlflow_run_id"])


def lists_of(run: Path) -> dict[int, list[int]]:
    lines = map(json.loads, (run / "recommendations.jsonl").read_text().splitlines())
    return {line["track"]: line["recommendations"] for line in lines}


def test_the_model_of_a_run_recommends(tracked: tuple[Path, Any]) -> None:
    import mlflow

    cwd, run = tracked
    mlflow.set_tracking_uri(f"sqlite:///{cwd}/mlflow.db")
    [logged] = run.outputs.model_outputs
    model = mlflow.pyfunc.load_model(f"models:/{logged.model_id}")
    wanted = lists_of(cwd / "run")
    given = model.predict(pd.DataFrame({"track": [103, 100, -7]}))
    assert given["track"].tolist() == [103, 100, -7]
    assert [list(found) for found in given["recommendations"]] == [wanted[103][:10], wanted[100][:10], []]
    three = model.predict(pd.DataFrame({"track": [103]}), params={"k": 3})
    assert list(three["recommendations"][0]) == wanted[103][:3]
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{logged.model_id}"))
    assert not [file.name for file in folder.rglob("*") if file.suffix in (".pkl", ".pickle", ".cloudpickle")]
    assert {"input_example.json", "MLmodel"} <= {file.name for file in folder.iterdir()}


def test_a_run_names_its_data_and_watches_the_machine(tracked: tuple[Path, Any]) -> None:
    _, run = tracked
    [given] = run.inputs.dataset_inputs
    assert given.dataset.digest == run.data.tags["data_digest"]
    profile = json.loads(given.dataset.profile)
    assert profile["train"]["pairs"] == 2240
    assert profile["description"]["num_users"] == 50
    assert "first_sessions" not in profile["description"]  # plays of users stay in the run folder
    assert [column["name"] for column in json.loads(given.dataset.schema)["mlflow_colspec"]] == [
        *("previous", "following", "played_ratio")
    ]
    assert "system/cpu_utilization_percentage" in run.data.metrics
    assert time.time() * 1000 > run.info.end_time >= run.info.start_time
