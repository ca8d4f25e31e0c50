"""Exact search over the whole catalogue by inner product: the best candidates of each query.

N tracks in the catalogue, M tracks with a query vector, Q queries, U distinct queries, K candidates of a list, V width
of a vector, B queries in a block, G groups of S candidates. The query itself is never a candidate.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from segue.models.retrieval.lists import ListBlock, ListSearch
from segue.models.retrieval.ranks import refuse_non_finite
from segue.runs.recommendations import SCORE_DECIMALS, check_k


def top_k(
    *,
    queries: Float[Tensor, "M V"],
    items: Float[Tensor, "N V"],
    query_rows: Int64[Tensor, "Q"],
    k: int,
    plays: Int64[np.ndarray, "N"],
    on_block: Callable[[int], None] = lambda _: None,
    block: int = 512,
) -> tuple[Int64[np.ndarray, "Q K"], Float32[np.ndarray, "Q K"]]:
    """Find the K best candidates for each of the `query_rows` by inner product. The query itself is excluded.

    Scores are rounded to SCORE_DECIMALS first. Among equal scores the track with more `plays` comes first, then the
    track with the lower row. An unknown query track therefore gets the most popular tracks.

    Args:
        queries: query vector of every track, and of more tracks (M) that are no candidates.
        items: candidate vector of every track.
        query_rows: rows to build lists for.
        k: length of each list, 1 <= k < N.
        plays: popularity of every track.
        on_block: called with the number of queries done after each block.
        block: number of queries scored at once.

    Returns:
        Rows of the candidates, best first, and their rounded scores.

    Raises:
        InputError: `k` is not in [1, N-1], or a vector is not finite.
    """
    search = exact_lists(queries=queries, items=items, query_rows=query_rows, k=k, plays=plays, block=block)
    return search.collect(on_block)


def exact_lists(
    *,
    queries: Float[Tensor, "M V"],
    items: Float[Tensor, "N V"],
    query_rows: Int64[Tensor, "Q"],
    k: int,
    plays: Int64[np.ndarray, "N"],
    block: int = 512,
) -> ListSearch:
    """Prepare the search for the lists of `top_k`.

    Args:
        queries: as for `top_k`, and so are the others.
        items: candidate vector of every track.
        query_rows: rows to build lists for.
        k: length of each list, 1 <= k < N.
        plays: popularity of every track.
        block: number of queries scored at once.

    Returns:
        The search.

    Raises:
        InputError: `k` is not in [1, N-1], or a vector is not finite.
    """
    return search_lists(queries, items, query_rows, k, plays, partial(exact_search, block=block))


class Searcher(NamedTuple):
    """A search that was built for query vectors. Each of them is in one block.

    Attributes:
        num_blocks: number of blocks.
        block: searches for a block, given its number from 0. Returns the places of its query vectors, the scores of
            their best candidates in units of 10^-SCORE_DECIMALS, and the places of these candidates.
        recall: share of the exact lists that was found for a sample; None where the search is exact.
        plan: what was computed to prepare the search; None where that is nothing.
    """

    num_blocks: int
    block: Callable[[int], tuple[Tensor, Tensor, Tensor]]
    recall: float | None = None
    plan: Mapping[str, np.ndarray] | None = None


def search_lists(
    queries: Float[Tensor, "M V"],
    items: Float[Tensor, "N V"],
    query_rows: Int64[Tensor, "Q"],
    k: int,
    plays: Int64[np.ndarray, "N"],
    build_search: Callable[[Tensor, int, Tensor], Searcher],
) -> ListSearch:
    """Prepare the search for lists like those of `top_k` with a given search.

    Args:
        queries: query vector of every track, and of more tracks (M) that are no candidates.
        items: candidate vector of every track.
        query_rows: rows to build lists for.
        k: length of each list, 1 <= k < N.
        plays: popularity of every track.
        build_search: builds the search from candidate vectors, the number of candidates to find, and the distinct query
            vectors.

    Returns:
        The search for rows of the candidates, best first, and their rounded scores.

    Raises:
        InputError: `k` is not in [1, N-1], or a vector is not finite.
    """
    check_k(k, len(items))
    refuse_non_finite(queries, items)
    # Candidates are sorted in the order that decides ties: a lower place wins.
    order = torch.from_numpy(np.lexsort((np.arange(len(items)), -plays))).to(items.device)
    # Unknown tracks share the vector of their artist: each distinct query is searched once. One more candidate is
    # searched because the query itself may be among them.
    distinct, of_distinct = _distinct_lines(queries[query_rows.to(queries.device)])
    search = build_search(items[order], k + 1, distinct)
    own_rows = query_rows.cpu().numpy()
    by_distinct, num_queries = of_distinct.argsort(kind="stable"), np.bincount(of_distinct)
    first = num_queries.cumsum() - num_queries

    def block(nth: int) -> ListBlock:
        of_block, values, candidates = search.block(nth)
        which = of_block.cpu().numpy()
        of_line = np.repeat(np.arange(len(which)), num_queries[which])
        starts = first[which] - (num_queries[which].cumsum() - num_queries[which])
        places = by_distinct[np.arange(len(of_line)) + starts[of_line]]
        rows = order[candidates].cpu().numpy()[of_line]
        scores = (values / 10**SCORE_DECIMALS).cpu().numpy()[of_line]
        others = rows != own_rows[places, None]
        others[others.all(1), -1] = False
        return ListBlock(places, rows[others].reshape(-1, k), scores[others].reshape(-1, k))

    return ListSearch(
        num_queries=len(own_rows),
        k=k,
        num_blocks=search.num_blocks,
        block=block,
        recall=search.recall,
        plan=search.plan,
    )


def exact_search(candidates: Float[Tensor, "N V"], k: int, queries: Float[Tensor, "U V"], *, block: int) -> Searcher:
    """Build a search that scores every candidate.

    Args:
        candidates: candidate vectors.
        k: number of candidates to find for each query.
        queries: the query vectors to search for.
        block: largest number of queries searched at once.

    Returns:
        The search.
    """
    # The number of groups is about the number of candidates in the k groups that are sorted; sizes of 2^n are fast.
    group = max(32, 2 ** round(math.log2(len(candidates) / k) / 2))
    padded = -(-len(candidates) // group) * group
    scores = torch.full((min(block, len(queries)), padded), -torch.inf, device=candidates.device)
    blocks = torch.arange(len(queries), device=queries.device).split(block)

    def search(nth: int) -> tuple[Tensor, Tensor, Tensor]:
        which = blocks[nth]
        torch.mm(queries[which], candidates.T, out=scores[: len(which), : len(candidates)])
        return which, *best_of_groups(scores[: len(which)].view(len(which), -1, group), k)

    return Searcher(len(blocks), search)


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
        Rounded scores in units of 10^-SCORE_DECIMALS, highest first, and their places in the line.
    """
    # simulation/neighbours.py does the same in numpy, without torch and without ties; on one core it takes 1.3 times
    # as long
    lines, num_groups, size = scores.shape
    _, groups = _top_k_by_place(to_units(scores.amax(2)), min(k, num_groups))
    of_line = num_groups * torch.arange(lines, device=scores.device)[:, None]
    inside = scores.view(-1, size).index_select(0, (of_line + groups).view(-1)).view(lines, -1)
    values, places = ordered_top_k(to_units(inside), k)
    return values, groups.gather(1, places // size) * size + places % size


def to_units(scores: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Round raw scores and convert them to units of 10^-SCORE_DECIMALS, in place.

    Args:
        scores: raw scores; they are overwritten.

    Returns:
        The same tensor.
    """
    return scores.mul_(10**SCORE_DECIMALS).round_()


def ordered_top_k(scores: Float[Tensor, "B N"], k: int) -> tuple[Float[Tensor, "B K"], Int64[Tensor, "B K"]]:
    """Find the k highest scores of each line.

    Args:
        scores: scores, one line for each query.
        k: number of scores to keep, at most N.

    Returns:
        The scores, highest first, and their places; equal scores are in the order of their places.
    """
    values, places = _top_k_by_place(scores, k)
    values, by_value = values.sort(dim=1, descending=True, stable=True)
    return values, places.gather(1, by_value)


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
