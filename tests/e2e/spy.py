"""Callbacks that a test puts into a run, to see or to do what only its own process can."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from segue.datamodules.reading.database import connect
from segue.models import export


class Threads(Callback):
    """Writes how many threads this process works with."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        with connect() as database:
            [row] = database.execute("SELECT current_setting('threads')").fetchall()
        self._path.write_text(json.dumps({"torch": torch.get_num_threads(), "duckdb": int(row[0])}))


class Kill(Callback):
    """Kills the process when the second epoch has been validated, but only once, and only of some jobs."""

    def __init__(self, mark: str, when: bool) -> None:
        self._mark, self._when = Path(mark), when

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        if self._when and trainer.current_epoch == 1 and not self._mark.exists():
            self._mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


class KillInExport(Callback):
    """Kills the process when it has found its lists and would write them, but only once."""

    def __init__(self, mark: str) -> None:
        self._mark = Path(mark)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        if not self._mark.exists():
            self._mark.touch()
            vars(export)["write_lists"] = self._kill  # this process dies there

    def _kill(self, *_: object, **__: object) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)
