"""A finished run with new tracks: its head, its vectors, and its lists. Scores of the other tracks do not change.

N tracks of the run, M new ones, V width of a vector, K candidates of a list, Q lists, B queries in a block.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from segue.catalog import Catalog, Vocabulary
from segue.errors import InputError
from segue.models.contracts import Scorer
from segue.models.restoring import vocabulary_of_run
from segue.models.retrieval.nearest import lists_of_vectors, to_units
from segue.runs.recommendations import SCORE_DECIMALS, Recommendations, best_of_lines
from segue.runs.session_vectors import FILE, SessionVectors

_BLOCK = 2048
_CLOSE = 1e-4  # largest difference of two numbers of a vector of a run, computed twice


def with_new_tracks(
    old: Recommendations, queries: Float[Tensor, "Q V"], items: Float[Tensor, "Q V"]
) -> Recommendations:
    """Put new tracks into the lists of a run, and make lists for them.

    Every list has the K best tracks of the run, as before, and between them the new tracks with a higher score than the
    last of these. It is therefore the beginning of the order of all tracks, and without its new tracks it is the list
    of the run. Of equal scores, tracks of the run come first: they have more plays, or an earlier row.

    Args:
        old: the lists of the N tracks of the run, with scores and plays.
        queries: query vectors of the N tracks of the run, then of the M new ones.
        items: item vectors in the same order.

    Returns:
        N + M lists; new tracks have no plays.
    """
    assert old.plays is not None
    num_old, num_kept = old.rows.shape
    new = torch.arange(num_old, len(queries))
    search = lists_of_vectors(queries=queries, items=items[:num_old], query_rows=new, k=num_kept, plays=old.plays)
    rows, scores = search.collect()
    rows, scores = np.concatenate([old.rows, rows]), np.concatenate([old.scores, scores])
    parts = []
    for start in range(0, len(rows), _BLOCK):
        end = min(start + _BLOCK, len(rows))
        products = queries[start:end] @ items[num_old:].T
        own = torch.arange(max(start, num_old), max(end, num_old))
        products[own - start, own - num_old] = -torch.inf  # a track is no candidate for itself
        parts.append(_merged(rows[start:end], scores[start:end], to_units(products).numpy(), num_old))
    width = max(part.shape[1] for part, _ in parts)
    rows, scores = (
        np.concatenate([np.pad(one, ((0, 0), (0, width - one.shape[1])), constant_values=none) for one in column])
        for column, none in zip(zip(*parts, strict=True), (-1, np.nan), strict=True)
    )
    return Recommendations(rows=rows, scores=scores, plays=np.append(old.plays, np.zeros(len(new), np.int64)))


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
    order = best_of_lines(of, len(of), value)  # of equal scores, the old ones first
    of, row, value = of[order], row[order], value[order]
    column = np.arange(len(of)) - np.searchsorted(of, of)
    merged = np.full((len(rows), int(column.max(initial=-1)) + 1), -1, np.int64)
    merged_scores = np.full(merged.shape, np.nan, np.float32)
    merged[of, column], merged_scores[of, column] = row, (value / 10**SCORE_DECIMALS).astype(np.float32)
    return merged, merged_scores


def extended_scorer(
    build: Callable[[Vocabulary], Scorer],
    saved: Mapping[str, Tensor],
    catalog: Catalog,
    num_old: int,
    plays: Int64[np.ndarray, "M"],
) -> Scorer:
    """Build the head for a larger catalogue, and give it the numbers that were learned.

    What the head has for each track or artist grows: its first rows are those of the checkpoint, and the others are as
    the head builds them for tracks that training does not play.

    Args:
        build: factory of the head; takes the vocabulary.
        saved: `state_dict` of the checkpoint.
        catalog: the tracks of the run, then the new ones.
        num_old: number of tracks of the run (M).
        plays: number of plays of each of them in training.

    Returns:
        The head in evaluation mode.

    Raises:
        InputError: the checkpoint is not one of this head.
    """
    vocabulary = vocabulary_of_run(catalog, np.append(plays, np.zeros(len(catalog) - num_old, np.int64)), num_old)
    scorer = build(vocabulary)
    assert isinstance(scorer, torch.nn.Module)
    for name, tensor in scorer.state_dict().items():
        learned = saved.get(f"scorer.{name}")
        fits = learned is not None and learned.ndim == tensor.ndim and learned.shape[1:] == tensor.shape[1:]
        if learned is None or not fits or learned.shape[:1] > tensor.shape[:1]:
            raise InputError(f"add=: the checkpoint of the run does not fit its config.yaml ({name}); train it again")
        (tensor[: len(learned)] if tensor.ndim else tensor).copy_(learned)
    return scorer.eval()


def extended_vectors(
    path: Path,
    old: Catalog,
    queries: Float32[np.ndarray, "N V"],
    items: Float32[np.ndarray, "N V"],
    catalog: Catalog,
    *,
    run: str,
    catalogue: str,
) -> SessionVectors:
    """The vectors of a run, and after them those of the new tracks.

    Args:
        path: the file of the run.
        old: its catalogue.
        queries: query vectors that the head gives for all tracks, those of the run first.
        items: item vectors in the same order.
        catalog: the tracks of the run, then the new ones.
        run: names the run in messages.
        catalogue: names the file of the catalogue.

    Raises:
        InputError: those of the run are not those that its checkpoint and the catalogue give.
    """
    of_run, num_old = SessionVectors.read(path, old), len(old)
    for ours, theirs in ((queries, of_run.queries), (items, of_run.items)):
        fits = ours.shape[1] == theirs.shape[1]
        differs = (np.abs(ours[:num_old] - theirs) > _CLOSE).any(1) if fits else np.ones(num_old, bool)
        if not differs.any():
            continue
        if fits and catalog.attributes:
            example = old.track_ids[differs.argmax()]
            raise InputError(
                f"catalogue={catalogue}: tracks of the run, such as {example}, have other values of "
                f"{', '.join(catalog.attributes)} than in the run; correct them, or train a run with this catalogue"
            )
        raise InputError(f"add={run}: its checkpoint and its {FILE} are of different weights; train it again")
    return replace(
        of_run.at_rows(np.arange(num_old), len(queries)),
        queries=np.concatenate([of_run.queries, queries[num_old:]]),
        items=np.concatenate([of_run.items, items[num_old:]]),
    )
