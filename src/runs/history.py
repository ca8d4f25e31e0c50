"""The measurements of a run: the metrics of each epoch, how long training took, and the test metrics."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from segue.runs.atomic import write_record

METRICS_FILE = "metrics.json"
"""Name of the file with the metrics of a run."""


class RunHistory:
    """Metrics of the epochs so far, and of the test once there was one.

    Attributes:
        epochs: for each epoch its number, from 0, under `epoch`, and its metrics by name.
        fit_seconds: how long training took.
        tested_epoch: the entry of `epochs` whose weights were tested; empty before the test.
        test: the test metrics by name.
    """

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []
        self.fit_seconds = 0.0
        self.tested_epoch: Mapping[str, float] = {}
        self.test: dict[str, float] = {}

    def add_epoch(self, number: int, metrics: Mapping[str, float]) -> None:
        """Keep the metrics of a finished epoch."""
        self.epochs.append({"epoch": float(number), **metrics})

    def restore(self, epochs: Sequence[Mapping[str, float]], fit_seconds: float) -> None:
        """Restore the epochs of a checkpoint, unless it has fewer than there were.

        The test loads the checkpoint of the best epoch, which has no later epochs.
        """
        if len(epochs) > len(self.epochs):
            self.epochs = [dict(epoch) for epoch in epochs]
            self.fit_seconds = fit_seconds

    def values(self, metric: str) -> list[float]:
        """The values of a metric, of those epochs that have it."""
        return [epoch[metric] for epoch in self.epochs if metric in epoch]

    def add_test(self, metrics: Mapping[str, float], chosen_by: tuple[str, float] | None) -> None:
        """Keep the test metrics.

        Args:
            metrics: by name.
            chosen_by: the metric that chose the weights under test and its value in their epoch; None where they are
                those of the last epoch.
        """
        self.test = dict(metrics)
        last = self.epochs[-1] if self.epochs else {}
        if chosen_by is None:
            self.tested_epoch = last
        else:
            metric, value = chosen_by
            self.tested_epoch = next((epoch for epoch in self.epochs if epoch.get(metric) == value), last)

    def metrics(self) -> dict[str, int | float]:
        """Validation metrics of the epoch whose weights were tested, test metrics, and how long training took."""
        tested = {name: int(value) if name == "epoch" else value for name, value in self.tested_epoch.items()}
        timing = {"epochs": len(self.epochs), "fit_seconds": round(self.fit_seconds, 3)}
        return dict(sorted({**tested, **self.test, **timing}.items()))

    def write(self, run_dir: Path, mlflow_run_id: str | None) -> Path:
        """Write `metrics.json`: flat, the metrics and the id of the MLflow run, null where there is none.

        Returns:
            Its path.
        """
        path = run_dir / METRICS_FILE
        write_record(dict(sorted({**self.metrics(), "mlflow_run_id": mlflow_run_id}.items())), path)
        return path
