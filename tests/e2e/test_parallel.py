"""`trainer=ddp`: two processes, by gloo, train the run of one."""

import json
from pathlib import Path

import pytest

from tests.conftest import new_store
from tests.e2e.test_resume import words
from tests.e2e.test_train import FILES, metrics_of, train

pytestmark = pytest.mark.timing

RUN = (
    *("optimizer=adam", "trainer.max_epochs=2", "callbacks.early_stopping=null"),
    *("callbacks.plots=null", "context=gru4rec", "logger=mlflow", "loss=softmax"),
)


def test_two_processes_train_the_run_of_one_and_are_resumed(ring_logs: Path, tmp_path: Path) -> None:
    import mlflow

    new_store(tmp_path)
    train(tmp_path, *words(ring_logs, *RUN, "hydra.run.dir=one"))
    two = words(ring_logs, *RUN, "trainer=ddp", "hydra.run.dir=two", "trainer.max_epochs=1")
    done = train(tmp_path, *two, FORKS_FORK_CHILDREN="1")
    assert done.stdout.count("epoch 1/1") == 1
    done = train(tmp_path, "resume=two", "trainer.max_epochs=2", FORKS_FORK_CHILDREN="1")
    assert "epoch 1/" not in done.stdout
    one, other = metrics_of(tmp_path / "one"), metrics_of(tmp_path / "two")
    assert one.keys() == other.keys()
    assert other["epochs"] == 2
    for name in ("recall_at_10", "ndcg_at_10"):
        assert other[f"test/{name}"] == pytest.approx(one[f"test/{name}"], abs=one[f"test/{name}_half_width"])
    assert {path.name for path in (tmp_path / "two").iterdir() if path.is_file()} >= {*FILES, "refit.json"}
    sizes = [json.loads((tmp_path / name / "refit.json").read_text())["sessions"] for name in ("one", "two")]
    assert sizes[0] == sizes[1]
    runs = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").search_runs(["1"])
    assert [run.info.status for run in runs] == ["FINISHED"] * 2
    assert not (tmp_path / "outputs").exists()
