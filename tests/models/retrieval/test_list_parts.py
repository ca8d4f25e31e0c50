"""Lists in parts: every list can be read, whatever the order they were found in, and none is searched for twice."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.errors import InputError
from segue.models.retrieval import lists as list_parts
from segue.models.retrieval.lists import ListBlock, ListParts, ListSearch


def search_of(num: int, block: int, seed: int, searched: list[int]) -> tuple[ListSearch, np.ndarray, np.ndarray]:
    """A search in blocks of any queries, and what it finds."""
    rng = np.random.default_rng(seed)
    rows, scores = rng.integers(0, num, (num, 3)), rng.normal(size=(num, 3)).astype(np.float32)
    blocks = np.split(rng.permutation(num), range(block, num, block))

    def search(nth: int) -> ListBlock:
        searched.append(nth)
        return ListBlock(blocks[nth], rows[blocks[nth]], scores[blocks[nth]])

    return ListSearch(num_queries=num, k=3, num_blocks=len(blocks), block=search), rows, scores


@given(num=st.integers(1, 40), block=st.integers(1, 9), of_a_part=st.integers(1, 4), num_read=st.integers(1, 50))
def test_every_list_is_read_as_it_was_found(
    num: int, block: int, of_a_part: int, num_read: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    searched: list[int] = []
    done: list[int] = []
    search, rows, scores = search_of(num, block, num, searched)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(list_parts, "BLOCKS_OF_A_PART", of_a_part)
        patch.setattr(list_parts, "NUM_READ", num_read)
        folder = tmp_path_factory.mktemp("parts") / "lists"
        parts = ListParts(folder, "a key")
        parts.fill(search, done.append)
        found = [np.concatenate(column) for column in zip(*parts.in_order(), strict=True)]
        assert (parts.rows() == rows).all()
        again = ListParts(folder, "a key")
        again.fill(search, done.append)
    assert (found[0] == rows).all()
    assert (found[1] == scores).all()
    some = np.arange(0, num, 2)[::-1]
    assert (again.of(some)[0] == rows[some]).all()
    assert searched == list(range(search.num_blocks))
    assert sum(done) == 2 * num


def test_parts_of_other_lists_are_not_used(tmp_path: Path) -> None:
    search, _, _ = search_of(20, 4, 1, [])
    ListParts(tmp_path / "lists", "one").fill(search, lambda _: None)
    other, rows, _ = search_of(20, 4, 2, [])
    parts = ListParts(tmp_path / "lists", "two")
    parts.fill(other, lambda _: None)
    assert (parts.rows() == rows).all()


@pytest.mark.parametrize("damage", ["cut", "zeros"])
def test_a_damaged_part_is_refused(tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(list_parts, "BLOCKS_OF_A_PART", 1)
    search, _, _ = search_of(20, 4, 1, [])
    ListParts(tmp_path / "lists", "one").fill(search, lambda _: None)
    part = sorted((tmp_path / "lists").glob("part-*.npy"))[2]
    content = part.read_bytes()
    part.write_bytes(content[:-30] if damage == "cut" else content[:128] + bytes(len(content) - 128))
    with pytest.raises(InputError, match=r"is damaged, as after a power failure; delete .*lists, and resume="):
        ListParts(tmp_path / "lists", "one").fill(search, lambda _: None)
