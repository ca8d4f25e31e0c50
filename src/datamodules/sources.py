"""What `conf/datamodule` builds: the datamodule of logs, and that of the shards which `prepare.py` made of logs."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from segue.catalog import Vocabulary, example_vocabulary
from segue.datamodules.log_source import LogSource
from segue.datamodules.pair_datamodule import PairDataModule
from segue.datamodules.shard_source import ShardSource
from segue.datamodules.shards.tracks import VOCABULARY
from segue.settings import settings

ADJUSTED = ("history", "half_life", "whole_sessions", "batch_size")
"""Settings of `PairDataModule.adjust`, on which the pairs do not depend."""
OF_A_RUN = (*ADJUSTED, "seed")
"""Settings of `PairDataModule`; the others are those of its source."""


@settings("datamodule", PairDataModule, LogSource)
def from_logs(**given: Any) -> PairDataModule:
    """Pairs of event logs or playlists, which are made in memory.

    Args:
        given: the settings of `PairDataModule` and of `LogSource`.
    """
    return _pairs_of(LogSource, given)


@settings("datamodule", PairDataModule, ShardSource)
def from_shards(**given: Any) -> PairDataModule:
    """Pairs that `prepare.py` has made, mapped from its files.

    Args:
        given: the settings of `PairDataModule` and of `ShardSource`.
    """
    return _pairs_of(ShardSource, given)


def _pairs_of(source: Callable[..., Any], given: dict[str, Any]) -> PairDataModule:
    own = {name: given.pop(name) for name in OF_A_RUN if name in given}
    return PairDataModule(source=source(**given), **own)


def example_of(config: Any) -> Vocabulary:
    """A vocabulary to try settings with, before the source is read: with the attributes that its tracks have.

    Args:
        config: `datamodule` of a config.
    """
    known: Any = config.get("attributes") or ()
    if "recipe" in config:  # of shards
        try:
            known = json.loads(Path(str(config.path), VOCABULARY).read_text(encoding="utf-8"))["attributes"]
        except (OSError, ValueError, KeyError):
            known = ()  # `setup` says what is wrong
    return example_vocabulary(known)


def source_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a source that are not those of a run."""
    return {name: value for name, value in config.items() if name not in (*OF_A_RUN, "rejected_path")}
