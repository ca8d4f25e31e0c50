"""What was measured in a run, and which epoch its metrics are of."""

import json
import math
from pathlib import Path

from segue.runs.history import RunHistory


def history_of(*losses: float) -> RunHistory:
    history = RunHistory()
    for number, loss in enumerate(losses):
        history.add_epoch(number, {"val/loss": loss})
    return history


def test_metrics_are_of_the_epoch_whose_weights_were_tested() -> None:
    history = history_of(0.3, 0.2, 0.2, 0.4)
    history.fit_seconds = 1.23456
    history.add_test({"test/loss": 0.25}, chosen_by=("val/loss", 0.2))
    assert history.metrics() == {"epoch": 1, "epochs": 4, "fit_seconds": 1.235, "test/loss": 0.25, "val/loss": 0.2}
    assert list(history.metrics()) == sorted(history.metrics())


def test_where_nothing_chose_the_weights_are_of_the_last_epoch() -> None:
    history = history_of(0.3, 0.2, 0.4)
    history.add_test({}, chosen_by=None)
    assert history.metrics()["val/loss"] == 0.4
    untrained = RunHistory()
    untrained.add_test({"test/loss": 0.5}, chosen_by=None)
    assert untrained.metrics() == {"epochs": 0, "fit_seconds": 0.0, "test/loss": 0.5}


def test_a_checkpoint_that_knows_of_fewer_epochs_changes_nothing() -> None:
    history = history_of(0.3, 0.2, 0.4)
    history.fit_seconds = 9.0
    history.restore([{"epoch": 0.0, "val/loss": 0.3}], 3.0)
    assert (len(history.epochs), history.fit_seconds) == (3, 9.0)
    history.restore([*history.epochs, {"epoch": 3.0, "val/loss": 0.1}], 12.0)
    assert history.values("val/loss") == [0.3, 0.2, 0.4, 0.1]
    assert history.fit_seconds == 12.0


def test_the_file_has_the_metrics_and_the_run(tmp_path: Path) -> None:
    history = history_of(0.3)
    history.add_test({"test/mrr": math.nan}, chosen_by=None)
    record = json.loads(history.write(tmp_path, mlflow_run_id="abc").read_text())
    assert record == {**history.metrics(), "test/mrr": None, "mlflow_run_id": "abc"}
    assert list(record) == sorted(record)
    assert '"epoch": 0,' in (tmp_path / "metrics.json").read_text()
