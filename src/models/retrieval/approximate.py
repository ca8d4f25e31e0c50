"""Approximate search over the whole catalogue by inner product, where exact search would take too long.

N tracks in the catalogue, Q queries, U of them that differ, K candidates kept, V width of a vector.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from src.models.retrieval.exact import TIE, Searcher, best_first, exact_search, lists, rounded
from src.recommendations import SCORE_DECIMALS

NUM_SAMPLED = 1000
"""Queries that recall is measured on."""

MOST_OF_CELLS = 32
"""One cell in so many is looked into at most: scored one by one, more take longer than all by a matrix product."""


def approximate_top_k(
    *,
    queries: Float[Tensor, "N V"],
    items: Float[Tensor, "N V"],
    query_rows: Int64[Tensor, "Q"],
    k: int,
    plays: Int64[np.ndarray, "N"],
    recall: float,
    on_block: Callable[[int], None] = lambda _: None,
    block: int = 1024,
) -> tuple[Int64[np.ndarray, "Q K"], Float32[np.ndarray, "Q K"], float]:
    """Nearly the K best candidates for each of the `query_rows`, and the share of the best that was found, 0 to 1.

    As `top_k`, from an inverted file: candidates lie in cells, and only those in the cells nearest to the query are
    scored, and the most played. As many cells are looked into as it takes to find the share `recall` of the exact
    lists of a sample of the queries, but no more than exact search would take the time of; the share that is returned
    is of this sample. A candidate that ties with the last one of an exact list counts as found. Runs on the CPU.

    Args:
        queries: query vector of every track.
        items: candidate vector of every track.
        query_rows: the rows to make lists for.
        k: length of each list, 1 <= k < N.
        plays: popularity of every track.
        recall: share of the exact lists to aim at, in (0, 1].
        on_block: called with the number of queries done after each block.
        block: queries searched at once.

    Raises:
        InputError: `k` does not lie in [1, N-1], or a vector is not finite.
    """
    measured = []

    def search_among(candidates: Tensor, num: int, distinct: Tensor) -> Searcher:
        search, found = _tuned(candidates, num, distinct, recall)
        measured.append(found)
        return search

    found = lists(queries.cpu(), items.cpu(), query_rows.cpu(), k, plays, on_block, block, search_among)
    return *found, measured[0]


def _tuned(candidates: Tensor, k: int, queries: Tensor, wanted: float) -> tuple[Searcher, float]:
    """A search that looks into as few cells as `wanted` allows, and its recall."""
    import faiss

    num_cells = min(round(4 * len(candidates) ** 0.5), len(candidates))
    index = faiss.IndexIVFFlat(
        faiss.IndexFlatIP(candidates.shape[1]), candidates.shape[1], num_cells, faiss.METRIC_INNER_PRODUCT
    )
    index.cp.spherical = True  # else long vectors draw all others into their cells
    index.cp.niter, index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 10, 1, 64
    index.train(candidates.numpy())
    index.add(candidates.numpy())
    # the most played, who come first, fill up where too little lies in the cells
    most_played = torch.arange(k)

    def search(chunk: Tensor) -> tuple[Tensor, Tensor]:
        found = torch.from_numpy(index.search(chunk.numpy(), k)[1])
        places = torch.cat([found, most_played.expand(len(chunk), -1)], dim=1).sort(dim=1).values
        scores = rounded(torch.bmm(candidates[places.clamp(min=0)], chunk[:, :, None])[:, :, 0])
        twice = torch.zeros_like(places, dtype=torch.bool)
        twice[:, 1:] = places[:, 1:] == places[:, :-1]
        values, best = best_first(scores.masked_fill_(twice | (places < 0), -torch.inf), k)
        return values, places.gather(1, best)

    sample = queries[:: max(1, len(queries) // NUM_SAMPLED)][:NUM_SAMPLED].split(256)
    exact = exact_search(candidates, k, queries, block=256)
    last = [exact(chunk)[0][:, -1:] for chunk in sample]
    edges = [score - TIE * score.abs().clamp(min=10**SCORE_DECIMALS) for score in last]
    index.nprobe = min(8, num_cells)
    most_cells = max(8, num_cells // MOST_OF_CELLS)
    while True:
        hits = [(search(chunk)[0] >= edge).double().mean(1) for chunk, edge in zip(sample, edges, strict=True)]
        found = float(torch.cat(hits).mean())
        if found >= wanted or index.nprobe >= min(most_cells, num_cells):
            return search, found
        index.nprobe = min(2 * index.nprobe, most_cells)
