"""Batches: the order of pairs in an epoch, and the shares of processes."""

from itertools import chain

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


@given(num_pairs=st.integers(1, 60), batch_size=st.integers(1, 9), count=st.integers(1, 5))
def test_processes_have_equal_parts_of_each_batch_in_its_order(num_pairs: int, batch_size: int, count: int) -> None:
    def batches(place: tuple[int, int]) -> list[list[int]]:
        sampler = BatchSampler(num_pairs=num_pairs, batch_size=batch_size, seed=3, place=place)
        return [batch.tolist() for batch in sampler]

    parts = zip(*(batches((index, count)) for index in range(count)), strict=True)
    for whole, of_batch in zip(batches((0, 1)), parts, strict=True):
        assert {len(part) for part in of_batch} == {-(-len(whole) // count)}
        together = list(chain(*of_batch))
        assert together[: len(whole)] == whole
        assert set(together) == set(whole)


SESSIONS = st.lists(st.integers(1, 6), min_size=1, max_size=30)
"""Number of pairs of each session."""


@given(sizes=SESSIONS, window=st.one_of(st.none(), st.integers(1, 40)), epoch=st.integers(0, 3))
def test_the_pairs_of_a_session_stay_together_in_their_order(sizes: list[int], window: int | None, epoch: int) -> None:
    sessions, num_pairs = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)), sum(sizes)
    parts = list(
        epoch_order(num_pairs=num_pairs, seed=1, epoch=epoch, shards=[num_pairs], window=window, sessions=sessions)
    )
    order = torch.cat(parts)
    assert sorted(order.tolist()) == list(range(num_pairs))
    for part in parts:
        runs, sizes_of_runs = sessions[part].unique_consecutive(return_counts=True)
        assert len(runs.unique()) == len(runs), "a session is in one piece, or cut by the window"
        for run in part.split(sizes_of_runs.tolist()):
            assert (run.diff() == 1).all()


def test_sessions_come_in_another_order_in_every_epoch() -> None:
    sessions = torch.arange(100).repeat_interleave(3)
    sampler = BatchSampler(num_pairs=300, batch_size=7, seed=3, sessions=sessions)
    orders = []
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        orders.append(torch.cat(list(sampler)))
    first, second = (sessions[order][::3].tolist() for order in orders)
    assert first != second
    assert first != sorted(first)
