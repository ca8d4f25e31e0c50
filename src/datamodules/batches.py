"""Batches of pairs: which pairs a batch has, and their histories.

B pairs in a batch, P pairs, H tracks of a history.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from segue.datamodules.batch_share import BatchShare
from segue.datamodules.order import epoch_order, in_batches
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


class BatchSampler(Sampler[Tensor]):
    """Yields one index tensor for each batch, in order or shuffled in every epoch.

    The order depends only on `seed` and the epoch, therefore a run can be resumed in any epoch, and in the middle of
    one.

    Args:
        num_pairs: number of pairs.
        batch_size: number of pairs in a batch; the last batch may be smaller.
        seed: seed of the order; None for no shuffling.
        shards: number of pairs of each shard; see `epoch_order` for this and the next.
        window: number of pairs that are shuffled together; None for all.
        share: which pairs of each batch are yielded; None for all.
    """

    def __init__(
        self,
        *,
        num_pairs: int,
        batch_size: int,
        seed: int | None = None,
        shards: Sequence[int] = (),
        window: int | None = None,
        share: BatchShare | None = None,
    ) -> None:
        self.num_pairs, self.batch_size, self.seed = num_pairs, batch_size, seed
        self.share = share
        self._shards, self._window = shards, window
        self.epoch = 0
        self.num_yielded = self._first = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; Lightning calls it before each epoch.

        Args:
            epoch: number of the epoch, from 0.
        """
        self.epoch = epoch

    def begin_at(self, batch: int) -> None:
        """Let the next iteration begin in the middle of its epoch.

        Args:
            batch: number of batches that are left out.
        """
        self._first = batch

    def __len__(self) -> int:
        return -(-self.num_pairs // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        first, self._first = self._first, 0
        if self.seed is None:
            order = iter(torch.arange(self.num_pairs).split(self.batch_size))
        else:
            parts = epoch_order(
                num_pairs=self.num_pairs, seed=self.seed, epoch=self.epoch, shards=self._shards, window=self._window
            )
            order = in_batches(parts, self.batch_size)
        for number, batch in enumerate(order):
            if number >= first:
                self.num_yielded = number + 1
                yield batch if self.share is None else batch[self.share(len(batch))]


class PairLoader(DataLoader[PairBatch]):
    """The loader of training pairs. Lightning keeps in a checkpoint how many batches of the epoch it has given."""

    sampler: BatchSampler

    def state_dict(self) -> dict[str, int]:
        """The number of batches of the epoch so far."""
        return {"batch": self.sampler.num_yielded}

    def load_state_dict(self, state_dict: Mapping[str, int]) -> None:
        """Begin after as many batches."""
        self.sampler.begin_at(state_dict["batch"])
