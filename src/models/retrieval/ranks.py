"""Ranks of tracks that followed, among all candidates: by vectors, and by sparse scores. There is one rule for both.

Q queries, B queries of a block, U distinct query vectors of it, N tracks in the catalogue, H tracks heard, V width of a
vector, E entries of a sparse block, L ages that are boosted. Candidates that tie share the mean of the ranks they
occupy. The track of the query itself is never a candidate, except where every track is one, and tracks already heard
are boosted, or come last.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64, Real
from scipy.sparse import csr_array
from torch import Tensor

from segue.errors import InputError
from segue.models.contracts import Among, Queries, SparsePart
from segue.models.retrieval.sparse import no_scores
from segue.statistics.ranking import ndcg_at

TIE = 1e-6
"""Two scores tie if they differ by less than this, times max(1, |score|). Smaller differences are float32 noise."""
ndcg = partial(ndcg_at, k=10)
"""From the ranks of queries to ndcg@10 of each."""
_MAX_SCORES = 2**24  # number of scores in memory at once
_PAIRS_AT_ONCE = 2**22  # training pairs that are counted together, about


def _rank(above: Real[np.ndarray, "B"], not_below: Real[np.ndarray, "B"]) -> Float64[np.ndarray, "B"]:
    """The mean of the places of a track and of those that tie with it.

    Args:
        above: number of candidates before it.
        not_below: number of candidates before it or beside it, itself included.
    """
    return np.asarray((above + 1 + not_below) / 2)


def ranks_of_shares(shares: Float[Tensor, "B N"], following: Int64[np.ndarray, "B"]) -> Float64[np.ndarray, "B"]:
    """Rank each `following` by probability.

    Args:
        shares: the probability of each track; negative for one that is no candidate.
        following: rows of the tracks that followed.
    """
    of_target = shares.gather(1, torch.from_numpy(following)[:, None])
    above, not_below = (shares > of_target * (1 + TIE)).sum(1), (shares >= of_target * (1 - TIE)).sum(1)
    return _rank(above.double().numpy(), not_below.double().numpy())


def block_size(num_tracks: int) -> int:
    """How many queries have their scores of all tracks in memory together."""
    return max(1, min(512, _MAX_SCORES // num_tracks))


def ranks_of_tracks(
    *,
    queries: Float[Tensor, "N V"],
    items: Float[Tensor, "N V"],
    previous: Int64[np.ndarray, "Q"],
    following: Int64[np.ndarray, "Q"],
    on_block: Callable[[int], None] = lambda _: None,
    among: Among = None,
    every: bool = False,
) -> Float64[np.ndarray, "Q"]:
    """Rank each `following` after one previous track; queries of the same track share a line of scores.

    Args:
        queries: query vector of every track.
        items: item vector of every track.
        previous: rows of the queries.
        following: rows of the tracks that followed; each differs from its query, or every track is a candidate.
        on_block: called with the number of queries done after each block.
        among: True for each track that is a candidate; None for all tracks.
        every: whether the query is a candidate too.

    Returns:
        Rank of each `following`, in [1, N].

    Raises:
        InputError: a vector is not finite.
    """
    refuse_non_finite(queries)
    order = np.argsort(previous, kind="stable")
    rows, ranks = torch.from_numpy(previous[order]).to(items.device), np.empty(len(previous))

    def of_block(first: int, end: int) -> Queries:
        distinct, of_pair = rows[first:end].unique(return_inverse=True)
        return Queries(queries[distinct], of_pair, distinct, distinct.new_empty(len(distinct), 0))

    ranks[order] = ranks_of_vectors(
        queries=of_block,
        items=items,
        following=following[order],
        boosts=np.empty(0, np.float32),
        on_block=on_block,
        among=among,
        every=every,
    )
    return ranks


@torch.no_grad()
def ranks_of_vectors(
    *,
    queries: Callable[[int, int], Queries],
    items: Float[Tensor, "N V"],
    following: Int64[np.ndarray, "Q"],
    boosts: Float32[np.ndarray, "L"],
    on_block: Callable[[int], None] = lambda _: None,
    among: Among = None,
    every: bool = False,
) -> Float64[np.ndarray, "Q"]:
    """Rank each `following` among all candidates of its query, by inner product.

    Args:
        queries: computes the queries from one place to another.
        items: item vector of every track.
        following: rows of the tracks that followed; each differs from the `previous` of its query, or every track is a
            candidate.
        boosts: added to the scores of tracks already heard, by age; −∞ puts them last.
        on_block: called with the number of queries done after each block.
        among: True for each track that is a candidate; None for all tracks.
        every: whether the `previous` of a query is a candidate too.

    Returns:
        Rank of each `following`, in [1, N].

    Raises:
        InputError: a vector is not finite.
    """
    refuse_non_finite(items)
    block, ranks = block_size(len(items)), np.empty(len(following))
    others = None if among is None else torch.from_numpy(~among).to(items.device)
    buffer = torch.empty(min(block, len(following)), len(items), device=items.device)
    for start in range(0, len(following), block):
        target = torch.from_numpy(following[start : start + block]).to(items.device)
        of_block = queries(start, start + len(target))
        refuse_non_finite(of_block.vectors)
        # Lines with most queries first: in a block, each round ranks one query of every line that has one left.
        num_queries = of_block.of_pair.bincount(minlength=len(of_block.vectors))
        lines = num_queries.argsort(descending=True)
        by_line, num_queries = lines.argsort()[of_block.of_pair].argsort(stable=True), num_queries[lines]
        first = num_queries.cumsum(0) - num_queries
        scores = torch.mm(of_block.vectors[lines], items.T, out=buffer[: len(lines)])
        add_parts(scores, of_block.parts, lines)
        boost_heard(scores, of_block.heard[lines], boosts)
        if not every:
            scores.scatter_(1, of_block.previous[lines, None], -torch.inf)
        if others is not None:
            scores.masked_fill_(others, -torch.inf)
        for nth in range(int(num_queries[0])):
            num_lines = int((num_queries > nth).sum())
            query = by_line[first[:num_lines] + nth]
            of_target = scores[:num_lines].gather(1, target[query, None])
            margin = TIE * of_target.abs().clamp(min=1)
            above = _count(torch.gt, scores[:num_lines], of_target + margin)
            ranks[start + query.cpu().numpy()] = _rank(above, _count(torch.ge, scores[:num_lines], of_target - margin))
        on_block(len(target))
    return ranks


def add_parts(
    scores: Float[Tensor, "B N"], parts: Sequence[SparsePart], lines: Int64[Tensor, "B"] | None = None
) -> Float[Tensor, "B N"]:
    """Add sparse parts to scores of a head, in place.

    Args:
        scores: scores of all tracks.
        parts: of the queries.
        lines: which of the queries each line has; None for all in their order.

    Returns:
        The same tensor.
    """
    for part in parts:
        part.add(scores, torch.arange(len(scores), device=scores.device) if lines is None else lines)
    return scores


def boost_heard(
    scores: Float[Tensor, "B N"], heard: Int64[Tensor, "B H"], boosts: Float32[np.ndarray, "L"]
) -> Float[Tensor, "B N"]:
    """Boost the scores of tracks already heard, in place.

    Args:
        scores: scores of all tracks.
        heard: rows of the tracks already heard, newest first; -1 where there is none.
        boosts: what is added, by age. −∞ puts these tracks below all others, in their own order.

    Returns:
        The same tensor.
    """
    heard = heard[:, : len(boosts)]
    if not heard.shape[1]:
        return scores
    added = torch.from_numpy(boosts[: heard.shape[1]]).to(scores.device)
    if not np.isfinite(boosts).all():
        added = torch.where(added.isinf(), -(1 + (scores.amax(1) - scores.amin(1))[:, None]), added)
    is_there = heard >= 0
    rows = torch.where(is_there, heard, heard[:, :1].clamp(min=0))  # a row twice is written twice with the same value
    values = scores.gather(1, rows)
    boosted = values + torch.where(is_there, added, added[..., :1])
    return scores.scatter_(1, rows, torch.where(is_there[:, :1], boosted, values))


def _count(
    compare: Callable[..., Tensor], scores: Float[Tensor, "B N"], bounds: Float[Tensor, "B 1"]
) -> Float64[np.ndarray, "B"]:
    """Number of scores in each line for which the comparison with its bound is true."""
    # a product with ones is several times as fast as a sum of bools, and exact below 2^24
    num_cached = max(1, 2**21 // scores.shape[1]) if scores.device.type == "cpu" else len(scores)  # lines in the cache
    flags = torch.empty(min(num_cached, len(scores)), scores.shape[1], device=scores.device)
    ones = torch.ones(scores.shape[1], device=scores.device)
    parts = zip(scores.split(len(flags)), bounds.split(len(flags)), strict=True)
    return torch.cat([compare(some, of, out=flags[: len(some)]) @ ones for some, of in parts]).double().cpu().numpy()


def refuse_non_finite(*tables: Tensor) -> None:
    """Refuse NaN and infinity. A comparison with NaN is false, therefore NaN would rank first."""
    if not all(bound.isfinite() for table in tables if len(table) for bound in table.aminmax()):
        raise InputError("training diverged: vectors are not finite and cannot be ranked; lower optimizer.lr")


def ranks_of_scores(
    *,
    scores: Callable[[int, int], csr_array],
    plays: Int64[np.ndarray, "N"],
    previous: Int64[np.ndarray, "Q"] | None,
    following: Int64[np.ndarray, "Q"],
    heard: Callable[[int, int], Int64[np.ndarray, "B H"]] | None = None,
    on_block: Callable[[int], None] = lambda _: None,
    among: Among = None,
) -> Float64[np.ndarray, "Q"]:
    """Rank each `following` among all candidates of its query, by sparse scores, then by plays.

    A track without a score has the score 0. Candidates with equal scores and equal plays tie.

    Args:
        scores: computes the scores of the queries from one place to another, B × N.
        plays: popularity of every track.
        previous: rows of the tracks that are no candidates, one for each query; None where every track is one.
        following: rows of the tracks that followed; each differs from `previous`.
        heard: looks up the rows of the tracks that come after all others, -1 where there is none; None for no rule.
        on_block: called with the number of queries done after each block.
        among: True for each track that is a candidate; None for all tracks.

    Returns:
        Rank of each `following`, in [1, N].
    """
    is_candidate = np.ones(len(plays), bool) if among is None else among
    sorted_plays, ranks, num_tracks = np.sort(plays[is_candidate]), np.empty(len(following)), len(plays)
    sides: tuple[tuple[np.ufunc, Literal["left", "right"]], ...] = ((np.greater, "right"), (np.greater_equal, "left"))
    block = block_size(num_tracks)
    scores_of, is_heard = (np.zeros(min(block, len(following)) * num_tracks, kind) for kind in (np.float32, np.bool_))
    for start in range(0, len(following), block):
        target = following[start : start + block]
        lines, end = np.arange(len(target)), start + len(target)
        table = scores(start, end)
        named = written = np.repeat(lines, np.diff(table.indptr)) * num_tracks + table.indices
        scores_of[written] = table.data
        if heard is not None:
            rows = heard(start, end)
            of_heard = (lines[:, None] * num_tracks + rows)[rows >= 0]
            is_heard[of_heard] = True
            written = named = np.unique(np.concatenate([named, of_heard]))
        # tracks with a score or a place in the session are named; all others differ in their plays alone
        line, row = np.divmod(named, num_tracks)
        kept, is_out = is_candidate[row], np.zeros(len(target), bool)
        if previous is not None:
            query = previous[start:end]
            kept, is_out = kept & (row != query[line]), is_candidate[query]
        line, row, named = line[kept], row[kept], named[kept]
        of_target, target_plays = lines * num_tracks + target, plays[target]
        score, is_last = scores_of[of_target], is_heard[of_target]
        higher, equal = scores_of[named] > score[line], scores_of[named] == score[line]
        first, same = is_heard[named] < is_last[line], is_heard[named] == is_last[line]
        num_others = len(sorted_plays) - is_out - np.bincount(line, minlength=len(target))
        counts = []
        for exceeds, side in sides:
            is_played = exceeds(plays[row], target_plays[line])
            counts.append(np.bincount(line, first | (same & (higher | (equal & is_played))), len(target)))
            others = len(sorted_plays) - np.searchsorted(sorted_plays, target_plays, side)
            if previous is not None:
                others -= is_out & exceeds(plays[query], target_plays)
            others = others - np.bincount(line, is_played, len(target))
            counts[-1] += np.where(is_last | (score < 0), num_others, np.where(score == 0, others, 0))
        ranks[start:end] = _rank(*counts)
        scores_of[written], is_heard[written] = 0, False
        on_block(len(target))
    return ranks


def ranks_by_plays(
    plays: Int64[np.ndarray, "N"], previous: Int64[np.ndarray, "Q"] | None, following: Int64[np.ndarray, "Q"]
) -> Float64[np.ndarray, "Q"]:
    """Rank each `following` by plays alone.

    Args:
        plays: popularity of every track.
        previous: rows of the tracks that are no candidates; None where every track is one.
        following: rows of the tracks that followed.

    Returns:
        Rank of each `following`, in [1, N].
    """
    return ranks_of_scores(
        scores=lambda first, end: no_scores(len(plays), end - first),
        plays=plays,
        previous=previous,
        following=following,
    )


def ranks_by_counts(
    previous_counts: Int64[np.ndarray, "N"],
    pairs: Callable[[], Iterable[tuple[Int64[np.ndarray, "P"], Int64[np.ndarray, "P"]]]],
    previous: Int64[np.ndarray, "Q"],
    following: Int64[np.ndarray, "Q"],
    *,
    every: bool = False,
) -> Float64[np.ndarray, "Q"]:
    """Rank each `following` by how often the training pairs had it after `previous`.

    Args:
        previous_counts: number of training pairs that have each track as the previous one.
        pairs: reads the previous and the following tracks of all training pairs, some at a time; few are in memory.
        previous: rows of the queries.
        following: rows of the tracks that followed.
        every: whether `previous` is a candidate too.

    Returns:
        Rank of each `following`, in [1, N].
    """
    num_tracks = len(previous_counts)
    ranks, nothing, group = np.empty(len(previous)), np.zeros(num_tracks, np.int64), np.full(num_tracks, -1)
    rows = np.unique(previous)
    group[rows] = np.cumsum(previous_counts[rows]) // _PAIRS_AT_ONCE
    for number in np.unique(group[rows]):  # some query tracks at a time, so that their pairs fit into memory
        chosen = [(before[kept], after[kept]) for before, after in pairs() for kept in [group[before] == number]]
        before, after = (np.concatenate(column) for column in zip(*chosen, strict=True))
        counts = csr_array((np.ones(len(before), np.float32), (before, after)), shape=(num_tracks, num_tracks))
        of = np.flatnonzero(group[previous] == number)
        ranks[of] = ranks_of_scores(
            scores=lambda first, end: csr_array(counts[previous[of[first:end]]]),  # noqa: B023 - called at once
            plays=nothing,
            previous=None if every else previous[of],
            following=following[of],
        )
    return ranks
