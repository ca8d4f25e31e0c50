"""Approximate search over the whole catalogue by inner product, for catalogues where exact search is too slow.

N tracks in the catalogue, Q queries, U distinct queries, K candidates of a list, V width of a vector.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from src.models.retrieval.exact import TIE, Searcher, exact_search, ordered_top_k, search_lists, to_units
from src.recommendations import SCORE_DECIMALS

NUM_SAMPLED = 1000
"""Number of queries that recall is measured on."""

MIN_CELLS_PER_PROBE = 8
"""At most one cell in this many is searched, but at least 8 cells."""

MIN_TRACKS_PER_CANDIDATE = 64
"""At most one track in this many is found by its compressed vector and then scored exactly, but at least 4·K:
vectors in random places of the memory cost more than all of them in order."""


SHARE_MOST_PLAYED = 1 / 128
"""Share of the tracks, the most played ones, that are candidates of every query: where items have biases, they are in
many lists."""
MOST_PLAYED = 8192
"""Largest number of them, except where lists are longer."""
_NUMBERS = 2**22
"""Numbers of vectors that are compared at a time."""


def approximate_top_k(
    *,
    queries: Float[Tensor, "N V"],
    items: Float[Tensor, "N V"],
    query_rows: Int64[Tensor, "Q"],
    k: int,
    plays: Int64[np.ndarray, "N"],
    recall: float,
    on_block: Callable[[int], None] = lambda _: None,
    block: int = 4096,
) -> tuple[Int64[np.ndarray, "Q K"], Float32[np.ndarray, "Q K"], float]:
    """Find nearly the K best candidates for each of the `query_rows`, faster than `top_k`.

    The candidates are divided into cells (an inverted file), and their vectors are compressed to a quarter of a byte
    for each number (product quantization). In the cells nearest to a query the candidates with the best compressed
    vectors are found; they and the most played tracks are scored exactly. The number of cells and of candidates grows
    until the share `recall` of the exact lists is found for a sample of the queries, or until exact search would be as
    fast. A candidate that ties with the last one of an exact list counts as found. Runs on the CPU.

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
    """Build the search with the fewest cells and candidates that reaches the recall `target`, and measure it."""
    index, num_tracks = _index(candidates), len(candidates)
    # candidates are in the order of plays; at least k of them fill the list where the cells hold too few
    num_played = max(k, min(round(SHARE_MOST_PLAYED * num_tracks), MOST_PLAYED))

    def best(vectors: Tensor, num_probes: int, num_found: int) -> tuple[Tensor, Tensor]:
        """The best candidates of queries: their scores and places."""
        index.nprobe = num_probes
        _, found = index.search(_padded(vectors), num_found)
        # ascending, because the lower place wins a tie; -1 and the most played have no place among the found ones
        places = torch.from_numpy(found).sort(1).values
        size = max(1, _NUMBERS // (num_found * vectors.shape[1] + num_played))
        parts = [
            _scored(candidates, of_part, of_places, num_played, k)
            for of_part, of_places in zip(vectors.split(size), places.split(size), strict=True)
        ]
        scores, chosen = zip(*parts, strict=True)
        return torch.cat(scores), torch.cat(chosen)

    sampled = queries[:: max(1, len(queries) // NUM_SAMPLED)][:NUM_SAMPLED]
    exact = torch.cat([values[:, -1:] for _, values, _ in exact_search(candidates, k, sampled, block=64)(sampled)])
    least = exact - TIE * exact.abs().clamp(min=10**SCORE_DECIMALS)
    most_probes = min(max(8, index.nlist // MIN_CELLS_PER_PROBE), index.nlist)
    most_found = min(max(4 * k, num_tracks // MIN_TRACKS_PER_CANDIDATE), num_tracks)
    num_probes, num_found = min(8, most_probes), min(4 * k, most_found)
    while True:
        values, _ = best(sampled, num_probes, num_found)
        recall = float((values >= least).double().mean())
        if recall >= target or (num_probes, num_found) == (most_probes, most_found):
            break
        num_probes, num_found = min(2 * num_probes, most_probes), min(2 * num_found, most_found)

    def search(vectors: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for which in torch.arange(len(vectors)).split(block):
            yield which, *best(vectors[which], num_probes, num_found)

    return search, recall


def _scored(
    candidates: Float[Tensor, "N V"],
    queries: Float[Tensor, "B V"],
    found: Int64[Tensor, "B F"],
    num_played: int,
    k: int,
) -> tuple[Float[Tensor, "B K"], Int64[Tensor, "B K"]]:
    """The best of the most played tracks, which have the first places, and of those found for each query."""
    played = queries @ candidates[:num_played].T
    others = torch.bmm(candidates[found.clamp(min=0)], queries[:, :, None])[:, :, 0]
    others[found < num_played] = -torch.inf  # scored already, or none
    values, chosen = ordered_top_k(to_units(torch.cat([played, others], 1)), k)
    places = torch.cat([torch.arange(num_played).expand(len(queries), -1), found], 1)
    return values, places.gather(1, chosen)


def _index(candidates: Float[Tensor, "N V"]) -> Any:
    """Cells of about √N/4 vectors, and each vector in numbers of four bits for two dimensions."""
    import faiss

    vectors = _padded(candidates)
    width, num_cells = vectors.shape[1], min(round(4 * len(vectors) ** 0.5), len(vectors))
    index = faiss.IndexIVFPQFastScan(
        faiss.IndexFlatIP(width), width, num_cells, width // 2, 4, faiss.METRIC_INNER_PRODUCT
    )
    index.by_residual = False
    for clustering in (index.cp, index.pq.cp):
        clustering.min_points_per_centroid = 1  # it would warn
    index.cp.niter, index.cp.max_points_per_centroid = 10, 64
    index.cp.spherical = True  # otherwise long vectors attract all others into their cells
    index.train(np.resize(vectors, (max(len(vectors), 16), width)))  # the numbers have 16 values
    index.add(vectors)
    return index


def _padded(vectors: Float[Tensor, "N V"]) -> Float32[np.ndarray, "N W"]:
    """An even number of columns, as the index needs."""
    even = torch.nn.functional.pad(vectors.float(), (0, vectors.shape[1] % 2))
    return np.ascontiguousarray(even.numpy())
