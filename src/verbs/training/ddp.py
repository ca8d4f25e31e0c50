"""`trainer=ddp`: several processes train one run by Lightning's own strategy.

Lightning, or torchrun, starts the same command for each other process. The first process writes the run, tests and
exports; the others end after training.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from hydra.utils import get_class
from omegaconf import DictConfig

from segue.errors import InputError
from segue.reports.console import console
from segue.verbs.sweeps.jobs import IN_A_MULTIRUN

if TYPE_CHECKING:
    from pytorch_lightning import Trainer


def check_processes(config: DictConfig, *, is_job: bool, is_auto: bool) -> None:
    """Refuse what several processes cannot train.

    Raises:
        InputError: a setting does not fit `trainer=ddp`, or needs it.
    """
    trainer = config.trainer
    count = trainer.devices * trainer.get("num_nodes", 1)
    if trainer.get("strategy") is None:
        if max(count, int(os.environ.get("WORLD_SIZE", "1"))) > 1:
            raise InputError("several processes train one run with trainer=ddp; otherwise use trainer.devices=1")
        return
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # torch warns where every parameter is used
    if is_job:
        raise InputError(IN_A_MULTIRUN)
    if is_auto:
        raise InputError("recipe=auto compares recipes in one process; with trainer=ddp name one: recipe=playlists")
    if int(os.environ.get("WORLD_SIZE", count)) != count:
        raise InputError(
            f"torchrun started {os.environ['WORLD_SIZE']} processes, and the trainer has {count}; use "
            "trainer.devices=<processes on each machine> trainer.num_nodes=<machines>"
        )
    if config.get("optimizer") is None:
        raise InputError("trainer=ddp divides the pairs of a batch, and this model reads no batches; leave it out")
    if getattr(get_class(config.optimizer._target_), "uses_sparse_gradients", False):
        raise InputError("trainer=ddp needs dense gradients; use optimizer=adam with it")
    if config.resume is True:
        raise InputError("trainer=ddp cannot look for the run to resume; name it: resume=<run folder>")


def is_first(config: DictConfig) -> bool:
    """Whether this process writes the run."""
    return config.trainer.get("strategy") is None or int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0


@contextmanager
def apart(config: DictConfig) -> Iterator[None]:
    """Let a process that is not the first print and track nothing, and write to a folder that is removed."""
    if is_first(config):
        yield
        return
    console.quiet = True
    with TemporaryDirectory(prefix="segue-") as folder:
        config.merge_with({"run_dir": folder, "logger": None})
        yield


def leave(trainer: "Trainer") -> None:
    """End the other processes after training."""
    if trainer.world_size > 1:
        import torch.distributed

        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
        if not trainer.is_global_zero:
            sys.exit()
