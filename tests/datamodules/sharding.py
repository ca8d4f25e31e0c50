"""Shards of a small source, and the datamodule that reads them."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from segue.catalog import Listens
from segue.datamodules.log_source import LogSource
from segue.datamodules.pair_datamodule import PairDataModule
from segue.datamodules.shards.engines import DuckDBEngine
from segue.datamodules.shards.manifest import Manifest
from segue.datamodules.shards.writer import write_shards
from segue.datamodules.sources import from_shards


def shards_of(datamodule: PairDataModule, folder: Path, engine: DuckDBEngine | None = None, **changes: Any) -> Manifest:
    """Write shards."""
    folder.mkdir(parents=True, exist_ok=True)
    assert isinstance(datamodule.source, LogSource)
    given: dict[str, Any] = {"recipe": "shares", "batch_size": 64, "source": {}, "shard_rows": 500}
    return write_shards(datamodule.source, engine or DuckDBEngine(), folder, **given | changes)


def read_shards(folder: Path, **changes: Any) -> PairDataModule:
    """A datamodule of shards, not set up."""
    given: dict[str, Any] = {"recipe": "shares", "window": 10**6, "history": 0, "batch_size": None, "seed": 1}
    return from_shards(**given | {"path": str(folder)} | changes)


def check_same(ours: Any, theirs: Any) -> None:
    """All arrays of two records are equal."""
    for field in fields(theirs):
        left, right = getattr(ours, field.name), getattr(theirs, field.name)
        if isinstance(right, np.ndarray):
            np.testing.assert_array_equal(left, right)
        elif isinstance(right, Listens):
            check_same(left, right)


def check_shards(source: PairDataModule, folder: Path, engine: DuckDBEngine) -> PairDataModule:
    """What an engine writes and the shards give back is what the source has; returns the shards."""
    source.setup()
    shards_of(source, folder, engine, shard_rows=300)
    read = read_shards(folder, history=3)
    read.setup()
    for name, pairs in source.pairs.items():
        check_same(read.pairs[name], pairs)
    check_same(read.sessions.listens, source.sessions.listens)
    for name in ("timestamp", "place", "listener"):
        np.testing.assert_array_equal(getattr(read.sessions, name), getattr(source.sessions, name))
    assert read.sessions.num_interleaved == source.sessions.num_interleaved
    check_same(read.vocabulary, source.vocabulary)
    assert read.vocabulary.mean_played_ratio == source.vocabulary.mean_played_ratio
    check_same(read.catalog, source.catalog)
    np.testing.assert_array_equal(read.new_tracks, source.new_tracks)
    assert read.digest() == source.digest()
    assert read.dropped == source.dropped
    assert read.summary().equals(source.summary())
    return read
