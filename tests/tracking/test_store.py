import json
from pathlib import Path

import pytest

from segue.errors import InputError
from segue.tracking.store import open_store, runs_page


def test_a_store_can_be_opened_again_and_again(tmp_path: Path) -> None:
    import mlflow

    uri = f"sqlite:///{tmp_path}/deep/mlflow.db"
    for _ in range(2):
        open_store(uri, "segue")
    assert mlflow.MlflowClient(uri).get_experiment_by_name("segue") is not None


def test_an_experiment_is_one_of_model_training_with_our_view_unless_somebody_chose_another_kind(
    tmp_path: Path,
) -> None:
    import mlflow

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    experiment_id = open_store(uri, "segue")
    client = mlflow.MlflowClient(uri)
    tags = client.get_experiment(experiment_id).tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    view = json.loads(tags["mlflow.sharedViewState.segue"])
    assert "metrics.`test/recall_at_10`" in view["selectedColumns"]
    page = runs_page(experiment_id)
    assert page.startswith(f"#/experiments/{experiment_id}/runs?")
    assert page.endswith("viewStateShareKey=segue")
    client.set_experiment_tag(experiment_id, "mlflow.experimentKind", "classification")
    client.set_experiment_tag(experiment_id, "mlflow.sharedViewState.segue", "{}")
    open_store(uri, "segue")
    tags = client.get_experiment(experiment_id).tags
    assert tags["mlflow.experimentKind"] == "classification"
    assert json.loads(tags["mlflow.sharedViewState.segue"]) == view


def test_a_store_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no database")
    with pytest.raises(
        InputError, match=r"cannot use the MLflow store sqlite:///.*mlflow.db: .*set logger.tracking_uri"
    ):
        open_store(f"sqlite:///{tmp_path}/mlflow.db", "segue")
