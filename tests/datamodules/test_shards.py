"""Shards: what is read from them is what the source has, and what is damaged is refused in a line."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
import torch

from segue.datamodules.pair_datamodule import PairDataModule
from segue.datamodules.pairs.pairs import Pairs
from segue.datamodules.shards.columns import TABLES, GrowingColumn
from segue.datamodules.shards.engines import DuckDBEngine
from segue.datamodules.shards.manifest import MANIFEST
from segue.errors import InputError
from segue.models.pair_ranker import PairRanker
from tests.conftest import build_datamodule
from tests.contracts.building import fit, make_ranker
from tests.datamodules.sharding import check_same, check_shards, read_shards, shards_of
from tests.models.plain import tensors_of

Make = Callable[..., PairDataModule]


@pytest.fixture(scope="module")
def shards(ring_logs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of the ring; tests that change them take a copy."""
    folder = tmp_path_factory.mktemp("shards")
    shards_of(build_datamodule(ring_logs, folder), folder)
    return folder


@pytest.fixture
def copied(shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shards, tmp_path / "copy"))


def in_order(pairs: Pairs) -> Pairs:
    return pairs.where(np.lexsort((pairs.previous, pairs.following, pairs.last, pairs.session)))


@pytest.mark.parametrize(
    "changes", [{}, {"split": "session"}, {"split": "pair", "pairing": "first"}], ids=["time", "session", "pair"]
)
def test_all_data_of_shards_become_training_data(
    datamodule_of: Make, ring_logs: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    source = datamodule_of(ring_logs, **changes)
    ours, theirs = check_shards(source, tmp_path / "shards", DuckDBEngine()).as_training(), source.as_training()
    alike = in_order if changes else (lambda pairs: pairs)  # where splits are mixed, the pairs of training come first
    check_same(alike(ours.pairs["train"]), alike(theirs.pairs["train"]))
    np.testing.assert_array_equal(ours.vocabulary.plays, theirs.vocabulary.plays)
    assert ours.summary().equals(theirs.summary())
    assert sum(ours.data.shards) == len(ours.pairs["train"])


def test_shards_with_hidden_tracks_do_not_become_training_data(
    datamodule_of: Make, ring_logs: Path, tmp_path: Path
) -> None:
    read = check_shards(datamodule_of(ring_logs, cold_share=0.1), tmp_path / "shards", DuckDBEngine())
    assert "datamodule.cold_share" in str(read.source.not_as_training)


def test_the_columns_are_mapped_and_nothing_else_is_left(shards: Path) -> None:
    columns = {f"{table}-{name}.npy" for table, names in TABLES.items() for name in names}
    assert {path.name for path in shards.iterdir()} == {*columns, MANIFEST, "vocabulary.json"}
    assert len(np.load(shards / "pair-previous.npy")) == 2800
    datamodule = read_shards(shards)
    datamodule.setup()
    assert {name: len(pairs) for name, pairs in datamodule.pairs.items()} == {"train": 2240, "val": 280, "test": 280}
    for column in (datamodule.pairs["test"].previous, datamodule.sessions.listens.track):
        base: Any = column.base
        while not isinstance(base, np.memmap):
            base = base.base
        assert str(base.filename).startswith(str(shards))


def test_a_column_grows_to_what_numpy_reads(tmp_path: Path) -> None:
    column = GrowingColumn(tmp_path / "event-track.npy")
    for first in range(0, 10_000_000, 1_000_000):
        column.append(np.arange(first, first + 1_000_000))
    column.close()
    np.testing.assert_array_equal(np.load(tmp_path / "event-track.npy"), np.arange(10_000_000))


class Killed(Exception):  # noqa: N818
    """Stands for a kill."""


def test_the_shards_of_a_run_that_was_killed_are_replaced(
    ring_logs: Path, datamodule_of: Make, shards: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        (copied / ".staging" / "half").write_text("of a column")
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(GrowingColumn, "append", killed)
        patched.setattr("segue.datamodules.shards.writer.shutil.rmtree", lambda *_, **__: None)
        with pytest.raises(Killed):
            shards_of(datamodule_of(ring_logs), copied, shard_rows=200)
    with pytest.raises(InputError, match=r"has no manifest.json, which prepare.py writes last"):
        read_shards(copied).setup()
    shards_of(datamodule_of(ring_logs), copied)
    assert {path.name for path in copied.iterdir()} == {path.name for path in shards.iterdir()}
    for path in shards.glob("*.npy"):
        assert (copied / path.name).read_bytes() == path.read_bytes()


def missing(folder: Path) -> None:
    (folder / "pair-last.npy").unlink()


def truncated(folder: Path) -> None:
    os.truncate(folder / "pair-last.npy", 1000)


def changed(folder: Path, name: str = "pair-last.npy") -> None:
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(bytes(data))


def other_tracks(folder: Path) -> None:
    changed(folder, "vocabulary.json")


def old(folder: Path) -> None:
    record = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**record, "files": [1]}))


