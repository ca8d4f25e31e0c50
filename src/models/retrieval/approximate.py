"""Approximate search over the whole catalogue by inner product, for catalogues where exact search is too slow.

N tracks in the catalogue, Q queries, U distinct queries, K candidates of a list, V width of a vector.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from src.models.retrieval.exact import TIE, Searcher, best_of_groups, exact_search, search_lists
from src.recommendations import SCORE_DECIMALS

NUM_SAMPLED = 1000
"""Number of queries that recall is measured on."""

MIN_CELLS_PER_PROBE = 8
"""At most one cell in this many is searched, but at least 8 cells."""


SHARE_MOST_PLAYED = 1 / 128
"""Share of the tracks, the most played ones, that are candidates of every query: where items have biases, they are in
many lists."""


def approximate_top_k(
    *,
    queries: Float[Tensor, "N V"],
    items: Float[Tensor, "N V"],
    query_rows: Int64[Tensor, "Q"],
    k: int,
    plays: Int64[np.ndarray, "N"],
    recall: float,
    on_block: Callable[[int], None] = lambda _: None,
    block: int = 512,
) -> tuple[Int64[np.ndarray, "Q K"], Float32[np.ndarray, "Q K"], float]:
    """Find nearly the K best candidates for each of the `query_rows`, faster than `top_k`.

    The candidates are divided into cells (an inverted file). Queries with the same nearest cell are a group and are
    searched together: only candidates in the cells nearest to the mean of the group are scored, and the most played.
    The number of cells that are searched grows until the share `recall` of the exact lists is found for a sample of the
    queries, or until exact search would be as fast. A candidate that ties with the last one of an exact list counts as
    found. Runs on the CPU.

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
        search, share = _tuned_search(candidates, num, distinct, recall, block)
        measured_recall.append(share)
        return search

    result = search_lists(queries.cpu(), items.cpu(), query_rows.cpu(), k, plays, on_block, build_search)
    return *result, measured_recall[0]


def _tuned_search(
    candidates: Float[Tensor, "N V"], k: int, queries: Float[Tensor, "U V"], target: float, block: int
) -> tuple[Searcher, float]:
    """Build the search with the fewest cells that reaches the recall `target`, and measure its recall."""
    # candidates are in the order of plays; at least k of them fill the list where the cells hold too few
    most_played = torch.arange(max(k, round(SHARE_MOST_PLAYED * len(candidates))))
    centroids = _centroids(candidates)
    cell_of, group_of = _nearest(candidates, centroids), _nearest(queries, centroids)
    in_cell = cell_of.argsort(stable=True).split(torch.bincount(cell_of, minlength=len(centroids)).tolist())
    groups = group_of.argsort(stable=True).split(torch.bincount(group_of, minlength=len(centroids)).tolist())
    blocks = [part for group in groups if len(group) for part in group.split(block)]
    means = torch.stack([queries[part].mean(0) for part in blocks])

    def best(nth: int, which: Tensor, num_probes: int) -> tuple[Tensor, Tensor]:
        """The best candidates of some queries of block `nth`."""
        near = (centroids @ means[nth]).topk(num_probes).indices
        places = torch.cat([most_played, *(in_cell[cell] for cell in near.tolist())]).unique()
        group = min(32, max(1, len(places) // k))
        scores = torch.full((len(which), -(-len(places) // group) * group), -torch.inf)
        torch.mm(queries[which], candidates[places].T, out=scores[:, : len(places)])
        values, found = best_of_groups(scores.view(len(which), -1, group), k)
        return values, places[found]

    sample = torch.arange(len(queries))[:: max(1, len(queries) // NUM_SAMPLED)][:NUM_SAMPLED]
    of_sample = [(nth, part[torch.isin(part, sample)]) for nth, part in enumerate(blocks)]
    of_sample = [(nth, part) for nth, part in of_sample if len(part)]
    sampled = queries[torch.cat([part for _, part in of_sample])]
    exact = torch.cat([values[:, -1:] for _, values, _ in exact_search(candidates, k, sampled, block=64)(sampled)])
    thresholds = (exact - TIE * exact.abs().clamp(min=10**SCORE_DECIMALS)).split([len(part) for _, part in of_sample])
    num_probes, most = min(8, len(centroids)), max(8, len(centroids) // MIN_CELLS_PER_PROBE)
    while True:
        hits = [
            (best(nth, part, num_probes)[0] >= least).double().mean(1)
            for (nth, part), least in zip(of_sample, thresholds, strict=True)
        ]
        recall = float(torch.cat(hits).mean())
        if recall >= target or num_probes >= min(most, len(centroids)):
            break
        num_probes = min(2 * num_probes, most)

    def search(_: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for nth, part in enumerate(blocks):
            yield part, *best(nth, part, num_probes)

    return search, recall


def _centroids(vectors: Float[Tensor, "N V"]) -> Float[Tensor, "C V"]:
    """Centres of cells of about √N/4 vectors. Spherical: otherwise long vectors attract all others into their cells."""
    import faiss

    num_cells = min(round(4 * len(vectors) ** 0.5), len(vectors))
    settings = {"niter": 10, "min_points_per_centroid": 1, "max_points_per_centroid": 64, "spherical": True}
    clustering = faiss.Kmeans(vectors.shape[1], num_cells, **settings)
    clustering.train(vectors.numpy())
    return torch.from_numpy(clustering.centroids)


def _nearest(vectors: Float[Tensor, "N V"], centroids: Float[Tensor, "C V"]) -> Int64[Tensor, "N"]:
    return torch.cat([(part @ centroids.T).argmax(1) for part in vectors.split(4096)])
