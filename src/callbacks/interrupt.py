"""Ctrl-C ends training, not the run."""

import signal
import threading
from contextlib import ExitStack

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from pytorch_lightning import Callback, LightningModule, Trainer

from segue.reports.console import errors
from segue.runs.tracking.logger import run_logger
from segue.runs.tracking.store import INTERRUPTED


class Interrupt(Callback):
    """The first Ctrl-C ends training after the current batch; validation, test and export still follow.

    A second Ctrl-C stops immediately. In a multirun, and with `trainer=ddp`, the first one does.

    Attributes:
        stopped: whether it has ended training.
    """

    def __init__(self) -> None:
        self._restore = ExitStack()
        self.stopped = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Handle SIGINT, where this thread may."""
        in_multirun = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
        if in_multirun or trainer.world_size > 1 or threading.current_thread() is not threading.main_thread():
            return

        def stop(*_: object) -> None:
            trainer.should_stop = self.stopped = True
            signal.signal(signal.SIGINT, signal.default_int_handler)
            errors.print("\nCtrl-C: training ends here; testing and exporting follow. A second Ctrl-C stops at once.")

        self._restore.callback(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, stop))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Mark the run as interrupted in MLflow."""
        if self.stopped and (logger := run_logger(trainer)) is not None:
            logger.log_tags({INTERRUPTED: "true"})

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """Restore the handler of SIGINT."""
        self._restore.close()
