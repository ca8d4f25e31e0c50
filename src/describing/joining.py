"""From a datamodule to what is described."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from segue.datamodules.pairs.sessions import Sessions
from segue.datamodules.split_datamodule import SplitDataModule
from segue.describing.material import Material, Splits

_REMARKS = ("encoding", "interleaved", "share played", "users")
"""Beginnings of the remarks that say what no number says; shares that are all equal are a warning."""


def material_of(datamodule: SplitDataModule, *, refusal: str | None = None) -> Material:
    """What a datamodule has read.

    Args:
        datamodule: after `setup`, even if that ended with the refusal.
        refusal: why there are no pairs for each split; None where there are.

    Returns:
        The data to be described.
    """
    splits = None
    if refusal is None:
        counts = _counts(datamodule.summary())
        splits = Splits(pairs=datamodule.pairs, vocabulary=datamodule.vocabulary, counts=counts)
    remarks = datamodule.remarks() if refusal is None else []
    return Material(
        catalog=datamodule.catalog,
        sessions=_with_shares(datamodule.sessions),
        reading=datamodule.reading,
        dropped=datamodule.dropped,
        splits=splits,
        refusal=refusal,
        remarks=[line for line in remarks if line.startswith(_REMARKS) and "nothing to predict" not in line],
    )


def _counts(summary: pd.DataFrame) -> Mapping[str, Mapping[str, int | None]]:
    parts = summary.drop(index="all").drop(columns=["dropped", "rejected"], errors="ignore")
    return {
        str(name): {str(key): None if pd.isna(value) else int(value) for key, value in row.items()}
        for name, row in parts.iterrows()
    }


def _with_shares(sessions: Sessions) -> Sessions:
    """The sessions without shares where these are times, which are divided by the longest one only in pairs."""
    listens = sessions.listens
    if not (listens.played_ratio > 1).any():
        return sessions
    unknown = np.full(len(listens.track), np.nan, np.float32)
    return replace(sessions, listens=replace(listens, played_ratio=unknown))
