"""The order of pairs in an epoch."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from segue.datamodules.batches import BatchSampler, epoch_order, in_batches

SHARDS = st.lists(st.integers(0, 30), min_size=1, max_size=8)


@given(shards=SHARDS, window=st.integers(1, 80), epoch=st.integers(0, 3))
def test_every_pair_comes_once(shards: list[int], window: int, epoch: int) -> None:
    parts = list(epoch_order(num_pairs=sum(shards), seed=1, epoch=epoch, shards=shards, window=window))
    assert sorted(torch.cat([torch.empty(0, dtype=torch.int64), *parts]).tolist()) == list(range(sum(shards)))
    assert all(len(part) <= window for part in parts) or window >= sum(shards)


@given(shards=SHARDS, size=st.integers(1, 9), window=st.integers(1, 80))
def test_batches_are_full_but_for_the_last(shards: list[int], size: int, window: int) -> None:
    def parts() -> list[torch.Tensor]:
        return list(epoch_order(num_pairs=sum(shards), seed=1, epoch=0, shards=shards, window=window))

    batches = list(in_batches(iter(parts()), size))
    assert all(len(batch) == size for batch in batches[:-1])
    assert len(batches) == -(-sum(shards) // size)
    assert torch.equal(torch.cat([*batches, torch.empty(0)]), torch.cat([*parts(), torch.empty(0)]))


def test_a_window_of_all_pairs_is_the_shuffle_of_any_source() -> None:
    whole = BatchSampler(num_pairs=100, batch_size=7, seed=3)
    windowed = BatchSampler(num_pairs=100, batch_size=7, seed=3, shards=[50, 50], window=100)
    for epoch in (0, 1):
        whole.set_epoch(epoch)
        windowed.set_epoch(epoch)
        assert torch.equal(torch.cat(list(whole)), torch.cat(list(windowed)))


def test_a_window_mixes_its_pairs_and_shards_come_in_any_order() -> None:
    orders = [
        torch.cat(list(epoch_order(num_pairs=4000, seed=1, epoch=epoch, shards=[1000] * 4, window=2000))).numpy()
        for epoch in range(12)
    ]
    firsts = {tuple(sorted(set((order[:2000] // 1000).tolist()))) for order in orders}
    assert len(firsts) > 2  # which shards are in the first window
    for order in orders:
        assert len(set((order[:2000] // 1000).tolist())) == 2
        assert abs(np.corrcoef(np.arange(2000), order[:2000])[0, 1]) < 0.1


def test_an_order_goes_on_where_it_was_left() -> None:
    sampler = BatchSampler(num_pairs=100, batch_size=7, seed=3, shards=[40, 60], window=30)
    sampler.set_epoch(2)
    batches = [batch.tolist() for batch in sampler]
    sampler.begin_at(5)
    assert [batch.tolist() for batch in sampler] == batches[5:]
    assert sampler.num_yielded == len(batches)
    assert [batch.tolist() for batch in sampler] == batches  # the next epoch is whole
