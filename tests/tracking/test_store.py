from pathlib import Path

import pytest

from src.errors import InputError
from src.tracking.store import open_store


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
