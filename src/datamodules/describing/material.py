"""What is described: the data of a datamodule, or as much of them as could be built.

S sessions, E events, L listeners, N tracks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from segue.catalog import Catalog, Vocabulary
from segue.datamodules.pairs.pairs import Pairs
from segue.datamodules.pairs.sessions import Sessions
from segue.datamodules.reading.table import Reading
from segue.datamodules.split_datamodule import SplitDataModule

_REMARKS = ("encoding", "interleaved", "share played", "users")
"""Beginnings of the remarks that say what no number says; shares that are all equal are a warning."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Material:
    """A source as it was read.

    Args:
        catalog: its tracks.
        sessions: its sessions.
        reading: what became of its rows.
        dropped: number of events that each policy left out.
        pairs: its pairs by the name of the split; none where there are too few for every split.
        vocabulary: what the training pairs show; None without pairs.
        counts: the content of each split, by its name: numbers of events, sessions, pairs, tracks, artists.
        refusal: why there are no pairs; None where there are.
        remarks: what the datamodule reports beside its numbers.
    """

    catalog: Catalog
    sessions: Sessions
    reading: Reading
    dropped: Mapping[str, int]
    pairs: Mapping[str, Pairs] = field(default_factory=dict)
    vocabulary: Vocabulary | None = None
    counts: Mapping[str, Mapping[str, int | None]] | None = None
    refusal: str | None = None
    remarks: Sequence[str] = ()


def material_of(datamodule: SplitDataModule, *, refusal: str | None = None) -> Material:
    """What a datamodule has read.

    Args:
        datamodule: after `setup`, even if that ended with the refusal.
        refusal: why there are no pairs for each split; None where there are.

    Returns:
        The data to be described.
    """
    sessions = datamodule.sessions
    if (sessions.listens.played_ratio > 1).any():  # times, which are divided by the longest one only in pairs
        unknown = np.full(len(sessions.listens.track), np.nan, np.float32)
        sessions = replace(sessions, listens=replace(sessions.listens, played_ratio=unknown))
    material = Material(
        catalog=datamodule.catalog,
        sessions=sessions,
        reading=datamodule.reading,
        dropped=datamodule.dropped,
        refusal=refusal,
    )
    if refusal is not None:
        return material
    counts = {
        str(name): {str(key): None if pd.isna(value) else int(value) for key, value in row.items()}
        for name, row in datamodule.summary().drop(index="all", columns="rejected").iterrows()
    }
    remarks = [line for line in datamodule.remarks() if line.startswith(_REMARKS) and "nothing to predict" not in line]
    return replace(material, pairs=datamodule.pairs, vocabulary=datamodule.vocabulary, counts=counts, remarks=remarks)
