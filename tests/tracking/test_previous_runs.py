"""Which runs of MLflow a run may resume."""

import json
from pathlib import Path
from typing import Any

import mlflow
import pytest
from omegaconf import DictConfig, OmegaConf

from segue.errors import InputError
from segue.runs.folder import RunRecord, digest
from segue.runs.resume import config_digest
from segue.tracking.named_runs import folder_of, join_sweep, same_runs
from segue.tracking.store import client_of, open_store
from tests.conftest import new_store


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return new_store(tmp_path_factory.mktemp("store"))


def config_of(uri: str, experiment: str) -> DictConfig:
    return OmegaConf.create(
        {
            "logger": {"tracking_uri": uri, "experiment_name": experiment},
            "monitor": {"metric": "val/loss"},
            "parent_run_id": "p7",
            "run_dir": "here",
            "run_name": "convex",
            "seed": 1,
        }
    )


def track(config: DictConfig, folder: Path, *, status: str, layout: bool = True, **tags: str) -> str:
    client = mlflow.MlflowClient(config.logger.tracking_uri)
    experiment = open_store(config.logger.tracking_uri, config.logger.experiment_name)
    named = {"config_digest": config_digest(config), "data_digest": "d0", "run_dir": str(folder), **tags}
    run_id = str(client.create_run(experiment, tags=named).info.run_id)
    client.log_metric(run_id, "val/loss", 0.25)
    client.set_terminated(run_id, status)
    folder.mkdir()
    record = RunRecord(overrides=[], mlflow_run_id=run_id, data_digest="d0", began_in="/", run_dir=str(folder))
    record.write(folder)
    if not layout:
        plain: dict[str, Any] = json.loads((folder / "run.json").read_text())
        del plain["layout"]
        (folder / "run.json").write_text(json.dumps(plain))
    return run_id


def test_runs_of_the_same_config_and_data_are_found_newest_first(uri: str, tmp_path: Path) -> None:
    config = config_of(uri, "same")
    finished = track(config, tmp_path / "finished", status="FINISHED")
    stopped = track(config, tmp_path / "stopped", status="FINISHED", interrupted="true")
    killed = track(config, tmp_path / "killed", status="RUNNING")
    track(config, tmp_path / "other", status="FINISHED", data_digest="d1")
    found = same_runs(config, "d0")
    assert [(run.run_id, run.value) for run in found] == [(killed, None), (stopped, None), (finished, 0.25)]
    assert folder_of(killed, uri) == tmp_path / "killed"


def test_a_run_from_before_settings_were_renamed_is_not_the_same(uri: str, tmp_path: Path) -> None:
    config = config_of(uri, "old")
    plain = {"logger": {}, "monitor": {"metric": "val/loss"}, "seed": 1}
    track(config, tmp_path / "finished", status="FINISHED", layout=False, config_digest=digest(plain))
    track(config, tmp_path / "killed", status="RUNNING", layout=False)  # even if its digest were the same
    assert same_runs(config, "d0") == []


def test_a_folder_that_is_not_here_is_refused(uri: str, tmp_path: Path) -> None:
    run_id = track(config_of(uri, "away"), tmp_path / "run", status="RUNNING")
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=f"resume=run:{run_id}: its run folder .*/run is not on this machine"):
        folder_of(f"run:{run_id}", uri)
    with pytest.raises(InputError, match=r"resume=nowhere: MLflow .* has no run whose id begins with nowhere"):
        folder_of("nowhere", uri)


def test_a_run_without_a_folder_is_refused_without_naming_one(uri: str) -> None:
    with client_of(uri) as client:
        run_id = client.create_run(client.create_experiment("another program")).info.run_id
    with pytest.raises(InputError, match=f"resume=run:{run_id}: MLflow does not know its run folder; give the path"):
        folder_of(f"run:{run_id}", uri)


def test_a_run_that_is_done_counts_among_those_of_the_sweep(uri: str, tmp_path: Path) -> None:
    config = config_of(uri, "sweep")
    run_id = track(config, tmp_path / "run", status="FINISHED")
    join_sweep(config, same_runs(config, "d0")[0])
    assert mlflow.MlflowClient(uri).get_run(run_id).data.tags["sweep.p7"] == "true"
