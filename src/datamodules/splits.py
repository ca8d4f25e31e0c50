"""Splits: which sessions, or which pairs, train, validate and test.

S sessions, P pairs.
"""

import numpy as np
import pandas as pd
from jaxtyping import Int8

from src.datamodules.sessions import Sessions
from src.errors import InputError

SPLITS = ("train", "val", "test")
SHARES = (0.8, 0.1, 0.1)
"""Share of sessions (of pairs for `split=pair`) in each of SPLITS."""


def split_sessions(sessions: Sessions, *, split: str, seed: int) -> Int8[np.ndarray, "S"]:
    """Give each session whole to a place in SPLITS.

    Args:
        sessions: the sessions, in the order of time.
        split: `time` (the earliest train, the last test) or `session` (at random).
        seed: decides `split=session`, through a hash of each session's key.

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
    parts[order] = _in_shares(len(sessions))
    return parts


def split_pairs(num_pairs: int, *, seed: int) -> Int8[np.ndarray, "P"]:
    """Give each pair to a place in SPLITS at random, sessions torn apart: the published recipe, which leaks."""
    return np.random.default_rng(seed).permutation(_in_shares(num_pairs))


def _in_shares(count: int) -> Int8[np.ndarray, "count"]:
    """`count` labels in the order of SPLITS, as many of each as SHARES says."""
    edges = np.round(np.cumsum(SHARES) * count).astype(int)
    return np.repeat(np.arange(len(SPLITS), dtype=np.int8), np.diff(edges, prepend=0))
