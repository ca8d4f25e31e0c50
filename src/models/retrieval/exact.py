"""Exact search over the whole catalogue by inner product: the best candidates, and the rank of a given one.

N tracks in the catalogue, Q queries, K candidates kept, V width of a vector, G groups of S candidates.
The query itself is never a candidate.
"""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from src.errors import InputError
from src.recommendations import SCORE_DECIMALS, check_k

TIE = 1e-6
"""Scores closer than this, times the larger of 1 and the score's size, tie: beyond it float32 is noise."""


def top_k(
    *,
    queries: Float[Tensor, "N V"],
    items: Float[Tensor, "N V"],
    query_rows: Int64[Tensor, "Q"],
    k: int,
    plays: Int64[np.ndarray, "N"],
    on_block: Callable[[int], None] = lambda _: None,
    block: int = 512,
) -> tuple[Int64[np.ndarray, "Q K"], Float32[np.ndarray, "Q K"]]:
    """Exact K best candidates for each of the `query_rows` by inner product, the query itself excluded.

    Scores are rounded to SCORE_DECIMALS first. Among equal scores the track with more `plays` comes first, then the
    one with the lower row, so that a query of which nothing is known gets the most popular tracks.

    Args:
        queries: query vector of every track.
        items: candidate vector of every track.
        query_rows: the rows to make lists for.
        k: length of each list, 1 <= k < N.
        plays: popularity of every track.
        on_block: called with the number of queries done after each block.
        block: queries scored at once.

    Raises:
        InputError: `k` does not lie in [1, N-1], or a vector is not finite.
    """
    return lists(queries, items, query_rows, k, plays, on_block, block, partial(exact_search, block=block))


Searcher = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From query vectors to their best candidates: scores in units of the last decimal kept, and places."""


def lists(
    queries: Float[Tensor, "N V"],
    items: Float[Tensor, "N V"],
    query_rows: Int64[Tensor, "Q"],
    k: int,
    plays: Int64[np.ndarray, "N"],
    on_block: Callable[[int], None],
    block: int,
    search_among: Callable[[Tensor, int, Tensor], Searcher],
) -> tuple[Int64[np.ndarray, "Q K"], Float32[np.ndarray, "Q K"]]:
    """Lists as `top_k` gives them, by whatever search there is among candidates for so many of them."""
    check_k(k, len(items))
    _refuse_non_finite(queries, items)
    # Candidates stand in the order in which ties are broken: a lower place wins.
    order = torch.from_numpy(np.lexsort((np.arange(len(items)), -plays))).to(items.device)
    # Tracks that no training pair shows share their artist's vector: each distinct query is searched once, for one
    # candidate more than asked, since the query itself may be among them.
    distinct, of_distinct = _distinct_lines(queries[query_rows.to(queries.device)])
    search = search_among(items[order], k + 1, distinct)
    found_rows, found_scores = [], []
    served = np.bincount(of_distinct)
    for start, chunk in zip(range(0, len(distinct), block), distinct.split(block), strict=True):
        values, places = search(chunk)
        found_rows.append(order[places].cpu())
        found_scores.append((values / 10**SCORE_DECIMALS).cpu())
        on_block(int(served[start : start + len(chunk)].sum()))
    rows = torch.cat(found_rows).numpy()[of_distinct]
    others = rows != query_rows.cpu().numpy()[:, None]
    others[others.all(1), -1] = False
    return rows[others].reshape(-1, k), torch.cat(found_scores).numpy()[of_distinct][others].reshape(-1, k)


def exact_search(candidates: Float[Tensor, "N V"], k: int, queries: Float[Tensor, "U V"], *, block: int) -> Searcher:
    """Search that scores every candidate, for the best k of at most `block` of the queries at once."""
    # As many groups as there are candidates in the k of them that are looked into; maxima of 2^n are fast.
    group = max(32, 2 ** round(math.log2(len(candidates) / k) / 2))
    padded = -(-len(candidates) // group) * group
    scores = torch.full((min(block, len(queries)), padded), -torch.inf, device=candidates.device)

    def search(chunk: Tensor) -> tuple[Tensor, Tensor]:
        torch.mm(chunk, candidates.T, out=scores[: len(chunk), : len(candidates)])
        return _best(scores[: len(chunk)].view(len(chunk), -1, group), k)

    return search


def _refuse_non_finite(*tables: Tensor) -> None:
    """NaN is above and below nothing: it would rank first."""
    if not all(bound.isfinite() for table in tables for bound in table.aminmax()):
        raise InputError("training diverged: vectors are not finite, so nothing can be ranked; lower optimizer.lr")


def _distinct_lines(vectors: Float[Tensor, "Q V"]) -> tuple[Float[Tensor, "U V"], Int64[np.ndarray, "Q"]]:
    """The distinct vectors, bit by bit, and which of them each line is."""
    lines = np.ascontiguousarray(vectors.cpu().numpy())
    _, first, which = np.unique(
        lines.view(np.dtype((np.void, lines[0].nbytes))), return_index=True, return_inverse=True
    )
    return vectors[torch.from_numpy(first).to(vectors.device)], which.ravel()


def _best(scores: Float[Tensor, "B G S"], k: int) -> tuple[Float[Tensor, "B K"], Int64[Tensor, "B K"]]:
    """Top k of each line of raw scores, in units of the last decimal kept: those scores, rounded, and their places.

    The k groups with the best maxima hold them, ties at the edge included: each brings at least one candidate, and
    what a later group has of the same score stands behind it.
    """
    # simulation/neighbours.py searches alike in numpy, 1.3 times as long on one core: it has no torch, nor ties
    lines, num_groups, size = scores.shape
    _, groups = _first_of_ties(rounded(scores.amax(2)), min(k, num_groups))
    of_line = num_groups * torch.arange(lines, device=scores.device)[:, None]
    inside = scores.view(-1, size).index_select(0, (of_line + groups).view(-1)).view(lines, -1)
    values, places = best_first(rounded(inside), k)
    return values, groups.gather(1, places // size) * size + places % size


def rounded(scores: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Raw scores in units of the last decimal kept, in place."""
    return scores.mul_(10**SCORE_DECIMALS).round_()


