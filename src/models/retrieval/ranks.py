"""Ranks of tracks that followed, among all candidates. Those that tie share the mean of the ranks they occupy.

Q queries, B queries of a block, U lines of scores, N tracks in the catalogue, H tracks heard, L ages that are boosted.
"""

from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64, Real
from scipy.sparse import csr_array
from torch import Tensor

from segue.catalog import places_of
from segue.errors import InputError
from segue.statistics.ranking import ndcg_at

TIE = 1e-6
"""Two scores tie if they differ by less than this, times max(1, |score|). Smaller differences are float32 noise."""
ndcg = partial(ndcg_at, k=10)
"""From the ranks of queries to ndcg@10 of each."""
_MAX_SCORES = 2**25  # number of scores in memory at once


def block_size(num_tracks: int) -> int:
    """How many queries have their scores of all tracks in memory together."""
    return max(1, min(512, _MAX_SCORES // num_tracks))


def lines_of(keys: Int64[np.ndarray, "B"]) -> tuple[Int64[np.ndarray, "B"], Int64[np.ndarray, "U"]]:
    """A line for each distinct key, those with most queries first.

    Returns:
        The line of each query, and the first query of each line.
    """
    _, first, line, num = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    lines = np.argsort(-num, kind="stable")
    return np.argsort(lines)[line], first[lines]


@torch.no_grad()
def ranks_in(
    scores: Float[Tensor, "U N"],
    line: Int64[np.ndarray, "B"],
    following: Int64[np.ndarray, "B"],
    order: Real[np.ndarray, "N"] | None = None,
) -> Float64[np.ndarray, "B"]:
    """Rank tracks by lines of scores.

    Args:
        scores: of all tracks; −∞ for what is no candidate.
        line: the line of each query; those with most queries come first.
        following: the row of the track of each query.
        order: decides between equal scores, the higher value first; None where scores that differ by TIE are equal.

    Returns:
        Rank of each track, in [1, N].
    """
    ranks, place = np.empty(len(line)), torch.from_numpy(following).to(scores.device)
    num = np.bincount(line, minlength=len(scores))
    by_line, first = np.argsort(line, kind="stable"), num.cumsum() - num
    # as small numbers, which are compared in half the time
    values = None if order is None else torch.from_numpy(places_of(order)).to(scores)
    for nth in range(int(num.max(initial=0))):  # each round ranks one query of every line that has one left
        queries = by_line[first[: (num > nth).sum()] + nth]
        target = place[torch.from_numpy(queries).to(scores.device), None]
        ranks[queries] = _mean_ranks(scores[: len(queries)], target, values)
    return ranks


def _mean_ranks(
    scores: Float[Tensor, "B N"], target: Int64[Tensor, "B 1"], order: Real[Tensor, "N"] | None
) -> Float64[np.ndarray, "B"]:
    # a product with ones is several times as fast as a sum of bools, and exact below 2^24
    num_cached = max(1, 2**21 // scores.shape[1]) if scores.device.type == "cpu" else len(scores)  # lines in the cache
    flags = torch.empty(min(num_cached, len(scores)), scores.shape[1], device=scores.device)
    ones, more, found = torch.ones(scores.shape[1], device=scores.device), torch.empty_like(flags), []
    for some, row in zip(scores.split(len(flags)), target.split(len(flags)), strict=True):
        score, out = some.gather(1, row), flags[: len(some)]
        if order is None:
            margin = TIE * score.abs().clamp(min=1)
            above = torch.gt(some, score + margin, out=out) @ ones
            found.append(above + torch.ge(some, score - margin, out=out) @ ones)
            continue
        above, equal = torch.gt(some, score, out=out) @ ones, torch.eq(some, score, out=out)
        num = equal @ ones
        tied = (num > 1).nonzero()[:, 0]
        if len(tied):  # of the same score; the others are above or below
            is_equal, of_target = equal[tied], order[row[tied]]
            above[tied] += torch.gt(order, of_target, out=more[: len(tied)]).mul_(is_equal) @ ones
            num[tied] = torch.eq(order, of_target, out=more[: len(tied)]).mul_(is_equal) @ ones
        found.append(2 * above + num)
    return np.asarray((torch.cat(found).double().cpu().numpy() + 1) / 2)


def boost_heard(
    scores: Float[Tensor, "B N"], heard: Int64[Tensor, "B H"], boosts: Float32[np.ndarray, "L"]
) -> Float[Tensor, "B N"]:
    """Boost the scores of tracks already heard, in place.

    Args:
        scores: scores of all tracks.
        heard: rows of the tracks already heard, newest first, each once; -1 where there is none.
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
    return scores.scatter_add_(1, heard.clamp(min=0), torch.where(heard >= 0, added, 0.0))


def add_entries(scores: Float[Tensor, "B N"], table: csr_array) -> Float[Tensor, "B N"]:
    """Add the entries of a sparse matrix to scores, in place.

    Returns:
        The same tensor.
    """
    line, column = np.repeat(np.arange(table.shape[0]), np.diff(table.indptr)), table.indices.astype(np.int64)
    places = tuple(torch.from_numpy(one).to(scores.device) for one in (line, column))
    return scores.index_put_(places, torch.from_numpy(table.data).to(scores), accumulate=True)


def dense(table: csr_array) -> Float[Tensor, "B N"]:
    """A sparse matrix as scores: 0 where it has no entry."""
    return torch.from_numpy(table.astype(np.float32).toarray())


def refuse_non_finite(*tables: Tensor) -> None:
    """Refuse NaN and infinity. A comparison with NaN is false, therefore NaN would rank first."""
    if not all(bound.isfinite() for table in tables if len(table) for bound in table.aminmax()):
        raise InputError("training diverged: vectors are not finite and cannot be ranked; lower optimizer.lr")


def ranks_by_plays(
    plays: Real[np.ndarray, "N"], previous: Int64[np.ndarray, "Q"] | None, following: Int64[np.ndarray, "Q"]
) -> Float64[np.ndarray, "Q"]:
    """Rank each `following` by plays alone.

    Args:
        plays: popularity of every track.
        previous: rows of the tracks that are no candidates; None where every track is one.
        following: rows of the tracks that followed.

    Returns:
        Rank of each `following`, in [1, N].
    """
    ordered, own = np.sort(plays), plays[following]
    others: Bool[np.ndarray, Q] | float = 0.0
    if previous is not None:
        others = (plays[previous] > own) + (plays[previous] >= own) * 1.0
    places = np.searchsorted(ordered, own, "right") + np.searchsorted(ordered, own, "left")
    return np.asarray((2 * len(plays) - places - others + 1) / 2)


def ranks_by_counts(
    pairs: tuple[Int64[np.ndarray, "P"], Int64[np.ndarray, "P"]],
    num_tracks: int,
    previous: Int64[np.ndarray, "Q"],
    following: Int64[np.ndarray, "Q"],
    *,
    every: bool = False,
) -> Float64[np.ndarray, "Q"]:
    """Rank each `following` by how often the training pairs had it after `previous`.

    Args:
        pairs: the previous and the following tracks of all training pairs.
        num_tracks: number of tracks in the catalogue (N).
        previous: rows of the queries.
        following: rows of the tracks that followed.
        every: whether `previous` is a candidate too.

    Returns:
        Rank of each `following`, in [1, N].
    """
    [kept] = np.isin(pairs[0], previous).nonzero()
    places = pairs[0][kept], pairs[1][kept]
    counts = csr_array((np.ones(len(kept), np.float32), places), shape=(num_tracks, num_tracks))
    ranks, size = np.empty(len(following)), block_size(num_tracks)
    for start in range(0, len(following), size):
        rows = previous[start : start + size]
        scores = dense(csr_array(counts[rows]))
        if not every:
            scores.scatter_(1, torch.from_numpy(rows)[:, None], -torch.inf)
        ranks[start : start + size] = ranks_in(scores, np.arange(len(rows)), following[start : start + size])
    return ranks
