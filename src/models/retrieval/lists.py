"""Lists that are searched for in blocks of queries, and kept in files, so that memory has few of them.

N tracks of the catalogue, Q queries, K candidates of a list, B queries of a block.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64, Shaped
from numpy.lib.format import open_memmap

NUM_READ = 65_536
"""Lists that are read at once."""


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
    """

    num_queries: int
    k: int
    num_blocks: int
    block: Callable[[int], ListBlock]
    recall: float | None = None

    def collect(
        self, on_block: Callable[[int], None] = lambda _: None
    ) -> tuple[Int64[np.ndarray, "Q K"], Float32[np.ndarray, "Q K"]]:
        """Search for all lists.

        Args:
            on_block: called with the number of queries done after each block.

        Returns:
            Rows of the candidates of each query, best first, and their scores.
        """
        rows, scores = (np.empty((self.num_queries, self.k), kind) for kind in (np.int64, np.float32))
        for nth in range(self.num_blocks):
            found = self.block(nth)
            rows[found.places], scores[found.places] = found.rows, found.scores
            on_block(len(found.places))
        return rows, scores


def digest_of_arrays(*arrays: Shaped[np.ndarray, "..."]) -> str:
    """Compute a digest of the types, shapes and values of arrays.

    Returns:
        Thirty-two hexadecimal digits.
    """
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(f"{array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


class KeptLists:
    """The lists of a search in files that are mapped, therefore memory has few of them at a time.

    Args:
        folder: of the files, until `remove`.
        search: the search for the lists.
        on_block: called with the number of lists done after each block.
    """

    def __init__(self, folder: Path, search: ListSearch, on_block: Callable[[int], None]) -> None:
        self._folder = folder
        self.remove()
        folder.mkdir(parents=True)
        self._rows, self._scores = (
            open_memmap(folder / f"{name}.npy", "w+", kind, (search.num_queries, search.k))
            for name, kind in (("rows", np.int32), ("scores", np.float32))
        )
        for nth in range(search.num_blocks):
            found = search.block(nth)
            self._rows[found.places], self._scores[found.places] = found.rows, found.scores
            on_block(len(found.places))

    def rows(self, queries: Int64[np.ndarray, "n"] | slice = slice(None)) -> Int64[np.ndarray, "n K"]:
        """Read the candidates of some queries into memory, best first; of all by default."""
        return self._rows[queries].astype(np.int64)

    def in_order(self) -> Iterator[tuple[Int64[np.ndarray, "B K"], Float32[np.ndarray, "B K"]]]:
        """Read all lists in the order of the catalogue, some at a time.

        Yields:
            Rows of the candidates, best first, and their scores.
        """
        for start in range(0, len(self._rows), NUM_READ):
            some = slice(start, start + NUM_READ)
            yield self.rows(some), np.array(self._scores[some])

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self._folder, ignore_errors=True)
