from pathlib import Path

import pytest

from segue.errors import InputError
from segue.runs.tracking.store import open_store, runs_page
from tests.conftest import new_store


def test_an_experiment_is_one_of_model_training_unless_somebody_chose_another_kind(tmp_path: Path) -> None:
    import mlflow

    uri = new_store(tmp_path)
    experiment_id = open_store(uri, "segue")
    client = mlflow.MlflowClient(uri)
    assert client.get_experiment(experiment_id).tags["mlflow.experimentKind"] == "custom_model_development"
    assert runs_page(experiment_id).startswith(f"#/experiments/{experiment_id}/runs?")
    client.set_experiment_tag(experiment_id, "mlflow.experimentKind", "classification")
    open_store(uri, "segue")
    assert client.get_experiment(experiment_id).tags["mlflow.experimentKind"] == "classification"


def test_a_store_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no database")
    with pytest.raises(InputError, match=r"cannot use the MLflow store sqlite:.*mlflow.db: .*set logger.tracking_uri"):
        open_store(f"sqlite:///{tmp_path}/mlflow.db", "segue")
