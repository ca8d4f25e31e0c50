"""The best candidates of each query by inner product: exact, or by the inverted file of faiss.

N tracks in the catalogue, M tracks with a query vector, Q queries, U distinct queries, K candidates of a list, V width
of a vector, B queries in a block, L ages that are boosted, G groups of S candidates. The query itself is never a
candidate.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64, Real
from torch import Tensor

from segue.catalog import most_played
from segue.histories import Histories
from segue.models.retrieval.lists import ListBlock, ListSearch
from segue.models.retrieval.ranks import TIE, block_size, boost_heard, refuse_non_finite
from segue.runs.recommendations import SCORE_DECIMALS, check_k

NUM_SAMPLED = 1000
"""Number of queries that the recall of an approximate search is measured on."""
CELLS_PER_ROOT = 2
"""Cells of the inverted file, times the root of the number of tracks."""
LEAST_CELLS, CELLS_PER_PROBE = 8, 8
"""At least so many cells are searched for a query, and at most one in so many."""
SHARE_MOST_PLAYED, LARGEST_MOST_PLAYED = 1 / 128, 8192
"""Share of the tracks, the most played ones, that are candidates of every query, and their largest number: where items
have biases, they are in many lists."""

_AT_ONCE = 256  # histories whose scores of all tracks are in memory together, at most
Top = tuple[Int64[np.ndarray, "Q K"], Float32[np.ndarray, "Q K"]]
"""Rows of the best candidates, and their scores."""
Search = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From query vectors to the scores of their best candidates, in units of 10^-SCORE_DECIMALS, and their places."""


