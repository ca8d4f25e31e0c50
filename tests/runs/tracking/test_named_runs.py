"""Every way to name a run gives the same run, and which runs a run may resume."""

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import mlflow
import pytest
from omegaconf import DictConfig, OmegaConf

from segue.errors import InputError
from segue.runs.folder import RunRecord
from segue.runs.resume import config_digest
from segue.runs.tracking.named_runs import NamedRun, find_run, folder_of, join_sweep, same_runs
from segue.runs.tracking.store import open_store
from tests.conftest import new_store

IDS = ("3fa2c1d0" + "0" * 24, "3fb7" + "0" * 28, "ab12" + "0" * 28)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store that has runs of these ids in two experiments."""
    folder = tmp_path_factory.mktemp("store")
    uri = new_store(folder)
    client = mlflow.MlflowClient(uri)
    experiments = [open_store(uri, name) for name in ("segue", "other")]
    for number, run_id in enumerate(IDS):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("mlflow.store.tracking.sqlalchemy_store.uuid.uuid4", lambda run_id=run_id: UUID(run_id))
            run = client.create_run(
                experiments[number % 2], run_name=f"run {number}", tags={"run_dir": str(folder / str(number))}
            )
        assert run.info.run_id == run_id
    return folder


def uri_of(folder: Path) -> str:
    return f"sqlite:///{folder}/mlflow.db"


@pytest.mark.parametrize("name", [f"run:{IDS[0]}", "run:3fa2c1d0", "run:3fa", IDS[0], "3fa2"])
def test_a_run_is_named_by_its_id_or_the_first_characters_of_it(folder: Path, name: str) -> None:
    assert find_run(name, uri_of(folder)) == NamedRun(run_id=IDS[0], folder=folder / "0")


@pytest.mark.parametrize(
    ("file", "record"), [("run.json", {"mlflow_run_id": "abc", "layout": 2}), ("sweep.json", {"mlflow_run_id": "abc"})]
)
def test_a_run_is_named_by_its_folder_or_a_file_in_it(tmp_path: Path, file: str, record: dict[str, Any]) -> None:
    (tmp_path / file).write_text(json.dumps(record))
    (tmp_path / "recommendations.jsonl").touch()
    for name in (tmp_path, tmp_path / "recommendations.jsonl"):
        assert find_run(str(name), "sqlite:///nowhere.db") == NamedRun(run_id="abc", folder=tmp_path)


def test_a_run_without_mlflow_has_a_folder_alone(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"mlflow_run_id": None}))
    assert find_run(str(tmp_path)) == NamedRun(run_id=None, folder=tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("run:3f", r"several runs begin with 3f: run:3fb70000 \(run 1\), run:3fa2c1d0 \(run 0\); give more of the id"),
        ("run:9", "has no run whose id begins with 9"),
        ("run:", "'' cannot be the id of a run"),
        ("run:_' OR", "cannot be the id of a run"),
        ("run:" + "9" * 32, "has no run whose id begins with 9"),
        ("outputs/train/gone", "there is no folder outputs/train/gone; .* MLflow still has the run: run:<id>"),
    ],
)
def test_a_name_of_no_run_or_of_several_is_refused(folder: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_run(name, uri_of(folder))


def test_a_store_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no MLflow store sqlite:///.*/mlflow.db here"):
        find_run("run:3fa2", uri_of(tmp_path))


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


def track(config: DictConfig, folder: Path, *, status: str, **tags: str) -> str:
    client = mlflow.MlflowClient(config.logger.tracking_uri)
    experiment = open_store(config.logger.tracking_uri, config.logger.experiment_name)
    named = {"config_digest": config_digest(config), "data_digest": "d0", "run_dir": str(folder), **tags}
    run_id = str(client.create_run(experiment, tags=named).info.run_id)
    client.log_metric(run_id, "val/loss", 0.25)
    client.set_terminated(run_id, status)
    folder.mkdir()
    RunRecord(overrides=[], mlflow_run_id=run_id, data_digest="d0").write(folder)
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


def test_a_folder_that_is_not_here_is_refused(uri: str, tmp_path: Path) -> None:
    run_id = track(config_of(uri, "away"), tmp_path / "run", status="RUNNING")
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=f"resume=run:{run_id}: its run folder .*/run is not on this machine"):
        folder_of(f"run:{run_id}", uri)
    with pytest.raises(InputError, match=r"resume=nowhere: MLflow .* has no run whose id begins with nowhere"):
        folder_of("nowhere", uri)


def test_a_run_that_is_done_counts_among_those_of_the_sweep(uri: str, tmp_path: Path) -> None:
    config = config_of(uri, "sweep")
    run_id = track(config, tmp_path / "run", status="FINISHED")
    join_sweep(config, same_runs(config, "d0")[0])
    assert mlflow.MlflowClient(uri).get_run(run_id).data.tags["sweep.p7"] == "true"
