"""Sparse score matrices of tracks with one another.

N tracks in the catalogue, M of them with scores, B queries in a block.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy.sparse import csr_array
from torch import Tensor

_MAX_SCORES = 1 << 25  # scores in memory at once


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


def no_scores(num_tracks: int) -> csr_array:
    """Build a score matrix of all tracks without entries."""
    return csr_array(np.zeros((num_tracks, 0), np.float32), shape=(num_tracks, num_tracks))
