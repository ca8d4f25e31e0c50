"""Lists in files: each is read as it was found."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segue.models.retrieval import lists
from segue.models.retrieval.lists import KeptLists, ListSearch


@given(num=st.integers(1, 40), block=st.integers(1, 9), num_read=st.integers(1, 50))
def test_every_list_is_read_as_it_was_found(
    num: int, block: int, num_read: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rng = np.random.default_rng(num)
    rows, scores = rng.integers(0, num, (num, 3)), rng.normal(size=(num, 3)).astype(np.float32)
    search = ListSearch(num, 3, block, lambda some: (torch.from_numpy(scores[some]), torch.from_numpy(rows[some])))
    done: list[int] = []
    kept = KeptLists(tmp_path_factory.mktemp("kept") / "lists", search, done.append)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lists, "NUM_READ", num_read)
        in_order = [np.concatenate(column) for column in zip(*kept.in_order(), strict=True)]
    assert (in_order[0] == rows).all()
    assert (in_order[1] == scores).all()
    assert (kept.rows(np.arange(0, num, 2)[::-1]) == rows[::2][::-1]).all()
    assert sum(done) == num
