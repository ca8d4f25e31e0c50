"""Lists that are searched for in blocks of queries, so that memory has few scores.

N tracks of the catalogue, Q queries, K candidates of a list, B queries of a block.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, Real
from torch import Tensor

from segue.histories import Histories
from segue.models.retrieval.ranks import block_size
from segue.models.retrieval.top import Order, top_k
from segue.runs.recommendations import check_k


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
