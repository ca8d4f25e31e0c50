import subprocess
from pathlib import Path

import pytest
import yaml

from src.errors import InputError
from src.runs.folder import flatten, write_config
from src.runs.provenance import git_state, provenance
from src.tracking.store import open_store


def test_nested_names_are_joined_by_dots() -> None:
    config = {"model": {"alpha": 0.9, "sub": {"x": 1}}, "seed": 1, "none": None}
    assert flatten(config) == {"model.alpha": 0.9, "model.sub.x": 1, "seed": 1, "none": None}


def test_a_checkout_says_its_commit_and_whether_it_was_changed(tmp_path: Path) -> None:
    assert git_state(tmp_path) == {"git_commit": "unknown", "git_dirty": "unknown"}
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    (tmp_path / "file").write_text("a")
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "one"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    state = git_state(tmp_path)
    assert len(state["git_commit"]) == 40
    assert state["git_dirty"] == "false"
    (tmp_path / "file").write_text("b")
    assert git_state(tmp_path) == {**state, "git_dirty": "true"}


def test_a_config_carries_where_it_came_from_and_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "run" / "config.yaml"
    config = {"seed": 3, "name": "α"}
    write_config(config, path, root=tmp_path)
    text = path.read_text()
    assert yaml.safe_load(text) == config
    for name in provenance(tmp_path):
        assert f"# {name}: " in text
    with pytest.raises(InputError, match=r"holds a run already; choose another folder with hydra.run.dir"):
        write_config({"seed": 4}, path, root=tmp_path)
    assert path.read_text() == text


def test_a_store_can_be_opened_again_and_again(tmp_path: Path) -> None:
    import mlflow

    uri = f"sqlite:///{tmp_path}/deep/mlflow.db"
    for _ in range(2):
        open_store(uri, "segue")
    assert mlflow.MlflowClient(uri).get_experiment_by_name("segue") is not None


def test_a_store_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no database")
    with pytest.raises(
        InputError, match=r"cannot use the MLflow store sqlite:///.*mlflow.db: .*set logger.tracking_uri"
    ):
        open_store(f"sqlite:///{tmp_path}/mlflow.db", "segue")
