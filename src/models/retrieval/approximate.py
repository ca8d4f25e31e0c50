"""Approximate search over the whole catalogue by inner product, for catalogues where exact search is too slow.

N tracks in the catalogue, Q queries, U distinct queries, K candidates of a list, V width of a vector, C cells in R
regions.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int32, Int64
from torch import Tensor

from segue.models.retrieval.exact import Searcher, best_of_groups, exact_search, search_lists
from segue.models.retrieval.lists import ListSearch
from segue.models.retrieval.ranks import TIE
from segue.runs.recommendations import SCORE_DECIMALS

NUM_SAMPLED = 1000
"""Number of queries that recall is measured on."""

MIN_CELLS_PER_PROBE = 8
"""At most one cell in this many is searched, but at least 8 cells."""

LARGEST_CELL = 150
"""Vectors of a cell, at most, on average. Cells of small catalogues have √N/4."""

NEAR_REGIONS = 8
"""The nearest cell of a vector is looked for in so many regions."""

SHORTLIST = 16
"""Cells are chosen among so many times as many, which are nearest to the mean of the queries."""

SHARE_MOST_PLAYED, LARGEST_MOST_PLAYED = 1 / 128, 8192
"""Share of the tracks, the most played ones, that are candidates of every query, and their largest number: where items
have biases, they are in many lists."""


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
    """Find nearly the K best candidates for each of the `query_rows`, faster than `top_k`; see `approximate_lists`.

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
    search = approximate_lists(
        queries=queries, items=items, query_rows=query_rows, k=k, plays=plays, recall=recall, plan=None, block=block
    )
    assert search.recall is not None
    return *search.collect(on_block), search.recall


def approximate_lists(
    *,
    queries: Float[Tensor, "N V"],
    items: Float[Tensor, "N V"],
    query_rows: Int64[Tensor, "Q"],
    k: int,
    plays: Int64[np.ndarray, "N"],
    recall: float,
    plan: Mapping[str, np.ndarray] | None,
    block: int = 512,
) -> ListSearch:
    """Prepare a search for nearly the K best candidates for each of the `query_rows`.

    The candidates are divided into cells (an inverted file): by k-means into regions, and each region into cells, so
    that the nearest cell of a vector is found without a comparison with all of them. Queries with the same nearest cell
    are a group and are searched together: only candidates in the cells nearest to any of them are scored, and the most
    played. The number of cells that are searched grows until the share `recall` of the exact lists is found for a
    sample of the queries, or until exact search would be as fast. A candidate that ties with the last one of an exact
    list counts as found. Runs on the CPU.

    Args:
        queries: query vector of every track.
        items: candidate vector of every track.
        query_rows: rows to build lists for.
        k: length of each list, 1 <= k < N.
        plays: popularity of every track.
        recall: share of the exact lists to aim at, in (0, 1].
        plan: that of an earlier search with the same arguments: its cells, and how many are searched; None to compute
            them.
        block: number of queries searched at once.

    Returns:
        The search, with the recall of the sample and its plan.

    Raises:
        InputError: `k` is not in [1, N-1], or a vector is not finite.
    """

    def build_search(candidates: Tensor, num: int, distinct: Tensor) -> Searcher:
        division = _divide(candidates, distinct) if plan is None else _Division.of(plan)
        cells = _Cells(candidates, num, distinct, division, block)
        if plan is None:
            cells.tune(recall)
        return cells.searcher()

    return search_lists(queries.cpu(), items.cpu(), query_rows.cpu(), k, plays, build_search)


