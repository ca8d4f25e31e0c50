"""Logs as test data of a model that was trained on others.

N tracks of the model.
"""

from copy import copy
from dataclasses import replace

import numpy as np
from jaxtyping import Int64

from segue.catalog import Catalog, quoted
from segue.datamodules.log_source import LogSource
from segue.datamodules.pair_datamodule import PairDataModule
from segue.datamodules.pairs.pairs_in_splits import pairs_in_splits
from segue.datamodules.splits import SPLITS
from segue.errors import InputError


def as_test_of(read: PairDataModule, catalog: Catalog, plays: Int64[np.ndarray, "N"]) -> PairDataModule:
    """The sessions of logs as test data. Plays of tracks that the model does not know are left out.

    Args:
        read: the logs, after `setup`; no shards.
        catalog: of the model.
        plays: how often each of its tracks was played in training.

    Returns:
        A copy, with the tracks of the model; its `dropped` counts what is left out as `unknown`. Validation has the
            same pairs as the test, and training has none.

    Raises:
        InputError: the model knows none of the tracks, or no pair is left.
    """
    assert read.cut is not None, "shards have other pairs"
    assert isinstance(read.source, LogSource)
    rows, sessions = catalog.rows_of(read.catalog.track_ids), read.cut[0]
    if (rows < 0).all():
        of_read, of_known = (quoted(one.track_ids.item(0)) for one in (read.catalog, catalog))
        raise InputError(
            f"none of the {len(rows):,} tracks in {read.path}, such as {of_read}, is among the {len(catalog):,} of "
            f"the run, such as {of_known}; give logs with the ids of the run, or wait for plays of known tracks"
        )
    cut, _ = sessions.without({"unknown": rows[sessions.listens.track] < 0})
    cut = replace(cut, listens=replace(cut.listens, track=rows[cut.listens.track]))
    rules = replace(read.source.rules, split="auto", cold_share=0.0)  # whole sessions
    parts = np.full(len(cut), SPLITS.index("test"), np.int8)
    data = pairs_in_splits(cut, parts, rules, catalog, read.data.reading)
    if not len(data.pairs["test"]):
        raise InputError(f"no pair of {read.path} has two tracks of the model; give longer logs of its tracks")
    other = copy(read)
    other.data = data = replace(data, pairs={**data.pairs, "val": data.pairs["test"]})
    other.catalog, other.sessions, other.pairs, other.dropped = catalog, data.sessions, data.pairs, data.dropped
    other.vocabulary = replace(data.vocabulary, plays=plays)
    other.new_tracks = data.new_to(other.vocabulary)
    return other