DAMAGE = {
    missing: r".*pair-last.npy is missing; copy it again",
    truncated: r"pair-last.npy has 1,000 bytes, and the manifest says [\d,]+; copy it again",
    changed: r"pair-last.npy has another digest than the manifest says; copy it again",
    other_tracks: r"vocabulary.json has another digest than the manifest says",
    old: "manifest.json is damaged, or of another version; copy it again",
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.items(), ids=[damage.__name__ for damage in DAMAGE])
def test_what_is_damaged_is_refused_in_a_line(copied: Path, damage: Callable[[Path], None], message: str) -> None:
    read_shards(copied).setup()
    damage(copied)
    with pytest.raises(InputError, match=message):
        read_shards(copied).setup()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": "playlists"}, "recipe=playlists is not the recipe of these shards, shares: leave recipe= out"),
        ({"path": "/nowhere"}, "datamodule.path=/nowhere has no manifest.json"),
    ],
)
def test_settings_that_do_not_fit_are_refused(shards: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_shards(shards, **changes).setup()
    read_shards(shards, recipe="counting").setup()  # a baseline may have its own


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("java.io.IOException: No space left on device"),
        duckdb.IOException("IO Error: Could not write file: No space left on device"),
    ],
)
def test_the_error_of_a_full_disk_in_java_or_duckdb_is_one_of_the_disk(
    ring_logs: Path, datamodule_of: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(*_: Any) -> None:
        raise error

    monkeypatch.setattr(DuckDBEngine, "map", full)
    with pytest.raises(OSError, match="No space left on device") as raised:
        shards_of(datamodule_of(ring_logs), tmp_path)
    assert raised.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_a_source_with_too_few_sessions_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plays.csv"
    path.write_text("user,time,track\n1,1000000000,1\n1,1000000010,2\n")
    columns = {"user": "user", "timestamp": "time", "track": "track"}
    datamodule = build_datamodule(path, tmp_path, source="table", columns=columns)
    with pytest.raises(InputError, match=r"no pairs left for .*: 1 sessions with 1 pairs in .* are too few"):
        shards_of(datamodule, tmp_path / "shards")


def fitted(datamodule: PairDataModule) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Weights and metrics of a small head after two epochs."""
    datamodule.setup()
    ranker = make_ranker("convex", datamodule.vocabulary, "session")
    assert isinstance(ranker, PairRanker)
    metrics = fit(ranker, datamodule, epochs=2).callback_metrics
    return tensors_of(ranker), {name: float(value) for name, value in metrics.items()}


def test_training_from_shards_gives_the_weights_of_training_from_the_source(
    datamodule_of: Make, ring_logs: Path, shards: Path
) -> None:
    theirs, metrics = fitted(datamodule_of(ring_logs, history=5, batch_size=100))
    ours, of_shards = fitted(read_shards(shards, history=5, batch_size=100))
    assert of_shards == metrics
    assert {"train/loss", "val/loss"} <= metrics.keys()
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name
