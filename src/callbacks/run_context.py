"""What the callbacks of one run read: the data, and what was measured so far."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from segue.atomic import write_record
from segue.datamodules.pair_datamodule import PairDataModule
from segue.datamodules.pairs.split_pairs import SplitPairs
from segue.models.ranker import Ranker
from segue.runs.phases import PhaseClock


class RunHistory(Callback):
    """Metrics of the epochs so far, and of the test once there was one.

    It is the first callback, so that the others find the epoch or the test in it. The steps after the test add to it.

    Args:
        clock: of the run; training, validation and test are counted.

    Attributes:
        clock: the clock.
        epochs: for each epoch its number, from 0, under `epoch`, and its metrics by name.
        tested_epoch: the entry of `epochs` whose weights were tested; empty before the test.
        test: the test metrics by name.
    """

    def __init__(self, clock: PhaseClock | None = None) -> None:
        self.clock = clock or PhaseClock()
        self.epochs: list[dict[str, float]] = []
        self._seconds_before = 0.0
        self.tested_epoch: Mapping[str, float] = {}
        self.test: dict[str, float] = {}

    @property
    def fit_seconds(self) -> float:
        """How long training took, with what it had taken before it was resumed."""
        return self._seconds_before + sum(self.clock.seconds.get(phase, 0.0) for phase in ("training", "validation"))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Count what came before as training."""
        self.clock.end("training")

    on_fit_end = on_validation_start

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Count the validation."""
        self.clock.end("validation")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Keep the metrics of the epoch. The checkpoint is written later and has them."""
        self.epochs.append({"epoch": float(trainer.current_epoch), **_now(trainer)})

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Keep the test metrics, and which epoch they are of: the best one by the checkpoint, or the last one."""
        self.clock.end("test")
        self.test, best = _now(trainer), self.best_epoch(trainer)
        self.tested_epoch = self.epochs[best] if self.epochs else {}

    def best_epoch(self, trainer: Trainer) -> int:
        """Place in `epochs` of the epoch whose weights are tested: the best one by the checkpoint, or the last one."""
        kept, place = trainer.checkpoint_callback, len(self.epochs) - 1
        if isinstance(kept, ModelCheckpoint) and kept.best_model_score is not None:
            scores = [epoch.get(str(kept.monitor)) for epoch in self.epochs]
            best = float(kept.best_model_score)
            return scores.index(best) if best in scores else place
        return place

    def state_dict(self) -> dict[str, Any]:
        """The epochs so far, and how long they took."""
        return {"epochs": self.epochs, "fit_seconds": self.fit_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the epochs of a checkpoint, unless it has fewer than there were.

        The test loads the checkpoint of the best epoch, which has no later epochs.
        """
        if len(state_dict["epochs"]) > len(self.epochs):
            self.epochs = [dict(epoch) for epoch in state_dict["epochs"]]
            self._seconds_before = state_dict["fit_seconds"]

    def metrics(self) -> dict[str, int | float]:
        """Validation metrics of the epoch whose weights were tested, test metrics, and how long training took."""
        tested = {name: int(value) if name == "epoch" else value for name, value in self.tested_epoch.items()}
        timing = {"epochs": len(self.epochs), "fit_seconds": round(self.fit_seconds, 3)}
        return dict(sorted({**tested, **self.test, **timing}.items()))

    def write(self, run_dir: Path, mlflow_run_id: str | None) -> Path:
        """Write `metrics.json`: flat, the metrics and the id of the MLflow run, null where there is none."""
        path = run_dir / "metrics.json"
        write_record(dict(sorted({**self.metrics(), "mlflow_run_id": mlflow_run_id}.items())), path)
        return path


def _now(trainer: Trainer) -> dict[str, float]:
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


@dataclass(frozen=True, eq=False, kw_only=True)
class RunContext:
    """The data of a run and its measurements; callbacks only read them.

    Args:
        datamodule: the data, set up.
        describe: measures the data, for MLflow.
    """

    datamodule: PairDataModule
    history: RunHistory = field(default_factory=RunHistory)
    describe: Callable[[SplitPairs], Mapping[str, Any]] = lambda _: {}


def ranker_of(pl_module: LightningModule) -> Ranker:
    """The module as the ranker that it is."""
    return cast(Ranker, pl_module)
