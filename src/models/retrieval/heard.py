"""Ranks of next tracks where each query has a history, by vectors and by sparse scores; heard tracks can come last.

Q queries, B queries in a block, N tracks in the catalogue, H tracks of a history. `exact.py` and `sparse.py` do the
same for queries of one track, where all queries of a track share a line of scores.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from scipy.sparse import csr_array
from torch import Tensor

from segue.models.contracts import Queries
from segue.models.retrieval.exact import TIE, refuse_non_finite

_MAX_SCORES = 2**23
"""Number of scores in memory at once."""


def demote(scores: Float[Tensor, "B N"], heard: Int64[Tensor, "B H"], penalty: float) -> Float[Tensor, "B N"]:
    """Subtract a penalty from the scores of tracks already heard, in place.

    Args:
        scores: scores of all tracks.
        heard: rows of the tracks already heard, -1 where there is none.
        penalty: what is subtracted. Infinity puts these tracks below all others, in their own order.

    Returns:
        The same tensor.
    """
    if not penalty:
        return scores
    is_there = heard >= 0
    rows = torch.where(is_there, heard, heard[:, :1].clamp(min=0))  # a row twice is written twice with the same value
    lowered = penalty if math.isfinite(penalty) else 1 + (scores.amax(1) - scores.amin(1))[:, None]
    has_any = is_there[:, :1]
    values = scores.gather(1, rows)
    return scores.scatter_(1, rows, torch.where(has_any, values - lowered, values))


def ranks_of_vectors(
    *,
    queries: Callable[[int, int], Queries],
    items: Float[Tensor, "N V"],
    following: Int64[Tensor, "Q"],
    penalty: float,
    on_block: Callable[[int], None] = lambda _: None,
    among: Bool[Tensor, "N"] | None = None,
) -> Float64[np.ndarray, "Q"]:
    """Rank each `following` among all candidates of its query, by inner product.

    Candidates that tie share the mean of the ranks they occupy.

    Args:
        queries: computes the queries from one place to another.
        items: item vector of every track.
        following: rows of the tracks that followed; each differs from the `previous` of its query.
        penalty: subtracted from the scores of tracks already heard; infinity puts them last.
        on_block: called with the number of queries done after each block.
        among: True for each track that is a candidate; None for all tracks.

    Returns:
        Rank of each `following`, in [1, N-1].

    Raises:
        InputError: a vector is not finite.
    """
    block, ranks = max(1, min(512, _MAX_SCORES // len(items))), [torch.empty(0, dtype=torch.float64)]
    for start in range(0, len(following), block):
        target = following[start : start + block, None]
        of_block = queries(start, start + len(target))
        refuse_non_finite(of_block.vectors, items)
        scores = demote((of_block.vectors @ items.T)[of_block.of_pair], of_block.heard, penalty)
        scores.scatter_(1, of_block.previous[of_block.of_pair][:, None], -torch.inf)
        if among is not None:
            scores.masked_fill_(~among, -torch.inf)
        target_score = scores.gather(1, target)
        margin = TIE * target_score.abs().clamp(min=1)
        above = (scores > target_score + margin).sum(1)
        not_below = (scores >= target_score - margin).sum(1)  # includes the target
        ranks.append((above + 1 + not_below).double().cpu() / 2)
        on_block(len(target))
    return torch.cat(ranks).numpy()


def ranks_of_scores(
    *,
    scores: Callable[[int, int], csr_array],
    plays: Int64[np.ndarray, "N"],
    previous: Int64[np.ndarray, "Q"],
    following: Int64[np.ndarray, "Q"],
    heard: Callable[[int, int], Int64[np.ndarray, "B H"]],
    on_block: Callable[[int], None] = lambda _: None,
    among: Bool[np.ndarray, "N"] | None = None,
) -> Float64[np.ndarray, "Q"]:
    """Rank each `following` among all candidates of its query, by sparse scores, then by plays.

    Candidates with equal scores and equal plays share the mean of the ranks they occupy.

    Args:
        scores: computes the scores of the queries from one place to another.
        plays: popularity of every track.
        previous: rows of the tracks that are no candidates, one for each query.
        following: rows of the tracks that followed; each differs from `previous`.
        heard: looks up the rows of the tracks that come after all others; -1 where there is none.
        on_block: called with the number of queries done after each block.
        among: True for each track that is a candidate; None for all tracks.

    Returns:
        Rank of each `following`, in [1, N-1].
    """
    block, ranks = max(1, min(512, _MAX_SCORES // len(plays))), [np.empty(0)]
    for start in range(0, len(following), block):
        target = following[start : start + block]
        lines, end = np.arange(len(target)), start + len(target)
        table = scores(start, end).toarray()
        is_heard = np.zeros(table.shape, bool)
        of_block = heard(start, end)
        line, place = (of_block >= 0).nonzero()
        is_heard[line, of_block[line, place]] = True
        score, of_plays = table[lines, target][:, None], plays[target][:, None]
        higher = (table > score) | ((table == score) & (plays > of_plays))
        equal = (table == score) & (plays == of_plays)
        is_target_heard = is_heard[lines, target][:, None]
        better = np.where(is_heard == is_target_heard, higher, is_target_heard)
        equal &= is_heard == is_target_heard
        for flags in (better, equal):
            flags[lines, previous[start:end]] = False
            if among is not None:
                flags &= among
        ranks.append(better.sum(1) + (1 + equal.sum(1)) / 2)
        on_block(len(target))
    return np.concatenate(ranks)
