"""Lists that are searched for in blocks of queries, and kept in files, so that memory has few of them.

N tracks of the catalogue, Q queries, K candidates of a list, B queries of a block.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, Real
from numpy.lib.format import open_memmap
from torch import Tensor

from segue.histories import Histories
from segue.models.retrieval.ranks import block_size
from segue.models.retrieval.top import Order, top_k
from segue.runs.recommendations import check_k

NUM_READ = 65_536
"""Lists that are read at once."""
Found = tuple[Int64[np.ndarray, "B K"], Float32[np.ndarray, "B K"]]
"""Rows of the candidates, best first, and their scores."""


@dataclass(frozen=True, eq=False)
class ListSearch:
    """A search for lists that is prepared.

    Args:
        num_queries: number of queries.
        k: length of a list.
        at_once: number of queries that are searched for together.
        find: from places of queries to scores and rows, best first.
        recall: share of the exact lists that was found for a sample, in [0, 1]; None where the lists are exact.
    """

    num_queries: int
    k: int
    at_once: int
    find: Callable[[Int64[np.ndarray, "B"]], tuple[Float[Tensor, "B K"], Int64[Tensor, "B K"]]]
    recall: float | None = None

    def blocks(self) -> Iterator[Found]:
        """Search for all lists, some at a time."""
        for start in range(0, self.num_queries, self.at_once):
            values, rows = self.find(np.arange(start, min(start + self.at_once, self.num_queries)))
            yield rows.cpu().numpy(), values.cpu().numpy()

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
        _fill((rows, scores), self, on_block)
        return rows, scores


def lists_by(
    score: Callable[[Histories], Float[Tensor, "B N"]],
    rows: Int64[np.ndarray, "Q"],
    k: int,
    *,
    order: Real[np.ndarray, "N"],
    decimals: int | None,
) -> ListSearch:
    """Prepare the exact search for the K best candidates of tracks, of which none is its own candidate.

    Args:
        score: scores all tracks after histories of one track.
        rows: of the tracks.
        k: length of a list, 1 <= k < N.
        order: decides between equal scores, the higher value first.
        decimals: of scores; None for scores as they are.

    Raises:
        InputError: `k` is not in [1, N-1].
    """
    check_k(k, len(order))
    own_order = Order.of(order)

    def find(places: Int64[np.ndarray, "B"]) -> tuple[Float[Tensor, "B K"], Int64[Tensor, "B K"]]:
        own = rows[places]
        scores = score(Histories.of_tracks(own))
        scores.scatter_(1, torch.from_numpy(own).to(scores.device)[:, None], -torch.inf)
        return top_k(scores, k, own_order.to(scores.device), decimals=decimals)

    return ListSearch(len(rows), k, block_size(len(order)), find)


def _fill(files: tuple[np.ndarray, np.ndarray], search: ListSearch, on_block: Callable[[int], None]) -> None:
    start = 0
    for found in search.blocks():
        end = start + len(found[0])
        for file, values in zip(files, found, strict=True):
            file[start:end] = values
        on_block(end - start)
        start = end


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
        _fill((self._rows, self._scores), search, on_block)

    def rows(self, queries: Int64[np.ndarray, "n"] | slice = slice(None)) -> Int64[np.ndarray, "n K"]:
        """Read the candidates of some queries into memory, best first; of all by default."""
        return self._rows[queries].astype(np.int64)

    def in_order(self) -> Iterator[Found]:
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
