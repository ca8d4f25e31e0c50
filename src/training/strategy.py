"""The strategy of `trainer=ddp`: processes that each have the whole model and a part of every batch."""

from datetime import timedelta

import torch.distributed as dist
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from pytorch_lightning.strategies import DDPStrategy


class ExchangedGradients(DDPStrategy):
    """Lightning's DDP without `DistributedDataParallel`: the model itself sums the gradients of the processes.

    `DistributedDataParallel` would send whole tables and, before each step, all buffers; NCCL has no sum of sparse
    gradients; and a process without pairs in a batch has none at all. `src/models/exchange.py` sends rows.

    Args:
        timeout_minutes: how long a process waits for another one that is alive, above 0. A dead one is noticed at once.
    """

    def __init__(self, *, timeout_minutes: float) -> None:
        super().__init__(cluster_environment=TorchElasticEnvironment(), timeout=timedelta(minutes=timeout_minutes))

    def configure_ddp(self) -> None:
        """Give all processes the weights of the first one."""
        assert self.lightning_module is not None
        for weights in self.lightning_module.state_dict(keep_vars=True).values():
            if hasattr(weights, "detach"):
                dist.broadcast(weights.detach(), src=0)
