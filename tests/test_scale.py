"""The study of scale: the table that rare tracks share, and the arithmetic beyond what was measured."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from experiments.scale import arithmetic, engines, min_plays
from segue.datamodules.pair_datamodule import PairDataModule
from segue.models.parts import Lookup
from segue.models.row_adam import RowAdam
from tests.conftest import ROOT, make_vocabulary
from tests.contracts.building import composed
from tests.datamodules.sharding import shards_of


@given(st.lists(st.integers(0, 60), min_size=1, max_size=200))
def test_frequent_tracks_have_a_row_of_their_own_and_ten_rare_ones_share_one(counts: list[int]) -> None:
    plays = torch.tensor(counts)
    of, shown = min_plays.hashed_rows(plays, plays > 0, 20)
    own = plays >= 20
    num_own, num_rare = int(own.sum()), int((~own).sum())
    assert of[own].tolist() == list(range(num_own))
    assert len(shown) == num_own + max(1, round(num_rare / 10))
    assert ((of[~own] >= num_own) & (of[~own] < len(shown))).all()
    assert shown.tolist() == [bool((plays[of == row] > 0).any()) for row in range(len(shown))]


def test_the_head_of_the_study_has_the_shared_table() -> None:
    words = ["datamodule.batch_size=8", *min_plays.words_of("hashed", 20), "model.dim=4", "model.order_std=0.1"]
    settings = {name: value for name, value in composed(*words).model.items() if not str(name).startswith("_")}
    vocabulary = make_vocabulary(range(50), previous_counts=[row // 2 for row in range(50)], next_counts=[1] * 50)
    head = min_plays.HashedTail(vocabulary, **settings)
    assert isinstance(head.parts["track"], Lookup)
    num_own = int((vocabulary.plays >= 20).sum())
    assert head.get_parameter("parts.track.weight").shape == (num_own + 4, 4)
    assert head.parts["track"].offset is not None
    items = head.eval().item_vectors().detach().numpy()
    rare = np.flatnonzero(vocabulary.plays < 20)
    same = [tuple(items[row, :4]) for row in rare]
    assert len(set(same)) == 4


def test_a_row_of_a_table_needs_the_bytes_that_row_adam_keeps() -> None:
    table = torch.nn.Embedding(100, 64, sparse=True)
    optimizer = RowAdam(table.parameters(), lr=0.1, beta2=0.9, eps=1e-8, weight_decay=0.0)
    table(torch.arange(3)).sum().backward()
    optimizer.step()
    [state] = optimizer.state.values()
    kept = [table.weight, *(value for value in state.values() if isinstance(value, torch.Tensor))]
    assert sum(tensor.nbytes for tensor in kept) == 100 * arithmetic.row_bytes(64)


def test_curves_go_through_the_two_largest_sizes() -> None:
    points = [(1.0, 100.0), (10.0, 3.0), (1000.0, 30_000.0)]
    assert arithmetic.power(points)(10) == pytest.approx(3)
    assert arithmetic.power(points)(1000) == pytest.approx(30_000)
    assert arithmetic.slope(points) == pytest.approx(29_997 / 990)
    assert arithmetic._inverse(arithmetic.power(points), 30_000) == pytest.approx(1000)


def test_the_tables_on_disk_are_those_of_the_measured_files() -> None:
    text = (arithmetic.STUDY.home / "arithmetic.md").read_text(encoding="utf-8")
    assert text.splitlines() == arithmetic.tables(arithmetic.measured())


def test_the_page_quotes_the_tables() -> None:
    page = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    texts = [(arithmetic.STUDY.home / name).read_text(encoding="utf-8") for name in ("arithmetic.md", "min_plays.md")]
    parts = [part for text in texts for part in text.strip().split("\n\n")]
    assert [part for part in parts if part not in page] == []


def test_shards_that_differ_in_the_order_of_two_rows_are_counted(
    ring_logs: Path, datamodule_of: Callable[..., PairDataModule], tmp_path: Path
) -> None:
    for name in ("ours", "theirs"):
        manifest = shards_of(datamodule_of(ring_logs), tmp_path / name)
    assert len(manifest.shards) > 1
    assert engines.differences(tmp_path / "ours", tmp_path / "theirs") == 0
    shard = tmp_path / "theirs" / manifest.shards[0].file
    rows = pq.read_table(shard)
    pq.write_table(rows.take([1, 0, *range(2, len(rows))]), shard)
    assert engines.differences(tmp_path / "ours", tmp_path / "theirs") == 1
