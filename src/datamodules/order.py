"""In which order pairs are shown in an epoch: shuffled as a whole, or in windows that bound the memory.

P pairs, W pairs of a window.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor


def epoch_order(
    *, num_pairs: int, seed: int, epoch: int, shards: Sequence[int] = (), window: int | None = None
) -> Iterator[Int64[Tensor, "W"]]:
    """The numbers 0..P-1 in the order of an epoch. It depends on the arguments alone, not on who asks.

    Processes that train together, and workers, take their parts of the same batches of this order.

    Args:
        num_pairs: number of pairs (P).
        seed: of the run.
        epoch: number of the epoch, from 0.
        shards: number of pairs of each shard; their sum is P. They come in random order.
        window: the pairs of neighbouring shards are shuffled within windows of this many; None, or at least P, for one
            window, which is a full shuffle and does not depend on the shards.

    Yields:
        The order in parts: those of a window are in memory at once.
    """
    [state] = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)
    generator = torch.Generator().manual_seed(int(state >> np.uint64(1)))
    if window is None or window >= num_pairs:
        yield torch.randperm(num_pairs, generator=generator)
        return
    ends = np.cumsum(shards)
    waiting = torch.empty(0, dtype=torch.int64)
    for shard in torch.randperm(len(ends), generator=generator).tolist():
        waiting = torch.cat([waiting, torch.arange(int(ends[shard]) - shards[shard], int(ends[shard]))])
        while len(waiting) >= window:
            yield waiting[:window][torch.randperm(window, generator=generator)]
            waiting = waiting[window:]
    if len(waiting):
        yield waiting[torch.randperm(len(waiting), generator=generator)]


def in_batches(parts: Iterator[Int64[Tensor, "W"]], batch_size: int) -> Iterator[Int64[Tensor, "B"]]:
    """Cut an order into batches, across its parts.

    Args:
        parts: the order.
        batch_size: number of pairs in a batch (B); the last one may be smaller.

    Yields:
        The batches.
    """
    rest = torch.empty(0, dtype=torch.int64)
    for part in parts:
        *whole, rest = torch.cat([rest, part]).split(batch_size)
        yield from whole
        if len(rest) == batch_size:
            yield rest
            rest = rest[:0]
    if len(rest):
        yield rest
