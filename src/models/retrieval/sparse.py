"""Best candidates from a sparse score matrix; `nearest.py` does the same from vectors.

N tracks in the catalogue, Q queries, K candidates of a list, B queries in a block, E scores in a block. Scores are
positive. Candidates are sorted by score, and candidates without a score come last. Among equal scores the track with
more plays comes first. The query itself is never a candidate.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy.sparse import csr_array
from torch import Tensor

from segue.catalog import most_played
from segue.models.retrieval.lists import ListBlock, ListSearch
from segue.runs.recommendations import best_of_lines, check_k

_MAX_SCORES = 1 << 25  # scores in memory at once
Scores = Callable[[Int64[np.ndarray, "B"]], csr_array]
"""Takes rows of queries and returns their scores, B × N."""


def sparse_lists(
    *, scores: Scores, plays: Int64[np.ndarray, "N"], query_rows: Int64[np.ndarray, "Q"], k: int, block: int = 512
) -> ListSearch:
    """Prepare the search for the K best candidates of each query; a score is 0 where there is none.

    Args:
        scores: computes the scores of queries.
        plays: popularity of every track.
        query_rows: rows to build lists for.
        k: length of each list, 1 <= k < N.
        block: number of queries scored at once.

    Raises:
        InputError: `k` is not in [1, N-1].
    """
    check_k(k, len(plays))
    by_plays = most_played(plays)
    place = np.argsort(by_plays)

    def search(number: int) -> ListBlock:
        query = query_rows[number * block :][:block]
        table = scores(query)
        line, candidate = np.repeat(np.arange(len(query)), np.diff(table.indptr)), table.indices.astype(np.int64)
        scored = np.flatnonzero((candidate != query[line]) & (table.data.astype(np.float32) > 0))
        line, candidate, score = line[scored], candidate[scored], table.data[scored].astype(np.float32)
        # The first k + 1 tracks by plays fill up a list, without its query and those that have a score.
        is_free, is_popular = by_plays[: k + 1] != query[:, None], place[candidate] <= k
        is_free[line[is_popular], place[candidate[is_popular]]] = False
        of_free, free = is_free.nonzero()
        line, candidate = np.append(line, of_free), np.append(candidate, by_plays[free])
        score = np.append(score, np.zeros(len(free), np.float32))
        best = best_of_lines(line, k, score, -place[candidate])  # k of each line
        places = number * block + np.arange(len(query))
        return ListBlock(places, candidate[best].reshape(-1, k), score[best].reshape(-1, k))

    return ListSearch(num_queries=len(query_rows), k=k, num_blocks=-(-len(query_rows) // block), block=search)


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


def no_scores(num_tracks: int, num_lines: int | None = None) -> csr_array:
    """Build a score matrix without entries.

    Args:
        num_tracks: number of tracks in the catalogue (N).
        num_lines: number of queries; None for all tracks.

    Returns:
        An empty matrix with a column for each track.
    """
    num = num_tracks if num_lines is None else num_lines
    return csr_array(np.zeros((num, 0), np.float32), shape=(num, num_tracks))


def entries_of(table: csr_array, lines: Int64[Tensor, "B"]) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """The entries of lines of a sparse matrix, as torch needs them.

    Returns:
        The places of the entries, as numbers of `lines` and columns, and their values.
    """
    some = csr_array(table[lines.cpu().numpy()])
    line = torch.from_numpy(np.repeat(np.arange(len(lines)), np.diff(some.indptr))).to(lines.device)
    column = torch.from_numpy(some.indices.astype(np.int64)).to(lines.device)
    return (line, column), torch.from_numpy(some.data)
