"""Shards of a small source, and the datamodule that reads them."""

from pathlib import Path
from typing import Any

from segue.datamodules.pair_datamodule import PairDataModule
from segue.datamodules.shard_datamodule import ShardDataModule
from segue.datamodules.shards.engines import DuckDBEngine
from segue.datamodules.shards.manifest import Manifest
from segue.datamodules.shards.shard_writer import write_shards


def shards_of(datamodule: PairDataModule, folder: Path, **changes: Any) -> Manifest:
    """Write shards."""
    folder.mkdir(parents=True, exist_ok=True)
    given: dict[str, Any] = {"recipe": "shares", "context": "last", "batch_size": 64, "source": {}, "shard_rows": 500}
    return write_shards(datamodule, DuckDBEngine(), folder, **given | changes)


def read_shards(folder: Path, **changes: Any) -> ShardDataModule:
    """A datamodule of shards, not set up."""
    given: dict[str, Any] = {"recipe": "shares", "window": 10**6, "history": 0, "batch_size": None, "seed": 1}
    given |= {"path": str(folder), "cache": None, "prepare": None}
    return ShardDataModule(**given | changes)
