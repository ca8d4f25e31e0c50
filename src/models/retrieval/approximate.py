"""Approximate search over the whole catalogue by inner product, for catalogues where exact search is too slow.

N tracks in the catalogue, Q queries, U distinct queries, K candidates of a list, V width of a vector.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from src.models.retrieval.exact import TIE, Searcher, exact_search, ordered_top_k, search_lists, to_units
from src.recommendations import SCORE_DECIMALS

NUM_SAMPLED = 1000
"""Number of queries that recall is measured on."""

MIN_CELLS_PER_PROBE = 32
"""At most one cell in this many is searched. With more cells, exact search by a matrix product is faster."""


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
    """Find nearly the K best candidates for each of the `query_rows`, faster than `top_k`.

    The candidates are divided into cells (an inverted file). Only candidates in the cells nearest to the query are
    scored, and the K most played. The number of cells that are searched grows until the share `recall` of the exact
    lists is found for a sample of the queries, or until exact search would be as fast. A candidate that ties with the
    last one of an exact list counts as found. Runs on the CPU.

    Args:
        queries: query vector of every track.
        items: candidate vector of every track.
        query_rows: rows to build lists for.
        k: length of each list, 1 <= k < N.
        plays: popularity of every track.
        recall: share of the exact lists to aim at, in (0, 1].
        on_block: called with the number of queries done after each block.
        block: number of queries searched at once.

    Returns:
        Rows of the candidates, best first, their scores, and the share of the exact lists that was found in the sample,
            in [0, 1].

    Raises:
        InputError: `k` is not in [1, N-1], or a vector is not finite.
    """
    measured_recall = []

    def build_search(candidates: Tensor, num: int, distinct: Tensor) -> Searcher:
        search, share = _tuned_search(candidates, num, distinct, recall)
        measured_recall.append(share)
        return search

    result = search_lists(queries.cpu(), items.cpu(), query_rows.cpu(), k, plays, on_block, block, build_search)
    return *result, measured_recall[0]


def _tuned_search(candidates: Tensor, k: int, queries: Tensor, target: float) -> tuple[Searcher, float]:
    """Build the search with the fewest cells that reaches the recall `target`, and measure its recall."""
    import faiss

    num_cells = min(round(4 * len(candidates) ** 0.5), len(candidates))
    index = faiss.IndexIVFFlat(
        faiss.IndexFlatIP(candidates.shape[1]), candidates.shape[1], num_cells, faiss.METRIC_INNER_PRODUCT
    )
    index.cp.spherical = True  # otherwise long vectors attract all others into their cells
    index.cp.niter, index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 10, 1, 64
    index.train(candidates.numpy())
    index.add(candidates.numpy())
    # candidates are in the order of plays: the most played fill the list where the cells hold too few
    most_played = torch.arange(k)

    def search(chunk: Tensor) -> tuple[Tensor, Tensor]:
        in_cells = torch.from_numpy(index.search(chunk.numpy(), k)[1])
        places = torch.cat([in_cells, most_played.expand(len(chunk), -1)], dim=1).sort(dim=1).values
        scores = to_units(torch.bmm(candidates[places.clamp(min=0)], chunk[:, :, None])[:, :, 0])
        is_duplicate = torch.zeros_like(places, dtype=torch.bool)
        is_duplicate[:, 1:] = places[:, 1:] == places[:, :-1]
        values, best = ordered_top_k(scores.masked_fill_(is_duplicate | (places < 0), -torch.inf), k)
        return values, places.gather(1, best)

    sample = queries[:: max(1, len(queries) // NUM_SAMPLED)][:NUM_SAMPLED].split(256)
    exact = exact_search(candidates, k, queries, block=256)
    last_scores = [exact(chunk)[0][:, -1:] for chunk in sample]
    thresholds = [score - TIE * score.abs().clamp(min=10**SCORE_DECIMALS) for score in last_scores]
    index.nprobe = min(8, num_cells)
    max_probes = max(8, num_cells // MIN_CELLS_PER_PROBE)
    while True:
        hits = [(search(chunk)[0] >= least).double().mean(1) for chunk, least in zip(sample, thresholds, strict=True)]
        recall = float(torch.cat(hits).mean())
        if recall >= target or index.nprobe >= min(max_probes, num_cells):
            return search, recall
        index.nprobe = min(2 * index.nprobe, max_probes)