@dataclass(eq=False)
class _Division:
    """Cells of candidates and groups of queries, and how many cells are searched for each group.

    Args:
        centroids: centres of the cells.
        cell_of: cell of each candidate.
        group_of: the cell that is nearest to each query.
        num_probes: number of cells that are searched.
        recall: share of the exact lists that this finds in the sample.
    """

    centroids: Float32[Tensor, "C V"]
    cell_of: Int32[Tensor, "N"]
    group_of: Int32[Tensor, "U"]
    num_probes: int = 0
    recall: float = 0.0

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything as arrays by name."""
        return {name: np.asarray(value) for name, value in vars(self).items()}

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> "_Division":
        """The division that these are the arrays of."""
        return cls(
            centroids=torch.from_numpy(arrays["centroids"]),
            cell_of=torch.from_numpy(arrays["cell_of"]),
            group_of=torch.from_numpy(arrays["group_of"]),
            num_probes=int(arrays["num_probes"]),
            recall=float(arrays["recall"]),
        )


class _Cells:
    """Searches for the K best of the candidates in some cells."""

    def __init__(
        self,
        candidates: Float[Tensor, "N V"],
        k: int,
        queries: Float[Tensor, "U V"],
        division: _Division,
        block: int,
    ) -> None:
        self._candidates, self._k, self._queries, self._division = candidates, k, queries, division
        # candidates are in the order of plays; at least k of them fill the list where the cells hold too few
        most_played = min(round(SHARE_MOST_PLAYED * len(candidates)), LARGEST_MOST_PLAYED)
        self._most_played = torch.arange(max(k, most_played))
        num_cells = len(division.centroids)
        self._in_cell = _members(division.cell_of, num_cells)
        groups = _members(division.group_of, num_cells)
        self._blocks = [part for group in groups if len(group) for part in group.split(block)]
        self._means = torch.stack([queries[part].mean(0) for part in self._blocks])

    def searcher(self) -> Searcher:
        """The search in as many cells as the division says."""
        num_probes = self._division.num_probes

        def search(nth: int) -> tuple[Tensor, Tensor, Tensor]:
            return self._blocks[nth], *self._best(nth, self._blocks[nth], num_probes)

        return Searcher(len(self._blocks), search, self._division.recall, self._division.arrays())

    def tune(self, target: float) -> None:
        """Find the smallest number of cells that reaches the recall `target`, and measure its recall."""
        candidates, queries, num_cells = self._candidates, self._queries, len(self._division.centroids)
        sample = torch.arange(len(queries))[:: max(1, len(queries) // NUM_SAMPLED)][:NUM_SAMPLED]
        of_sample = [(nth, part[torch.isin(part, sample)]) for nth, part in enumerate(self._blocks)]
        of_sample = [(nth, part) for nth, part in of_sample if len(part)]
        sampled = queries[torch.cat([part for _, part in of_sample])]
        exact = exact_search(candidates, self._k, sampled, block=max(1, min(64, 2**27 // len(candidates))))
        last = torch.cat([exact.block(nth)[1][:, -1:] for nth in range(exact.num_blocks)])
        thresholds = (last - TIE * last.abs().clamp(min=10**SCORE_DECIMALS)).split([len(part) for _, part in of_sample])
        num_probes, most = min(8, num_cells), max(8, num_cells // MIN_CELLS_PER_PROBE)
        while True:
            hits = [
                (self._best(nth, part, num_probes)[0] >= least).double().mean(1)
                for (nth, part), least in zip(of_sample, thresholds, strict=True)
            ]
            recall = float(torch.cat(hits).mean())
            if recall >= target or num_probes >= min(most, num_cells):
                break
            num_probes = min(2 * num_probes, most)
        self._division.num_probes, self._division.recall = num_probes, recall

    def _best(self, nth: int, which: Tensor, num_probes: int) -> tuple[Tensor, Tensor]:
        """The best candidates of some queries of block `nth`."""
        k, centroids = self._k, self._division.centroids
        near = (centroids @ self._means[nth]).topk(min(SHORTLIST * num_probes, len(centroids))).indices
        of_any = (self._queries[self._blocks[nth]] @ centroids[near].T).amax(0)
        near = near[of_any.topk(num_probes).indices]
        places = torch.cat([self._most_played, *(self._in_cell[cell] for cell in near.tolist())]).unique()
        group = min(32, max(1, len(places) // k))
        scores = torch.full((len(which), -(-len(places) // group) * group), -torch.inf)
        torch.mm(self._queries[which], self._candidates[places].T, out=scores[:, : len(places)])
        values, found = best_of_groups(scores.view(len(which), -1, group), k)
        return values, places[found]


def _members(cell_of: Int[Tensor, "N"], num_cells: int) -> tuple[Tensor, ...]:
    """The places in each cell, ascending."""
    sizes = torch.bincount(cell_of, minlength=num_cells).tolist()
    return tuple(torch.split(cell_of.argsort(stable=True), sizes))


def _divide(candidates: Float[Tensor, "N V"], queries: Float[Tensor, "U V"]) -> _Division:
    size = min(len(candidates) ** 0.5 / 4, LARGEST_CELL)
    regions = _centres(candidates, round((len(candidates) / size) ** 0.5))
    nearest = torch.cat([(part @ regions.T).argmax(1) for part in candidates.split(4096)])
    members = _members(nearest, len(regions))
    cells = [_centres(candidates[own], round(len(own) / size)) for own in members if len(own)]
    regions = regions[[len(own) > 0 for own in members]]
    return _Division(
        torch.cat(cells), _nearest_cells(candidates, regions, cells), _nearest_cells(queries, regions, cells)
    )


def _centres(vectors: Float[Tensor, "n V"], num: int) -> Float[Tensor, "c V"]:
    """The centres of `num` parts of some vectors. Spherical: otherwise long vectors attract all others."""
    import faiss

    settings = {"niter": 10, "min_points_per_centroid": 1, "max_points_per_centroid": 64, "spherical": True}
    clustering = faiss.Kmeans(vectors.shape[1], max(1, min(num, len(vectors))), **settings)
    clustering.train(vectors.numpy())
    return torch.from_numpy(clustering.centroids)


def _nearest_cells(
    vectors: Float[Tensor, "U V"], regions: Float[Tensor, "R V"], cells: list[Tensor]
) -> Int32[Tensor, "U"]:
    """The nearest cell of each vector among those of its nearest regions.

    Args:
        vectors: the vectors.
        regions: centres of the regions.
        cells: centres of the cells of each region.
    """
    starts, nearest = np.cumsum([0, *map(len, cells)]), torch.zeros(len(vectors), dtype=torch.int32)
    for part, found in zip(vectors.split(2**20), nearest.split(2**20), strict=True):
        best = torch.full((len(part),), -torch.inf)
        near = torch.cat([(few @ regions.T).topk(min(NEAR_REGIONS, len(regions))).indices for few in part.split(4096)])
        for start, centres, places in zip(starts, cells, _members(near.flatten(), len(regions)), strict=False):
            which = places // near.shape[1]
            scores, nth = (part[which] @ centres.T).max(1)
            better = scores > best[which]
            best[which[better]] = scores[better]
            found[which[better]] = int(start) + nth[better].int()
    return nearest
