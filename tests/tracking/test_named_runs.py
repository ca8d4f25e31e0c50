"""Every way to name a run gives the same run."""

import json
from pathlib import Path
from typing import Any

import mlflow
import pytest

from segue.errors import InputError
from segue.tracking.named_runs import NamedRun, find_run
from segue.tracking.store import open_store

IDS = ("3fa2c1d0" + "0" * 24, "3fb7" + "0" * 28, "ab12" + "0" * 28)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store that has runs of these ids in two experiments."""
    folder = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{folder}/mlflow.db"
    client = mlflow.MlflowClient(uri)
    experiments = [open_store(uri, name) for name in ("segue", "other")]
    for number, run_id in enumerate(IDS):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("mlflow.store.tracking.sqlalchemy_store.uuid.uuid4", lambda run_id=run_id: _Id(run_id))
            run = client.create_run(
                experiments[number % 2], run_name=f"run {number}", tags={"run_dir": str(folder / str(number))}
            )
        assert run.info.run_id == run_id
    return folder


class _Id:
    def __init__(self, text: str) -> None:
        self.hex = text

    def __str__(self) -> str:
        return self.hex


def uri_of(folder: Path) -> str:
    return f"sqlite:///{folder}/mlflow.db"


@pytest.mark.parametrize("name", [f"run:{IDS[0]}", "run:3fa2c1d0", "run:3fa", IDS[0], "3fa2"])
def test_a_run_is_named_by_its_id_or_the_first_characters_of_it(folder: Path, name: str) -> None:
    assert find_run(name, uri_of(folder)) == NamedRun(run_id=IDS[0], folder=folder / "0")


@pytest.mark.parametrize(
    ("file", "record"),
    [
        ("run.json", {"mlflow_run_id": "abc", "layout": 2}),
        ("sweep.json", {"mlflow_run_id": "abc"}),
        ("metrics.json", {"mlflow_run_id": "abc"}),
    ],
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
        ("run:9", "has no run whose id begins with 9; give run:<id>, or the path of a run folder"),
        ("run:", "'' cannot be the id of a run"),
        ("run:_' OR", "cannot be the id of a run"),
        ("run:" + "9" * 32, "refuses: Run with id=9+ not found"),
        ("outputs/train/gone", "there is no folder outputs/train/gone; .* MLflow still has the run: run:<id>"),
    ],
)
def test_a_name_of_no_run_or_of_several_is_refused(folder: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_run(name, uri_of(folder))


def test_a_store_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no MLflow store sqlite:///.*/mlflow.db here"):
        find_run("run:3fa2", uri_of(tmp_path))
