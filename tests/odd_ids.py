"""Ids that are texts, and that something may take for something else."""

from dataclasses import replace

import numpy as np

from segue.catalog import Catalog

ODD_IDS = [
    "3f2c1a9e-0b7d-4c55-8f60-1f6a2f0c9d11",
    "track:4uLU6hMCjMI75M1A2tKUQC",
    "a/b", "..", ".", "a?b=1#c", "%41", "a b", "+1", "007", "-1", "1.5", "=1+1", "<script>alert(1)</script>",
    '"quoted"', "back\\slash", "new\nline", "a,b;c", "null", "true", "Abc", "abc",
    "é", "e\u0301",  # the same letter in two normalisations
    "🎵", "ü" * 128, str(2**63),
]  # fmt: skip
"""All differ; no two are the same id."""


def with_texts(catalog: Catalog) -> Catalog:
    """A catalogue whose first ids are odd, and whose others are texts too."""
    ids = np.array([f"track:{track}" for track in catalog.track_ids.tolist()], object)
    odd = ODD_IDS[: len(catalog)]
    ids[: len(odd)] = odd
    return replace(catalog, track_ids=ids)
