"""The lists of a finished run with new tracks in them. The scores of the others do not change.

N tracks of the run, M new ones, V width of a vector, K candidates of a list, Q lists, B queries in a block.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from segue.models.retrieval.nearest import lists_of_vectors, to_units
from segue.runs.recommendations import SCORE_DECIMALS, Recommendations

_BLOCK = 2048


def with_new_tracks(
    old: Recommendations,
    queries: Float[Tensor, "Q V"],
    items: Float[Tensor, "Q V"],
    on_block: Callable[[int], None] = lambda _: None,
) -> Recommendations:
    """Put new tracks into the lists of a run, and make lists for them.

    Every list has the K best tracks of the run, as before, and between them the new tracks with a higher score than the
    last of these. It is therefore the beginning of the order of all tracks, and without its new tracks it is the list
    of the run. Of equal scores, tracks of the run come first: they have more plays, or an earlier row.

    Args:
        old: the lists of the N tracks of the run, with scores and plays.
        queries: query vectors of the N tracks of the run, then of the M new ones.
        items: item vectors in the same order.
        on_block: called with the number of lists done after each block.

    Returns:
        N + M lists; new tracks have no plays.
    """
    assert old.plays is not None
    num_old, num_kept = old.rows.shape
    new = torch.arange(num_old, len(queries))
    search = lists_of_vectors(queries=queries, items=items[:num_old], query_rows=new, k=num_kept, plays=old.plays)
    rows, scores = search.collect(on_block)
    rows, scores = np.concatenate([old.rows, rows]), np.concatenate([old.scores, scores])
    parts = []
    for start in range(0, len(rows), _BLOCK):
        end = min(start + _BLOCK, len(rows))
        products = queries[start:end] @ items[num_old:].T
        own = torch.arange(max(start, num_old), max(end, num_old))
        products[own - start, own - num_old] = -torch.inf  # a track is no candidate for itself
        parts.append(_merged(rows[start:end], scores[start:end], to_units(products).numpy(), num_old))
        on_block(min(end, num_old) - min(start, num_old))
    width = max(part.shape[1] for part, _ in parts)
    padded = [
        (_padded(of_rows, width, -1), _padded(of_scores, width, np.float32(np.nan))) for of_rows, of_scores in parts
    ]
    plays = np.append(old.plays, np.zeros(len(new), np.int64))
    all_rows, all_scores = (np.concatenate(column) for column in zip(*padded, strict=True))
    return Recommendations(rows=all_rows, scores=all_scores, plays=plays)


def _merged(
    rows: Int64[np.ndarray, "B K"],
    scores: Float32[np.ndarray, "B K"],
    of_new: Float32[np.ndarray, "B M"],
    first_new: int,
) -> tuple[Int64[np.ndarray, "B L"], Float32[np.ndarray, "B L"]]:
    """The lists with the new tracks above their last place; `of_new` is in units of 10^-SCORE_DECIMALS."""
    units = np.rint(scores.astype(np.float64) * 10**SCORE_DECIMALS)
    last = np.where(rows[:, -1] >= 0, units[:, -1], -np.inf)  # a list that has ended has room for all
    line, nth = (of_new > last[:, None]).nonzero()
    old_line, place = (rows >= 0).nonzero()
    value = np.concatenate([units[old_line, place], of_new[line, nth].astype(np.float64)])
    row = np.concatenate([rows[old_line, place], first_new + nth])
    of = np.concatenate([old_line, line])
    order = np.lexsort((np.arange(len(of)), -value, of))  # of equal scores, the old ones first
    of, row, value = of[order], row[order], value[order]
    column = np.arange(len(of)) - np.searchsorted(of, of)
    width = int(column.max(initial=-1)) + 1
    merged = np.full((len(rows), width), -1, np.int64)
    merged_scores = np.full(merged.shape, np.nan, np.float32)
    merged[of, column], merged_scores[of, column] = row, (value / 10**SCORE_DECIMALS).astype(np.float32)
    return merged, merged_scores


def _padded(table: np.ndarray, width: int, value: int | np.float32) -> np.ndarray:
    return np.pad(table, ((0, 0), (0, width - table.shape[1])), constant_values=value)
