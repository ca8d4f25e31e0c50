"""Best candidates from a sparse score matrix; `exact.py` does the same from vectors.

N tracks in the catalogue, Q queries, K candidates of a list, B queries in a block, E scores in a block. Scores are
positive. Candidates are sorted by score, and candidates without a score come last. Among equal scores the track with
more plays comes first. The query itself is never a candidate.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from scipy.sparse import csr_array
from torch import Tensor

from segue.models.retrieval.lists import ListBlock, ListSearch
from segue.runs.recommendations import check_k

_MAX_SCORES = 1 << 25
"""Scores in memory at once."""
Scores = Callable[[Int64[np.ndarray, "B"]], csr_array]
"""Takes rows of queries and returns their scores, B × N."""


def top_k(
    *,
    scores: Scores,
    plays: Int64[np.ndarray, "N"],
    query_rows: Int64[np.ndarray, "Q"],
    k: int,
    on_block: Callable[[int], None] = lambda _: None,
    block: int = 512,
) -> tuple[Int64[np.ndarray, "Q K"], Float32[np.ndarray, "Q K"]]:
    """Find the K best candidates of each query.

    Args:
        scores: computes the scores of queries.
        plays: popularity of every track.
        query_rows: rows to build lists for.
        k: length of each list, 1 <= k < N.
        on_block: called with the number of queries done after each block.
        block: number of queries scored at once.

    Returns:
        Rows of the candidates, best first, and their scores; the score is 0 where there is none.

    Raises:
        InputError: `k` is not in [1, N-1].
    """
    return sparse_lists(scores=scores, plays=plays, query_rows=query_rows, k=k, block=block).collect(on_block)


def sparse_lists(
    *, scores: Scores, plays: Int64[np.ndarray, "N"], query_rows: Int64[np.ndarray, "Q"], k: int, block: int = 512
) -> ListSearch:
    """Prepare the search for the lists of `top_k`.

    Args:
        scores: computes the scores of queries.
        plays: popularity of every track.
        query_rows: rows to build lists for.
        k: length of each list, 1 <= k < N.
        block: number of queries scored at once.

    Returns:
        The search.

    Raises:
        InputError: `k` is not in [1, N-1].
    """
    check_k(k, len(plays))
    by_plays = np.lexsort((np.arange(len(plays)), -plays))
    place = np.empty_like(by_plays)
    place[by_plays] = np.arange(len(plays))

    def search(nth: int) -> ListBlock:
        start = nth * block
        query = query_rows[start : start + block]
        rows, list_scores = np.empty((len(query), k), np.int64), np.zeros((len(query), k), np.float32)
        line, candidate, score = _scored(scores, query)
        best = np.lexsort((place[candidate], -score, line))
        line, candidate, score = line[best], candidate[best], score[best]
        nth_of_line = np.arange(len(line)) - np.searchsorted(line, line)
        kept = nth_of_line < k
        rows[line[kept], nth_of_line[kept]] = candidate[kept]
        list_scores[line[kept], nth_of_line[kept]] = score[kept]
        # A list with n < k scores is filled with the k - n most played tracks that are neither in it nor its query.
        # They are among the first k + 1 tracks by plays.
        free = np.ones((len(query), k + 1), bool)
        popular = place[candidate] <= k
        free[line[popular], place[candidate[popular]]] = False
        popular = place[query] <= k
        free[popular, place[query[popular]]] = False
        nth_free = free.cumsum(1) - 1 + np.bincount(line, minlength=len(query))[:, None]
        lines, places = (free & (nth_free < k)).nonzero()
        rows[lines, nth_free[lines, places]] = by_plays[places]
        return ListBlock(np.arange(start, start + len(query)), rows, list_scores)

    return ListSearch(num_queries=len(query_rows), k=k, num_blocks=-(-len(query_rows) // block), block=search)


def _scored(
    scores: Scores, query: Int64[np.ndarray, "B"]
) -> tuple[Int64[np.ndarray, "E"], Int64[np.ndarray, "E"], Float32[np.ndarray, "E"]]:
    """All candidates that have a score: place of their query in the block, their row and their score."""
    table = scores(query)
    line = np.repeat(np.arange(len(query)), np.diff(table.indptr))
    candidate = table.indices.astype(np.int64)
    score = table.data.astype(np.float32)
    kept = (candidate != query[line]) & (score > 0)
    return line[kept], candidate[kept], score[kept]


def largest_positive(
    scores: Callable[[slice], Float[Tensor, "B M"]], rows: Int64[np.ndarray, "M"], *, num_tracks: int, num_kept: int
) -> csr_array:
    """Keep the highest positive scores of some tracks with one another, each without its score with itself.

    Args:
        scores: computes the scores of some of them with all of them; they may be changed.
        rows: rows of these tracks in the catalogue.
        num_tracks: number of tracks in the catalogue (N).
        num_kept: largest number of candidates for each track.

    Returns:
        Scores of the kept candidates (columns) of each query (rows), N × N.
    """
    parts, at_once = [], max(1, _MAX_SCORES // max(1, len(rows)))
    for start in range(0, max(1, len(rows)), at_once):
        block = scores(slice(start, start + at_once))
        lines = torch.arange(len(block))
        block[lines, start + lines] = 0
        values, columns = block.topk(min(num_kept, len(rows)))
        line, nth = (values > 0).nonzero(as_tuple=True)
        parts.append((values[line, nth].numpy(), rows[start + line.numpy()], rows[columns[line, nth].numpy()]))
    value, row, column = (np.concatenate(part) for part in zip(*parts, strict=True))
    return csr_array((value, (row, column)), shape=(num_tracks, num_tracks))
