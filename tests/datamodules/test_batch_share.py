"""The shares of processes: each pair once, and groups whole."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from segue.datamodules.batches import BatchShare, one_for_each_process


@given(num_pairs=st.integers(1, 300), at_most=st.integers(1, 40), count=st.integers(1, 9))
def test_the_groups_of_the_shares_are_those_of_the_batch(num_pairs: int, at_most: int, count: int) -> None:
    def groups(num: int) -> int:
        return -(-num // at_most)

    batch = np.arange(num_pairs)
    cut = [batch[BatchShare(index=index, count=count, groups=groups)(num_pairs)] for index in range(count)]
    of_processes = [np.array_split(share, groups(len(share))) for share in cut if len(share)]
    together = [group.tolist() for share in of_processes for group in share]
    assert together == [group.tolist() for group in np.array_split(batch, groups(num_pairs))]
    assert all(one >= other for one, other in pairwise(map(len, [*of_processes, []])))
    assert max(map(len, of_processes)) - min(map(len, of_processes)) <= 1


@given(batch_size=st.integers(1, 300), count=st.integers(1, 9), data=st.data())
def test_groups_that_nobody_chose_are_those_of_as_many_candidates_in_one_process(
    batch_size: int, count: int, data: st.DataObject
) -> None:
    num_pairs = data.draw(st.integers(1, batch_size))
    groups = one_for_each_process(lambda _: 1, count=count, batch_size=batch_size)
    assert groups(batch_size) == min(count, batch_size)
    assert 1 <= groups(num_pairs) <= min(count, num_pairs)
    if batch_size % count == 0:
        assert groups(num_pairs) == -(-num_pairs // (batch_size // count))
    assert one_for_each_process(lambda num: num, count=count, batch_size=batch_size)(num_pairs) == num_pairs
