"""From a datamodule to what is described."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from segue.datamodules.describing.material import Material, Splits
from segue.datamodules.describing.measures import measure
from segue.datamodules.pairs.sessions import Sessions
from segue.datamodules.split_datamodule import SplitDataModule

_MAX_QUERIES = 50_000
"""Test queries that are ranked by plays for the profile of a run."""
_MAX_PLAYS = 30_000_000
"""Data with more plays have no profile: measuring them takes much memory."""
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


def profile_of(datamodule: SplitDataModule) -> dict[str, Any]:
    """What `describe.py` measures, under the name `description`; no play of anybody; nothing for very large data."""
    if len(datamodule.sessions.listens.track) > _MAX_PLAYS:
        return {}
    facts = measure(material_of(datamodule), max_test_queries=_MAX_QUERIES, num_sessions=0, num_plays=0)
    return {"description": facts.profile()}


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
