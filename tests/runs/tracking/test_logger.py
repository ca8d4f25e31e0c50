"""The logger against a store that goes away and comes back, and against a real one; what it has before a training."""

from pathlib import Path
from typing import Any

import mlflow
import pytest

from segue.reports.console import console
from segue.runs.tracking.logger import RunLogger


@pytest.fixture
def logger(uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> RunLogger:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("segue.runs.tracking.logger._PAUSE_S", 0.0)
    made = RunLogger(experiment_name="segue", run_name="convex", tracking_uri=uri, patience_s=0.0)
    made.start()
    return made


class Away:
    """Makes a client's store refuse everything, as one that cannot be reached does."""

    def __init__(self, logger: RunLogger, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_away = False
        for name in ("log_batch", "log_artifact", "set_terminated", "get_run"):
            monkeypatch.setattr(logger.experiment, name, self._perhaps(getattr(logger.experiment, name)))

    def _perhaps(self, call: Any) -> Any:
        def guarded(*args: Any, **kwargs: Any) -> Any:
            if self.is_away:
                raise ConnectionError("connection refused")
            return call(*args, **kwargs)

        return guarded


@pytest.fixture
def away(logger: RunLogger, monkeypatch: pytest.MonkeyPatch) -> Away:
    return Away(logger, monkeypatch)


def run_of(logger: RunLogger) -> Any:

    return mlflow.MlflowClient(logger.tracking_uri).get_run(logger.run_id)


def test_what_a_store_missed_is_told_in_order_when_it_is_back(logger: RunLogger, away: Away, tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("x")
    logger.log_metrics({"val/loss": 3.0, "epoch": 0}, step=17)
    away.is_away = True
    logger.log_metrics({"val/loss": 2.0, "epoch": 1}, step=34)
    logger.log_file(file)
    logger.log_metrics({"val/loss": 1.0, "epoch": 2}, step=51)
    assert run_of(logger).data.metrics == {"val/loss": 3.0}
    away.is_away = False
    assert logger.finish()
    history = logger.experiment.get_metric_history(logger.run_id, "val/loss")
    assert [(one.step, one.value) for one in history] == [(0, 3.0), (1, 2.0), (2, 1.0)]
    assert [one.path for one in logger.experiment.list_artifacts(logger.run_id)] == ["notes.txt"]
    assert run_of(logger).info.status == "FINISHED"


def test_what_a_store_was_never_told_is_said(logger: RunLogger, away: Away, tmp_path: Path) -> None:
    away.is_away = True
    logger.log_metrics({"val/loss": 2.0, "epoch": 1})
    logger.log_file(tmp_path / "recommendations.jsonl")
    with console.capture() as said:
        assert not logger.finish()
    words = " ".join(said.get().split())
    assert "MLflow did not get: metrics of epoch 1, recommendations.jsonl, that the run is FINISHED" in words
    assert "the run folder has it all" in words


def test_what_a_store_refuses_is_said_and_does_not_hold_up_the_rest(logger: RunLogger) -> None:
    def refused() -> None:
        from mlflow.exceptions import MlflowException
        from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

        raise MlflowException("no such thing", error_code=INVALID_PARAMETER_VALUE)

    logger.send("a riddle", refused)
    logger.log_metrics({"val/loss": 2.0, "epoch": 1})
    with console.capture() as said:
        assert not logger.finish()
    assert "MLflow did not get: a riddle (no such thing)" in " ".join(said.get().split())
    assert run_of(logger).data.metrics == {"val/loss": 2.0}


def test_a_run_that_goes_on_keeps_its_params_and_is_running_again(logger: RunLogger, uri: str) -> None:
    logger.log_hyperparams({"seed": 1, "long": "x" * 7000})
    logger.log_tags({"interrupted": "true"})
    logger.finish()
    again = RunLogger(
        experiment_name="segue", run_name="convex", tracking_uri=uri, patience_s=0.0, run_id=logger.run_id
    )
    again.start()
    again.log_hyperparams({"seed": 2, "new": 3})
    run = run_of(again)
    assert run.info.status == "RUNNING"
    assert "interrupted" not in run.data.tags
    assert run.data.params == {"seed": "1", "long": "x" * 6000, "new": "3"}


def test_a_failure_ends_a_run_and_success_waits_for_the_end(logger: RunLogger) -> None:
    logger.finalize("success")
    assert run_of(logger).info.status == "RUNNING"
    logger.finalize("failed")
    logger.finalize("failed")
    assert run_of(logger).info.status == "FAILED"
