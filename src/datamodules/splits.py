"""Splits: which sessions or pairs are used for training, validation and test.

S sessions, P pairs.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
from jaxtyping import Int8, Shaped

from segue.datamodules.pairs.pair_rules import PairRules
from segue.datamodules.pairs.sessions import Sessions

SPLITS = ("train", "val", "test")
"""Names of the splits."""
SHARES = (0.8, 0.1, 0.1)
"""Share of the sessions (of the pairs with `split=pair`) in each of SPLITS."""


def parts_of(sessions: Sessions, rules: PairRules) -> Int8[np.ndarray, "_"]:
    """The split of each session or, with `split=pair`, of each of their pairs: its place in SPLITS.

    Raises:
        InputError: the rule does not fit the source; see `PairRules.split_of`.
    """
    kind = rules.split_of(has_clock=sessions.has_clock)
    return split(kind, len(sessions), int(rules.num_pairs(sessions.place).sum()), lambda: sessions.key)


def split(
    kind: str, num_sessions: int, num_pairs: int, keys: Callable[[], Shaped[np.ndarray, "S"]]
) -> Int8[np.ndarray, "_"]:
    """Assign each session to a split or, with `split=pair`, each pair.

    `split=pair` puts pairs of one session into different splits: test data leaks. It exists to repeat the published
    recipe.

    Args:
        kind: `time` or `order` (the earliest sessions train, the latest test), `session` (by a hash of the key of each
            session) or `pair` (at random). All runs divide the same data in the same way.
        num_sessions: number of sessions (S), sorted by time; without a clock, by the rows in which they begin.
        num_pairs: number of their pairs (P).
        keys: gives the key of each session; it is called for `split=session`.

    Returns:
        Place in SPLITS of each of the S sessions, or of the P pairs.
    """
    if kind == "pair":
        return np.random.default_rng(0).permutation(in_shares(num_pairs))
    parts = in_shares(num_sessions)
    if kind == "session":
        hashes = pd.util.hash_array(keys(), hash_key="0" * 16, categorize=False)
        parts[np.argsort(hashes, kind="stable")] = parts.copy()
    return parts


def in_shares(count: int) -> Int8[np.ndarray, "count"]:
    """`count` labels in the order of SPLITS, in the proportions of SHARES.

    Returns:
        Ascending places in SPLITS.
    """
    edges = np.round(np.cumsum(SHARES) * count).astype(int)
    return np.repeat(np.arange(len(SPLITS), dtype=np.int8), np.diff(edges, prepend=0))
