"""Nearly the best candidates of tracks, by the inverted file of faiss: for catalogues in which exact search is slow.

N tracks in the catalogue, Q queries, K candidates of a list, V width of a vector, B queries of a block, C candidates.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, Real
from torch import Tensor

from segue.catalog import most_played
from segue.models.retrieval.lists import ListSearch
from segue.models.retrieval.ranks import TIE
from segue.models.retrieval.top import top_k
from segue.picking.counted_scores import added
from segue.runs.counted_part import CountedPart
from segue.runs.recommendations import SCORE_DECIMALS

NUM_SAMPLED = 1000
"""Number of queries that the recall of an approximate search is measured on."""
CELLS_PER_ROOT = 2
"""Cells of the inverted file, times the root of the number of tracks."""
LEAST_CELLS, CELLS_PER_PROBE = 8, 8
"""At least so many cells are searched for a query, and at most one in so many."""
SHARE_MOST_PLAYED, LARGEST_MOST_PLAYED = 1 / 128, 8192
"""Share of the tracks, the most played ones, that are candidates of every query, and their largest number: where items
have biases, they are in many lists."""


def near_lists(
    exact: ListSearch,
    queries: Float[Tensor, "N V"],
    items: Float[Tensor, "N V"],
    rows: Int64[np.ndarray, "Q"] | None,
    *,
    plays: Real[np.ndarray, "N"],
    part: CountedPart | None,
    recall: float,
) -> ListSearch:
    """Prepare the search for nearly the K best candidates of tracks.

    The candidates are divided into cells, and only those of the cells nearest to a query are scored, the most played,
    and what was counted after the track. The number of cells that are searched grows until the share `recall` of the
    exact lists is found for a sample of the queries, or until exact search would be as fast. A candidate that ties with
    the last one of an exact list counts as found. This runs on the CPU.

    Args:
        exact: the search for the same lists that is exact.
        queries: query vector of every track.
        items: item vector of every track.
        rows: of the tracks; None for all.
        plays: popularity of every track.
        part: what is counted and added to products; None for nothing.
        recall: share of the exact lists to aim at, in (0, 1].

    Returns:
        The search, with the recall of the sample.
    """
    order, k = torch.from_numpy(most_played(plays)), exact.k
    queries, items = queries.cpu(), items.cpu()
    if part is not None:  # a column more, for the tracks of which nothing was counted
        columns = added(part.shares_of_uncounted, part.strength), part.is_uncounted.astype(np.float32)
        of_query, of_item = (torch.from_numpy(one)[:, None] for one in columns)
        queries, items = torch.cat([queries, of_query], 1), torch.cat([items, of_item], 1)
    candidates = items[order]  # in the order that decides ties
    index, num_cells = _inverted_file(candidates)
    num_most = min(len(candidates), max(k + 1, min(round(SHARE_MOST_PLAYED * len(plays)), LARGEST_MOST_PLAYED)))
    place_of = torch.cat([order.argsort(), torch.tensor([-1])])  # the last one is for the row -1
    own_rows = np.arange(len(plays)) if rows is None else rows

    def find(places: Int64[np.ndarray, "B"]) -> tuple[Float[Tensor, "B K"], Int64[Tensor, "B K"]]:
        own = own_rows[places]
        vectors = queries[torch.from_numpy(own)]
        _, most = (vectors @ candidates[:num_most].T).topk(min(k + 1, num_most), dim=1)
        of_cells = torch.from_numpy(index.search(vectors.numpy(), k + 1)[1])
        of_counts = torch.full((len(own), 0), -1) if part is None else place_of[torch.from_numpy(part.rows[own]).long()]
        values = vectors.new_zeros(len(own), of_counts.shape[1] + most.shape[1] + of_cells.shape[1])
        if part is not None:
            values[:, : of_counts.shape[1]] = torch.from_numpy(added(part.shares[own], part.strength))
        # of one that is there twice the first one stays, which has what is counted
        found, first = torch.cat([of_counts, most, of_cells], 1).sort(dim=1, stable=True)
        values = values.gather(1, first) + torch.einsum("bv,bcv->bc", vectors, candidates[found.clamp(min=0)])
        values[(found < 0) | (found == place_of[torch.from_numpy(own)][:, None])] = -torch.inf
        values[:, 1:][found[:, 1:] == found[:, :-1]] = -torch.inf
        values, best = top_k(values, k, decimals=SCORE_DECIMALS)
        return values, order[found.gather(1, best).clamp(min=0)]

    sample = np.arange(0, len(own_rows), max(1, len(own_rows) // NUM_SAMPLED))[:NUM_SAMPLED]
    blocks = np.array_split(sample, -(-len(sample) // exact.at_once))
    last = torch.cat([exact.find(some)[0].cpu()[:, -1:] for some in blocks])
    least, most_cells = last - TIE * last.abs().clamp(min=1), max(LEAST_CELLS, num_cells // CELLS_PER_PROBE)
    index.nprobe = LEAST_CELLS
    while (share := float(find(sample)[0].ge(least).double().mean())) < recall and index.nprobe < most_cells:
        index.nprobe = min(2 * index.nprobe, most_cells)
    return replace(exact, find=find, at_once=512, recall=share)


def _inverted_file(candidates: Float[Tensor, "N V"]) -> tuple[Any, int]:
    """An index of candidates, and the number of its cells."""
    import faiss

    vectors = np.ascontiguousarray(candidates.numpy())
    num_cells = min(round(CELLS_PER_ROOT * len(vectors) ** 0.5), len(vectors))
    index: Any = faiss.index_factory(vectors.shape[1], f"IVF{num_cells},Flat", faiss.METRIC_INNER_PRODUCT)
    index.cp.niter, index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 10, 1, 64
    index.cp.spherical = True  # otherwise long vectors attract all others
    index.train(vectors)
    index.add(vectors)
    return index, num_cells
