"""Lists that are searched for in blocks of queries, so that nobody needs all of them in memory.

Q queries, K candidates of a list, B queries of a block.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64, Shaped


class ListBlock(NamedTuple):
    """The lists of some queries.

    Attributes:
        places: which of the queries.
        rows: rows of the candidates, best first.
        scores: their scores.
    """

    places: Int64[np.ndarray, "B"]
    rows: Int64[np.ndarray, "B K"]
    scores: Float32[np.ndarray, "B K"]


@dataclass(frozen=True, eq=False, kw_only=True)
class ListSearch:
    """A search for lists that is prepared. A block depends on its number alone, not on the blocks before it.

    Args:
        num_queries: number of queries; each is in one block.
        k: length of a list.
        num_blocks: number of blocks.
        block: searches for the lists of a block, given its number from 0.
        recall: share of the exact lists that was found for a sample, in [0, 1]; None where the lists are exact.
        plan: arrays by name that were computed to prepare the search, and can prepare it again; None where that is
            nothing.
    """

    num_queries: int
    k: int
    num_blocks: int
    block: Callable[[int], ListBlock]
    recall: float | None = None
    plan: Mapping[str, np.ndarray] | None = None

    def collect(
        self, on_block: Callable[[int], None] = lambda _: None
    ) -> tuple[Int64[np.ndarray, "Q K"], Float32[np.ndarray, "Q K"]]:
        """Search for all lists.

        Args:
            on_block: called with the number of queries done after each block.

        Returns:
            Rows of the candidates of each query, best first, and their scores.
        """
        rows = np.empty((self.num_queries, self.k), np.int64)
        scores = np.empty((self.num_queries, self.k), np.float32)
        for nth in range(self.num_blocks):
            found = self.block(nth)
            rows[found.places], scores[found.places] = found.rows, found.scores
            on_block(len(found.places))
        return rows, scores


def digest_of_arrays(*arrays: Shaped[np.ndarray, "..."]) -> str:
    """Compute a digest of the types, shapes and values of arrays.

    Args:
        arrays: the arrays.

    Returns:
        Thirty-two hexadecimal digits.
    """
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(f"{array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
