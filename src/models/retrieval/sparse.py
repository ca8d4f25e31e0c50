"""What `exact.py` answers for vectors, for scores that only few pairs of tracks have.

N tracks in the catalogue, Q queries, K candidates kept, B queries of a block, E scores in it. Candidates stand in the
order of their scores, which are positive; those without one follow. Where scores are equal, the track played more comes
first. The query itself is never a candidate.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
from jaxtyping import Float32, Float64, Int64
from scipy.sparse import csr_array

from src.recommendations import check_k

Scores = Callable[[Int64[np.ndarray, "B"]], csr_array]
"""From the rows of queries to their scores, B × N."""


def top_k(
    *,
    scores: Scores,
    plays: Int64[np.ndarray, "N"],
    query_rows: Int64[np.ndarray, "Q"],
    k: int,
    on_block: Callable[[int], None] = lambda _: None,
    block: int = 512,
) -> tuple[Int64[np.ndarray, "Q K"], Float32[np.ndarray, "Q K"]]:
    """The K best candidates of each query and their scores, 0 for what has none.

    Args:
        scores: scores of queries.
        plays: popularity of every track.
        query_rows: the rows to make lists for.
        k: length of each list, 1 <= k < N.
        on_block: called with the number of queries done after each block.
        block: queries scored at once.

    Raises:
        InputError: `k` does not lie in [1, N-1].
    """
    check_k(k, len(plays))
    by_plays = np.lexsort((np.arange(len(plays)), -plays))
    place = np.empty_like(by_plays)
    place[by_plays] = np.arange(len(plays))
    rows = np.empty((len(query_rows), k), np.int64)
    found = np.zeros((len(query_rows), k), np.float32)
    for start in range(0, len(query_rows), block):
        query, chosen = query_rows[start : start + block], slice(start, start + block)
        line, candidate, score = _scored(scores, query)
        best = np.lexsort((place[candidate], -score, line))
        line, candidate, score = line[best], candidate[best], score[best]
        nth = np.arange(len(line)) - np.searchsorted(line, line)
        kept = nth < k
        rows[chosen][line[kept], nth[kept]] = candidate[kept]
        found[chosen][line[kept], nth[kept]] = score[kept]
        # A list with n < k scores wants k - n more: so many of the first k + 1 by plays are not in it, nor its query.
        free = np.ones((len(query), k + 1), bool)
        popular = place[candidate] <= k
        free[line[popular], place[candidate[popular]]] = False
        popular = place[query] <= k
        free[popular, place[query[popular]]] = False
        nth_free = free.cumsum(1) - 1 + np.bincount(line, minlength=len(query))[:, None]
        lines, places = (free & (nth_free < k)).nonzero()
        rows[chosen][lines, nth_free[lines, places]] = by_plays[places]
        on_block(len(query))
    return rows, found


def mean_ranks(
    *,
    scores: Scores,
    plays: Int64[np.ndarray, "N"],
    previous: Int64[np.ndarray, "Q"],
    following: Int64[np.ndarray, "Q"],
    on_block: Callable[[int], None] = lambda _: None,
    block: int = 512,
) -> Float64[np.ndarray, "Q"]:
    """Rank of each `following` among all candidates of its `previous`.

    Candidates that are equal in score and plays share the mean of the ranks they take up.

    Args:
        scores: scores of queries.
        plays: popularity of every track.
        previous: rows of the queries.
        following: rows of the tracks that followed, each another track than its query.
        on_block: called with the number of queries done after each block.
        block: queries scored at once.
    """
    sorted_plays = np.sort(plays)
    sides: tuple[tuple[Literal["left", "right"], np.ufunc], ...] = (("right", np.greater), ("left", np.greater_equal))
    ranks = [np.empty(0)]
    for start in range(0, len(previous), block):
        query, target = previous[start : start + block], following[start : start + block]
        line, candidate, score = _scored(scores, query)
        of_target = np.zeros(len(query), np.float32)
        is_target = candidate == target[line]
        of_target[line[is_target]] = score[is_target]
        better, equal = score > of_target[line], score == of_target[line]
        unscored = of_target == 0  # then all that have a score are better, and plays decide among the others
        bounds = []
        for side, exceeds in sides:
            more_played = exceeds(plays[candidate], plays[target][line])
            count = np.bincount(line, better | (equal & more_played), len(query))
            others = len(plays) - np.searchsorted(sorted_plays, plays[target], side)
            others -= exceeds(plays[query], plays[target])
            bounds.append(count + np.where(unscored, others - np.bincount(line, more_played, len(query)), 0))
        ranks.append((bounds[0] + 1 + bounds[1]) / 2)
        on_block(len(query))
    return np.concatenate(ranks)


def _scored(
    scores: Scores, query: Int64[np.ndarray, "B"]
) -> tuple[Int64[np.ndarray, "E"], Int64[np.ndarray, "E"], Float32[np.ndarray, "E"]]:
    """Place of the query in its block, candidate and score, of all candidates that have a score."""
    table = scores(query)
    line = np.repeat(np.arange(len(query)), np.diff(table.indptr))
    candidate = table.indices.astype(np.int64)
    score = table.data.astype(np.float32)
    kept = (candidate != query[line]) & (score > 0)
    return line[kept], candidate[kept], score[kept]
