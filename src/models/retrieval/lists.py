"""Lists that are searched for in blocks of queries, so that memory has few scores.

N tracks of the catalogue, Q queries, K candidates of a list, B queries of a block.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int64
from torch import Tensor


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

    def collect(
        self, on_block: Callable[[int], None] = lambda _: None
    ) -> tuple[Int64[np.ndarray, "Q K"], Float32[np.ndarray, "Q K"]]:
        """Search for all lists, some at a time.

        Args:
            on_block: called with the number of queries of each block when it is done.

        Returns:
            Rows of the candidates of each query, best first, and their scores.
        """
        shape = self.num_queries, self.k
        rows, scores = np.empty(shape, np.int64), np.empty(shape, np.float32)
        for start in range(0, self.num_queries, self.at_once):
            some = np.arange(start, min(start + self.at_once, self.num_queries))
            values, places = self.find(some)
            rows[some], scores[some] = places.cpu().numpy(), values.cpu().numpy()
            on_block(len(some))
        return rows, scores
