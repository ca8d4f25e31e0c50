"""Shards: what is read from them is what the source has, and what is damaged is refused in a line."""

import errno
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from segue.callbacks.exact_resume import ExactResume
from segue.datamodules.pair_datamodule import PairDataModule
from segue.datamodules.shard_datamodule import ShardDataModule
from segue.datamodules.shards.engines import DuckDBEngine
from segue.datamodules.shards.manifest import MANIFEST, Manifest
from segue.datamodules.shards.prepared_rows import RowMaker, SessionRange
from segue.datamodules.split_datamodule import SplitDataModule
from segue.errors import InputError
from segue.models.pair_ranker import PairRanker
from tests.conftest import build_datamodule
from tests.contracts.building import make_ranker
from tests.datamodules.preparing import schema
from tests.datamodules.sharding import check_same, check_shards, read_shards, shards_of
from tests.models.plain import tensors_of

Make = Callable[..., PairDataModule]


@pytest.fixture(scope="module")
def shards(ring_logs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of the ring; tests that change them take a copy."""
    folder = tmp_path_factory.mktemp("shards")
    shards_of(build_datamodule(ring_logs, folder), folder)
    read_shards(folder).setup()
    return folder


@pytest.fixture
def copied(shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shards, tmp_path / "copy", ignore=shutil.ignore_patterns("columns", ".columns*")))


@pytest.mark.parametrize("changes", [{}, {"split": "pair", "pairing": "first"}], ids=["session", "pair"])
def test_all_data_of_shards_become_training_data(
    datamodule_of: Make, ring_logs: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    source = datamodule_of(ring_logs, **changes)
    ours, theirs = check_shards(source, tmp_path / "shards", DuckDBEngine()).as_training(), source.as_training()
    check_same(ours.pairs["train"], theirs.pairs["train"])
    check_same(ours.vocabulary, theirs.vocabulary)
    assert ours.summary().equals(theirs.summary())
    assert sum(ours._shards) == len(ours.pairs["train"])


def test_shards_with_hidden_tracks_do_not_become_training_data(
    datamodule_of: Make, ring_logs: Path, tmp_path: Path
) -> None:
    read = check_shards(datamodule_of(ring_logs, cold_share=0.1), tmp_path / "shards", DuckDBEngine())
    assert "datamodule.cold_share" in str(read.not_as_training)


def test_only_shards_end_in_parquet_and_nothing_else_is_left(shards: Path) -> None:
    names = {path.name for path in shards.iterdir()}
    parquet = {name for name in names if name.endswith(".parquet")}
    assert parquet == {f"pairs-{n:05d}.parquet" for n in range(7)}
    assert names - parquet == {MANIFEST, "vocabulary.json", "columns", ".columns.lock"}
    assert all(pq.read_schema(shards / name).equals(schema()) for name in parquet)
    manifest = Manifest.read(shards)
    assert sum(shard.rows for shard in manifest.shards) == manifest.counts["rows"] == 3200
    assert manifest.pairs == {"train": 2240, "val": 280, "test": 280}
    for shard in manifest.shards:
        sessions = pq.read_table(shards / shard.file)["session"].to_numpy()
        assert (np.bincount(sessions - sessions[0]) == 8).all()  # whole sessions


# --- after a kill -----------------------------------------------------------------------------------------------------


class Killed(Exception):  # noqa: N818
    """Stands for a kill."""


def test_the_shards_of_a_run_that_was_killed_are_replaced(
    ring_logs: Path, datamodule_of: Make, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, write = tmp_path / "killed", RowMaker.write

    def killed(self: RowMaker, task: SessionRange) -> Any:
        if (shard := write(self, task)).file == "pairs-00004.parquet":
            task.path.rename(task.path.with_name(f".7.partial.{task.path.name}"))  # half-written
            raise Killed
        return shard

    with monkeypatch.context() as patched:
        patched.setattr(RowMaker, "write", killed)
        with pytest.raises(Killed):
            shards_of(datamodule_of(ring_logs), folder, shard_rows=200)
    with pytest.raises(InputError, match=r"has no manifest.json, which prepare.py writes last"):
        read_shards(folder).setup()
    assert shards_of(datamodule_of(ring_logs), folder).digest == Manifest.read(shards).digest
    written = {path.name for path in shards.iterdir() if "columns" not in path.name}
    assert {path.name for path in folder.iterdir()} == written


def missing(folder: Path) -> None:
    (folder / "pairs-00002.parquet").unlink()


def truncated(folder: Path) -> None:
    path = folder / "pairs-00002.parquet"
    path.write_bytes(path.read_bytes()[:-100])


def changed(folder: Path) -> None:
    path = folder / "pairs-00002.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def other_vocabulary(folder: Path) -> None:
    path = folder / "vocabulary.json"
    path.write_text(path.read_text().replace("Title 1", "Title one"))


DAMAGE = {
    missing: r"shard .*pairs-00002.parquet is missing; copy it again",
    truncated: r"pairs-00002.parquet has [\d,]+ bytes, and the manifest says [\d,]+; copy it again",
    changed: r"pairs-00002.parquet has another digest than the manifest says; copy it again",
    other_vocabulary: r"vocabulary.json has another digest than the manifest says",
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 99}, r"manifest.json has version 99 of shards, not 1; run prepare.py again"),
        ({"counts": {}}, "manifest.json is damaged; copy it again"),
        ({"pairs": {"train": 1, "val": 1, "test": 1}}, "manifest.json is damaged; copy it again"),
        ({"shards": []}, "manifest.json is damaged; copy it again"),
    ],
    ids=str,
)
def test_a_manifest_that_does_not_add_up_is_refused(copied: Path, change: dict[str, Any], message: str) -> None:
    record = json.loads((copied / MANIFEST).read_text())
    (copied / MANIFEST).write_text(json.dumps({**record, **change}))
    with pytest.raises(InputError, match=message):
        read_shards(copied).setup()


@pytest.mark.parametrize(("damage", "message"), DAMAGE.items(), ids=[damage.__name__ for damage in DAMAGE])
def test_what_is_damaged_is_refused_in_a_line(copied: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(copied)
    with pytest.raises(InputError, match=message):
        read_shards(copied).setup()
    assert not (copied / "columns").exists()
    assert not list(copied.glob(".*partial*"))


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is of Linux")
def test_a_folder_in_which_no_file_can_be_is_refused_and_not_waited_for(copied: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be written into /proc/columns: .*; .*datamodule.cache=<folder>"):
        read_shards(copied, cache="/proc/columns").setup()


def test_a_shard_that_changes_after_its_columns_were_written_is_noticed(shards: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(shards, tmp_path / "copy"))
    read_shards(folder).setup()
    changed(folder)
    with pytest.raises(InputError, match="has another digest"):
        read_shards(folder).setup()


def torn_column(columns: Path) -> None:
    (columns / "train-previous.bin").write_bytes(b"12345678")


def no_column(columns: Path) -> None:
    (columns / "train-previous.bin").unlink()


@pytest.mark.parametrize("damage", [torn_column, no_column])
def test_columns_that_are_not_whole_are_written_again(copied: Path, damage: Callable[[Path], None]) -> None:
    read_shards(copied).setup()
    before = {path.name: path.read_bytes() for path in (copied / "columns").iterdir()}
    damage(copied / "columns")
    read_shards(copied).setup()
    assert {path.name: path.read_bytes() for path in (copied / "columns").iterdir()} == before


def test_a_folder_with_other_files_is_not_replaced_by_columns(copied: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    for cache in (mine, copied):
        with pytest.raises(InputError, match=f"would replace {cache}, which has other files; choose a new folder"):
            read_shards(copied, cache=str(cache)).setup()
    assert (mine / "thesis.txt").read_text() == "years of work"
    assert (copied / MANIFEST).exists()
    (tmp_path / "empty").mkdir()
    read_shards(copied, cache=str(tmp_path / "empty")).setup()
    assert (tmp_path / "empty" / "columns.json").exists()


def test_columns_that_are_there_are_read_where_nothing_can_be_written(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_shards(copied).setup()

    def refused(*_: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("segue.datamodules.shards.shard_columns.FileLock", refused)
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


def test_a_baseline_may_have_its_own_recipe(shards: Path) -> None:
    for recipe in ("counting", "mixture"):
        read_shards(shards, recipe=recipe).setup()


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("java.io.IOException: No space left on device"),
        RuntimeError("failed to offload data block"),
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


# --- training ---------------------------------------------------------------------------------------------------------


class Fitted(NamedTuple):
    """Weights and metrics at the end."""

    weights: dict[str, torch.Tensor]
    metrics: dict[str, float]


def fitted(datamodule: SplitDataModule) -> Fitted:
    """Train a small head for two epochs."""
    from pytorch_lightning import Trainer

    ranker = make_ranker("convex", datamodule.vocabulary, "session")
    assert isinstance(ranker, PairRanker)
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[ExactResume(seed=1)],
    )
    trainer.fit(ranker, datamodule)
    weights = {name: value.clone() for name, value in tensors_of(ranker).items()}
    return Fitted(weights, {name: float(value) for name, value in trainer.callback_metrics.items()})


def check_equal(ours: Fitted, theirs: Fitted) -> None:
    assert ours.metrics == theirs.metrics
    assert {"train/loss", "val/loss"} <= ours.metrics.keys()
    for name, value in theirs.weights.items():
        assert torch.equal(ours.weights[name], value), name


def windowed(shards: Path, window: int = 10**6) -> ShardDataModule:
    datamodule = read_shards(shards, history=5, window=window, batch_size=100)
    datamodule.setup()
    return datamodule


def test_training_from_shards_gives_the_weights_of_training_from_the_source(
    datamodule_of: Make, ring_logs: Path, shards: Path
) -> None:
    source = datamodule_of(ring_logs, history=5, batch_size=100)
    source.setup()
    check_equal(fitted(windowed(shards)), fitted(source))
