"""Batches of pairs: in which order pairs are shown in an epoch.

An epoch is shuffled as a whole, or in windows that bound the memory. B pairs in a batch, P pairs, W pairs of a window,
H tracks of a history.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from segue.datamodules.pairs.pairs import Pairs
from segue.histories import Histories
from segue.models.contracts import PairBatch


class PairDataset(Dataset[PairBatch]):
    """Pairs as tensors. An index tensor selects a batch, whose histories are looked up in the events of the sessions.

    Args:
        pairs: the pairs.
        histories: what was heard before the next track of each pair.
        max_length: largest number of tracks of a history that a batch has (H), at least 0.
    """

    def __init__(self, pairs: Pairs, histories: Histories, max_length: int) -> None:
        columns = (pairs.previous, pairs.following, pairs.played_ratio, pairs.listener)
        self._columns = tuple(torch.from_numpy(column) for column in columns)
        self._last, self._length = torch.from_numpy(histories.last), torch.from_numpy(histories.length)
        self._tracks, self._shares = torch.from_numpy(histories.tracks), torch.from_numpy(histories.played_ratio)
        self._age = torch.arange(max_length)

    def __getitem__(self, index: Int64[Tensor, "B"]) -> PairBatch:
        previous, following, played_ratio, listener = (column.index_select(0, index) for column in self._columns)
        batch = PairBatch.without_history(previous, following, played_ratio, listener)
        if not len(self._age):
            return batch
        lengths = self._length.index_select(0, index)
        age = self._age[: int(lengths.max())] if len(index) else self._age  # no wider than the longest history
        is_missing = lengths[:, None] <= age
        event = (self._last.index_select(0, index)[:, None] - age).clamp_(min=0).flatten()
        rows, shares = (column.index_select(0, event).view_as(is_missing) for column in (self._tracks, self._shares))
        return batch._replace(
            history=rows.masked_fill_(is_missing, -1), history_share=shares.masked_fill_(is_missing, torch.nan)
        )


def epoch_order(
    *,
    num_pairs: int,
    seed: int,
    epoch: int,
    shards: Sequence[int] = (),
    window: int | None = None,
    sessions: Int64[Tensor, "P"] | None = None,
) -> Iterator[Int64[Tensor, "W"]]:
    """The numbers 0..P-1 in the order of an epoch. It depends on the arguments alone, not on who asks.

    Args:
        num_pairs: number of pairs (P).
        seed: of the run.
        epoch: number of the epoch, from 0.
        shards: number of pairs of each shard; their sum is P. They come in random order.
        window: the pairs of neighbouring shards are shuffled within windows of this many; None, or at least P, for one
            window, which is a full shuffle and does not depend on the shards.
        sessions: number of the session of each pair; the pairs of a session, which follow one another, then stay
            together in their order, but for those that a window cuts. None: every pair has a place of its own.

    Yields:
        The order in parts: those of a window are in memory at once.
    """

    def shuffled(pairs: Int64[Tensor, "W"]) -> Int64[Tensor, "W"]:
        if sessions is None:
            return pairs[torch.randperm(len(pairs), generator=generator)]
        runs, run = sessions[pairs].unique_consecutive(return_inverse=True)
        return pairs[torch.randperm(len(runs), generator=generator)[run].argsort(stable=True)]

    [state] = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)
    generator = torch.Generator().manual_seed(int(state >> np.uint64(1)))
    if window is None or window >= num_pairs:
        yield shuffled(torch.arange(num_pairs))
        return
    ends = np.cumsum(shards)
    waiting = torch.empty(0, dtype=torch.int64)
    for shard in torch.randperm(len(ends), generator=generator).tolist():
        waiting = torch.cat([waiting, torch.arange(int(ends[shard]) - shards[shard], int(ends[shard]))])
        while len(waiting) >= window:
            yield shuffled(waiting[:window])
            waiting = waiting[window:]
    if len(waiting):
        yield shuffled(waiting)


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
    if len(rest):
        yield rest


class BatchSampler(Sampler[Tensor]):
    """Yields one index tensor for each batch, in order or shuffled in every epoch.

    The order depends only on `seed` and the epoch, therefore a run can be resumed in any epoch.

    Args:
        num_pairs: number of pairs.
        batch_size: number of pairs in a batch; the last batch may be smaller.
        seed: seed of the order; None for no shuffling.
        shards: number of pairs of each shard; see `epoch_order` for this and the next.
        window: number of pairs that are shuffled together; None for all.
        sessions: number of the session of each pair, where the pairs of a session stay together; None where not.
        place: number of this process among those that train together, and their number. Each gets as many neighbouring
            pairs of a batch; where their number does not divide it, some pairs come twice.
    """

    def __init__(
        self,
        *,
        num_pairs: int,
        batch_size: int,
        seed: int | None = None,
        shards: Sequence[int] = (),
        window: int | None = None,
        sessions: Int64[Tensor, "P"] | None = None,
        place: tuple[int, int] = (0, 1),
    ) -> None:
        self.num_pairs, self.batch_size, self.seed = num_pairs, batch_size, seed
        self._place, self._shards, self._window, self._sessions = place, shards, window, sessions
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; Lightning calls it before each epoch.

        Args:
            epoch: number of the epoch, from 0.
        """
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.num_pairs // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        if self.seed is None:
            order = iter(torch.arange(self.num_pairs).split(self.batch_size))
        else:
            parts = epoch_order(
                num_pairs=self.num_pairs,
                seed=self.seed,
                epoch=self.epoch,
                shards=self._shards,
                window=self._window,
                sessions=self._sessions,
            )
            order = in_batches(parts, self.batch_size)
        yield from map(self._own, order)

    def _own(self, batch: Int64[Tensor, "B"]) -> Int64[Tensor, "_"]:
        index, count = self._place
        if count == 1:
            return batch
        size = -(-len(batch) // count)
        return batch[torch.arange(index * size, (index + 1) * size) % len(batch)]
