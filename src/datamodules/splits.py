"""Splits: which sessions or pairs are used for training, validation and test.

S sessions, P pairs.
"""

import numpy as np
import pandas as pd
from jaxtyping import Int8

from segue.datamodules.pairs.sessions import Sessions
from segue.errors import InputError

SPLITS = ("train", "val", "test")
"""Names of the splits."""
SHARES = (0.8, 0.1, 0.1)
"""Share of the sessions (of the pairs with `split=pair`) in each of SPLITS."""


def split_sessions(sessions: Sessions, *, split: str, seed: int) -> Int8[np.ndarray, "S"]:
    """Assign each session to a split.

    Args:
        sessions: the sessions, sorted by time.
        split: `time` (the earliest sessions train, the latest test) or `session` (at random).
        seed: seed of `split=session`; it enters a hash of the key of each session.

    Returns:
        Place of the split of each session in SPLITS.

    Raises:
        InputError: `split=time` for a source without a clock.
    """
    if split == "time" and not sessions.has_clock:
        raise InputError("split=time needs timestamps, and this source has none; use datamodule.split=session")
    order = np.arange(len(sessions))
    if split == "session":
        hashes = pd.util.hash_array(sessions.key, hash_key=f"{seed:016d}", categorize=False)
        order = np.argsort(hashes, kind="stable")
    parts = np.empty(len(sessions), np.int8)
    parts[order] = in_shares(len(sessions))
    return parts


def split_pairs(num_pairs: int, *, seed: int) -> Int8[np.ndarray, "P"]:
    """Assign each pair to a split at random. Pairs of one session get into different splits: test data leaks.

    It exists to repeat the published recipe.

    Args:
        num_pairs: number of pairs (P).
        seed: seed of the random numbers.

    Returns:
        Place of the split of each pair in SPLITS.
    """
    return np.random.default_rng(seed).permutation(in_shares(num_pairs))


def in_shares(count: int) -> Int8[np.ndarray, "count"]:
    """`count` labels in the order of SPLITS, in the proportions of SHARES.

    Args:
        count: how many.

    Returns:
        Ascending places in SPLITS.
    """
    edges = np.round(np.cumsum(SHARES) * count).astype(int)
    return np.repeat(np.arange(len(SPLITS), dtype=np.int8), np.diff(edges, prepend=0))