def lists_of_vectors(
    *,
    queries: Float[Tensor, "M V"],
    items: Float[Tensor, "N V"],
    query_rows: Int64[Tensor, "Q"],
    k: int,
    plays: Int64[np.ndarray, "N"],
    recall: float | None = None,
    block: int = 512,
) -> ListSearch:
    """Prepare the search for the K best candidates of each of the `query_rows`, or for nearly these, faster.

    Scores are rounded to SCORE_DECIMALS first. Among equal scores the track with more `plays` comes first, then the
    track with the lower row. An unknown query track therefore gets the most popular tracks.

    With a `recall`, the candidates are divided into cells (an inverted file), and only those of the cells nearest to a
    query are scored, and the most played. The number of cells that are searched grows until the share `recall` of the
    exact lists is found for a sample of the queries, or until exact search would be as fast. A candidate that ties with
    the last one of an exact list counts as found. This runs on the CPU.

    Args:
        queries: query vector of every track, and of more tracks (M) that are no candidates.
        items: candidate vector of every track.
        query_rows: rows to build lists for.
        k: length of each list, 1 <= k < N.
        plays: popularity of every track.
        recall: share of the exact lists to aim at, in (0, 1]; None for exact lists.
        block: number of queries scored at once.

    Returns:
        The search, with the recall of the sample where it is approximate.

    Raises:
        InputError: `k` is not in [1, N-1], or a vector is not finite.
    """
    check_k(k, len(items))
    if recall is not None:
        queries, items = queries.cpu(), items.cpu()
    refuse_non_finite(queries, items)
    # Candidates are sorted in the order that decides ties: a lower place wins.
    order = torch.from_numpy(most_played(plays)).to(items.device)
    # Unknown tracks share the vector of their artist: each distinct query is searched once. One more candidate is
    # searched because the query itself may be among them.
    distinct, of_distinct = _distinct_lines(queries[query_rows.to(queries.device)])
    if recall is None:
        search, found_recall = _exact(items[order], k + 1, min(block, len(distinct))), None
    else:
        search, found_recall = _approximate(items[order], k + 1, distinct, recall)
    own_rows = query_rows.cpu().numpy()
    by_distinct, num_queries = of_distinct.argsort(kind="stable"), np.bincount(of_distinct)
    first = num_queries.cumsum() - num_queries

    def search_block(nth: int) -> ListBlock:
        start, end = nth * block, min((nth + 1) * block, len(distinct))
        values, candidates = search(distinct[start:end])
        of_line = np.repeat(np.arange(end - start), num_queries[start:end])
        places = by_distinct[first[start] : first[start] + len(of_line)]
        rows = order[candidates].cpu().numpy()[of_line]
        scores = (values / 10**SCORE_DECIMALS).cpu().numpy()[of_line]
        others = rows != own_rows[places, None]
        others[others.all(1), -1] = False
        return ListBlock(places, rows[others].reshape(-1, k), scores[others].reshape(-1, k))

    return ListSearch(
        num_queries=len(own_rows),
        k=k,
        num_blocks=-(-len(distinct) // block),
        block=search_block,
        recall=found_recall,
    )


def _exact(candidates: Float[Tensor, "N V"], k: int, block: int) -> Search:
    """A search that scores every candidate, for at most `block` queries at once."""
    # The number of groups is about the number of candidates in the k groups that are sorted; sizes of 2^n are fast.
    group = max(32, 2 ** round(np.log2(len(candidates) / k) / 2))
    scores = torch.full((block, -(-len(candidates) // group) * group), -torch.inf, device=candidates.device)

    def search(queries: Float[Tensor, "B V"]) -> tuple[Float[Tensor, "B K"], Int64[Tensor, "B K"]]:
        torch.mm(queries, candidates.T, out=scores[: len(queries), : len(candidates)])
        return best_of_groups(scores[: len(queries)].view(len(queries), -1, group), k)

    return search


def _approximate(
    candidates: Float[Tensor, "N V"], k: int, queries: Float[Tensor, "U V"], target: float
) -> tuple[Search, float]:
    """A search of the nearest cells of each query and of the most played candidates, and its recall."""
    import faiss

    vectors, num_cells = np.ascontiguousarray(candidates.numpy()), round(CELLS_PER_ROOT * len(candidates) ** 0.5)
    num_cells = min(num_cells, len(candidates))
    index: Any = faiss.index_factory(vectors.shape[1], f"IVF{num_cells},Flat", faiss.METRIC_INNER_PRODUCT)
    index.cp.niter, index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 10, 1, 64
    index.cp.spherical = True  # otherwise long vectors attract all others
    index.train(vectors)
    index.add(vectors)
    # candidates are in the order of plays; at least k of them fill the list where the cells hold too few
    num_most = max(k, min(round(SHARE_MOST_PLAYED * len(candidates)), LARGEST_MOST_PLAYED))
    most_played = _exact(candidates[:num_most], k, 512)

    def search(some: Float[Tensor, "B V"]) -> tuple[Float[Tensor, "B K"], Int64[Tensor, "B K"]]:
        in_cells, places = (torch.from_numpy(found) for found in index.search(some.numpy(), k))
        in_cells = to_units(in_cells).masked_fill_(places < num_most, -torch.inf)
        of_most, most = most_played(some)
        places, by_place = torch.cat([most, places], 1).sort(dim=1)
        values, best = torch.cat([of_most, in_cells], 1).gather(1, by_place).sort(dim=1, descending=True, stable=True)
        return values[:, :k], places.gather(1, best)[:, :k]

    sample = queries[:: max(1, len(queries) // NUM_SAMPLED)][:NUM_SAMPLED]
    at_once = max(1, min(64, 2**27 // len(candidates)))
    exact = _exact(candidates, k, at_once)
    last = torch.cat([exact(some)[0][:, -1:] for some in sample.split(at_once)])
    least, most = last - TIE * last.abs().clamp(min=10**SCORE_DECIMALS), max(LEAST_CELLS, num_cells // CELLS_PER_PROBE)
    index.nprobe = LEAST_CELLS
    while (
        recall := float(torch.cat([search(some)[0] for some in sample.split(512)]).ge(least).double().mean())
    ) < target and index.nprobe < most:
        index.nprobe = min(2 * index.nprobe, most)
    return search, recall


def _distinct_lines(vectors: Float[Tensor, "Q V"]) -> tuple[Float[Tensor, "U V"], Int64[np.ndarray, "Q"]]:
    """The distinct vectors, compared bit by bit, and the place of each line among them."""
    lines = np.ascontiguousarray(vectors.cpu().numpy())
    _, first, which = np.unique(
        lines.view(np.dtype((np.void, lines[0].nbytes))), return_index=True, return_inverse=True
    )
    return vectors[torch.from_numpy(first).to(vectors.device)], which.ravel()


def best_of_groups(scores: Float[Tensor, "B G S"], k: int) -> tuple[Float[Tensor, "B K"], Int64[Tensor, "B K"]]:
    """Find the k highest of each line of raw scores that are in groups.

    The k groups with the largest maxima contain the top k, including ties with the last one. Each of these groups has
    at least one of them, and an equal score in a later group has a higher place and loses the tie.

    Args:
        scores: raw scores; they are kept.
        k: number of scores to find, at most G·S.

    Returns:
        Rounded scores in units of 10^-SCORE_DECIMALS, highest first, and their places in the line; equal scores are in
        the order of their places.
    """
    # simulation/neighbours.py does the same in numpy, without torch and without ties; on one core it takes 1.3 times
    # as long
    lines, num_groups, size = scores.shape
    _, groups = _top_k_by_place(to_units(scores.amax(2)), min(k, num_groups))
    of_line = num_groups * torch.arange(lines, device=scores.device)[:, None]
    inside = scores.view(-1, size).index_select(0, (of_line + groups).view(-1)).view(lines, -1)
    values, places = _top_k_by_place(to_units(inside), k)
    values, by_value = values.sort(dim=1, descending=True, stable=True)
    places = places.gather(1, by_value)
    return values, groups.gather(1, places // size) * size + places % size


def top_of_scores(
    scores: Float[Tensor, "B N"],
    *,
    previous: Int64[Tensor, "B"],
    heard: Int64[Tensor, "B H"],
    boosts: Float32[np.ndarray, "L"],
    plays: Real[np.ndarray, "N"],
    k: int,
    among: Bool[np.ndarray, "N"] | None = None,
) -> tuple[Int64[np.ndarray, "B K"], Float32[np.ndarray, "B K"]]:
    """Find the k best candidates of each line, by the rules of `ranks`.

    Args:
        scores: scores of all tracks; they are overwritten.
        previous: row of the track of each line that is no candidate.
        heard: rows of the tracks already heard, -1 where there is none.
        boosts: added to the scores of tracks already heard, by age; −∞ puts them last.
        plays: popularity of every track, which decides between equal scores.
        k: number of candidates.
        among: True for each track that is a candidate; None for all tracks.

    Returns:
        Rows, best first, and boosted scores; -1 and NaN where there are fewer candidates.

    Raises:
        InputError: `k` is not in [1, N-1].
    """
    check_k(k, scores.shape[1])
    boost_heard(scores, heard, boosts).scatter_(1, previous[:, None], -torch.inf)
    if among is not None:
        scores.masked_fill_(torch.from_numpy(~among).to(scores.device), -torch.inf)
    order = torch.from_numpy(most_played(plays)).to(scores.device)
    values, places = _top_k_by_place(scores[:, order], k)
    values, by_value = values.sort(dim=1, descending=True, stable=True)
    rows, found = order[places.gather(1, by_value)].cpu().numpy(), values.cpu().numpy()
    is_there = found > -np.inf
    return np.where(is_there, rows, -1), np.where(is_there, found, np.float32(np.nan))


def in_parts(histories: Histories, num_tracks: int, find: Callable[[Histories], Top]) -> Top:
    """Find the best candidates of some histories at a time, because each has a score for every track."""
    at_once = min(_AT_ONCE, block_size(num_tracks))
    parts = [find(histories.part(start, start + at_once)) for start in range(0, len(histories), at_once)]
    rows, values = zip(*parts, strict=True)
    return np.concatenate(rows), np.concatenate(values)


def to_units(scores: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Round raw scores and convert them to units of 10^-SCORE_DECIMALS, in place.

    Args:
        scores: raw scores; they are overwritten.

    Returns:
        The same tensor.
    """
    return scores.mul_(10**SCORE_DECIMALS).round_()


def _top_k_by_place(scores: Float[Tensor, "B N"], k: int) -> tuple[Float[Tensor, "B K"], Int64[Tensor, "B K"]]:
    """Top k of each line in the order of their places; among ties with the last one, the lower places."""
    values, places = scores.topk(min(k + 1, scores.shape[1]), dim=1)
    # topk keeps arbitrary candidates among those that tie with the last one. Lines with such ties are selected again.
    undecided = ((values[:, k - 1] == values[:, -1]) & (values.shape[1] > k)).nonzero()[:, 0]
    values, places = values[:, :k].contiguous(), places[:, :k].contiguous()
    if len(undecided):
        lines, last = scores[undecided], values[undecided, -1:]
        above = lines > last
        tied = lines == last
        selected = above | (tied & (tied.cumsum(1, dtype=torch.int32) <= k - above.sum(1, keepdim=True)))
        places[undecided] = selected.nonzero()[:, 1].view(len(undecided), k)
        values[undecided] = lines[selected].view(len(undecided), k)
    places, by_place = places.sort(dim=1)
    return values.gather(1, by_place), places
