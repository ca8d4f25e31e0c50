"""What MLflow does not promise, against a store of its own."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from segue.runs.recommendations import FORMATS, Recommendations, key_of_lines
from segue.runs.tracking.logger import RunLogger
from segue.runs.tracking.store import open_store
from tests.conftest import make_catalog, new_store


def test_the_model_of_every_format_of_lists_predicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    uri = new_store(tmp_path)
    monkeypatch.chdir(tmp_path)
    open_store(uri, "segue")
    mlflow.set_tracking_uri(uri)
    numbers = make_catalog([0, 0, 1])
    texts = replace(numbers, track_ids=np.array(["track:ü", "=1", "7/8"], object))
    lists = Recommendations(rows=np.array([[1, 2], [2, 0], [0, 1]]), scores=np.zeros((3, 2), np.float32))
    for format, catalog in product(FORMATS, (numbers, texts)):
        first, *others = catalog.track_ids.tolist()
        unknown = "-7" if catalog.has_texts else -7
        logger = RunLogger(experiment_name="segue", run_name=format, tracking_uri=uri, patience_s=0.0)
        logger.start()
        lists.write(tmp_path / "r.jsonl", catalog, format=format)
        logger.log_model(tmp_path / "r.jsonl", [first], key=key_of_lines(tmp_path / "r.jsonl"), which="evaluated")
        assert logger.finish()
        [model] = mlflow.MlflowClient(uri).get_run(logger.run_id).outputs.model_outputs
        given = mlflow.pyfunc.load_model(f"models:/{model.model_id}").predict(pd.DataFrame({"track": [first, unknown]}))
        assert [list(found) for found in given["recommendations"]] == [others, []], format


def test_a_model_is_logged_without_looking_through_all_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow
    from mlflow.utils import requirements_utils

    scans: list[str] = []
    monkeypatch.setattr(requirements_utils, "_init_packages_to_modules_map", lambda: scans.append("scanned"))
    check = requirements_utils._check_requirement_satisfied
    uri = new_store(tmp_path)
    monkeypatch.chdir(tmp_path)
    open_store(uri, "segue")
    logger = RunLogger(experiment_name="segue", run_name="one", tracking_uri=uri, patience_s=0.0)
    logger.start()
    (tmp_path / "r.jsonl").write_text('{"track": 1, "recommendations": [2]}\n')
    logger.log_model(tmp_path / "r.jsonl", [1], key="track", which="evaluated")
    assert logger.finish()
    [model] = mlflow.MlflowClient(uri).get_run(logger.run_id).outputs.model_outputs
    mlflow.set_tracking_uri(uri)
    needed = Path(mlflow.pyfunc.get_model_dependencies(f"models:/{model.model_id}")).read_text().split()
    assert [name.partition("==")[0] for name in needed] == ["mlflow", "pandas"]
    assert scans == [], f"MLflow {mlflow.__version__} looks through all packages; see src/runs/tracking/mlflow_parts.py"
    assert requirements_utils._check_requirement_satisfied is check