def best_first(scores: Float[Tensor, "B N"], k: int) -> tuple[Float[Tensor, "B K"], Int64[Tensor, "B K"]]:
    """Top k of each line, best first; equal scores in the order of their places."""
    values, places = _first_of_ties(scores, k)
    values, by_value = values.sort(dim=1, descending=True, stable=True)
    return values, places.gather(1, by_value)


def _first_of_ties(scores: Float[Tensor, "B N"], k: int) -> tuple[Float[Tensor, "B K"], Int64[Tensor, "B K"]]:
    """Top k of each line in the order of their places; of those that tie at the edge, the lower places."""
    values, places = scores.topk(min(k + 1, scores.shape[1]), dim=1)
    # topk takes any of the candidates that tie with the last one: where it left some out, choose again.
    undecided = ((values[:, k - 1] == values[:, -1]) & (values.shape[1] > k)).nonzero()[:, 0]
    values, places = values[:, :k].contiguous(), places[:, :k].contiguous()
    if len(undecided):
        lines, edge = scores[undecided], values[undecided, -1:]
        above = lines > edge
        tied = lines == edge
        taken = above | (tied & (tied.cumsum(1, dtype=torch.int32) <= k - above.sum(1, keepdim=True)))
        places[undecided] = taken.nonzero()[:, 1].view(len(undecided), k)
        values[undecided] = lines[taken].view(len(undecided), k)
    places, by_place = places.sort(dim=1)
    return values.gather(1, by_place), places


def mean_ranks(
    *,
    queries: Float[Tensor, "N V"],
    items: Float[Tensor, "N V"],
    previous: Int64[Tensor, "Q"],
    following: Int64[Tensor, "Q"],
    on_block: Callable[[int], None] = lambda _: None,
    block: int = 512,
) -> Float64[np.ndarray, "Q"]:
    """Rank of each `following` among all candidates of its `previous`, by inner product.

    Candidates that tie share the mean of the ranks they take up. Scores are made for `block` queries at a time, so
    that the memory is block × N.

    Args:
        queries: query vector of every track.
        items: item vector of every track.
        previous: rows of the queries.
        following: rows of the tracks that followed, each another track than its query.
        on_block: called with the number of queries done after each block.
        block: queries scored at once.

    Raises:
        InputError: a vector is not finite.
    """
    _refuse_non_finite(queries, items)
    if not len(previous):
        return np.empty(0)
    # Queries of the same track share a line of scores. In a block of lines, the most often asked first, each round
    # takes one query of every line that has one left.
    lines, line_of, asked = torch.unique(previous, return_inverse=True, return_counts=True)
    by_line, first = line_of.argsort(), asked.cumsum(0) - asked
    often = asked.argsort(descending=True)
    ranks = torch.empty(len(previous), dtype=torch.float64, device=items.device)
    buffer = torch.empty(min(block, len(lines)), len(items), device=items.device)
    few = max(1, 2**21 // len(items)) if items.device.type == "cpu" else block  # lines whose marks fit a cache
    marks = torch.empty(min(few, len(buffer)), len(items), device=items.device)
    for some in often.split(block):
        scores = torch.mm(queries[lines[some]], items.T, out=buffer[: len(some)])
        own = lines[some, None]
        scores.scatter_(1, own, -torch.inf)
        for taken, left in enumerate(_still_asked(asked[some])):
            query = by_line[first[some[:left]] + taken]
            of_target = scores[:left].gather(1, following[query, None])
            margin = TIE * of_target.abs().clamp(min=1)
            above = _count(torch.gt, scores[:left], of_target + margin, marks)
            up_to = _count(torch.ge, scores[:left], of_target - margin, marks)  # the target itself among them
            ranks[query] = (above + 1 + up_to) / 2
        on_block(int(asked[some].sum()))
    return ranks.cpu().numpy()


def _still_asked(asked: Int64[Tensor, "B"]) -> list[int]:
    """How many of these, which fall, are above 0, above 1, above 2, …"""
    return [int(left) for left in (asked[:, None] > torch.arange(int(asked[0]), device=asked.device)).sum(0)]


def _count(
    compare: Callable[..., Tensor],
    scores: Float[Tensor, "B N"],
    bounds: Float[Tensor, "B 1"],
    marks: Float[Tensor, "F N"],
) -> Float64[Tensor, "B"]:
    """On how many places each line compares so with its bound, a few lines at a time."""
    # a product with ones is several times as fast as a sum of bools, and exact below 2^24
    ones = torch.ones(marks.shape[1], device=marks.device)
    parts = zip(scores.split(len(marks)), bounds.split(len(marks)), strict=True)
    return torch.cat([compare(line, bound, out=marks[: len(line)]) @ ones for line, bound in parts]).double()
