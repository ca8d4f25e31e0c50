"""Scorers without dropout, bias and offsets, and contexts without learned numbers; a test sets what it needs."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from segue.catalog import example_vocabulary
from segue.models.contexts import LastTrack, Session
from segue.models.heads import CosineMix, TwoTableDot
from segue.models.ranker import Ranker, Scoring
from segue.models.retrieval.lists import ListSearch
from segue.models.retrieval.nearest import near_lists

COSINES: Callable[..., CosineMix] = partial(CosineMix, init_std=0.1, item_bias=False, dropout=0.0, track_dropout=0.0)
DOT: Callable[..., TwoTableDot] = partial(TwoTableDot, init_std=0.1)

LAST_TRACK: Callable[..., LastTrack] = LastTrack
"""Factory of `context=last`."""
SESSION: Callable[..., Session] = partial(Session, max_length=4, decay=0.5, skipped=1.0, repeats="always")
LAST = LAST_TRACK(example_vocabulary(), ["track"], learns=True)


def lists_of(
    queries: Tensor,
    items: Tensor,
    k: int,
    plays: np.ndarray,
    rows: np.ndarray | None = None,
    recall: float | None = None,
) -> ListSearch:
    """The search for the lists of tracks by the products of vectors."""
    exact = ByTable(queries @ items.T, plays, near_ties=True).lists(k, rows)
    return exact if recall is None else near_lists(exact, queries, items, rows, plays=plays, part=None, recall=recall)


class ByTable(Ranker):
    """Ranks by a table of scores after each previous track."""

    scorer = loss = listener = temperature = None

    def __init__(self, table: Tensor, order: np.ndarray | None = None, *, near_ties: bool = False) -> None:
        self.context, self.near_ties, self._table = LAST, near_ties or order is None, table
        self.order = np.zeros(table.shape[1], np.int64) if order is None else order

    def scoring(self, **_: bool) -> Scoring:
        return lambda histories: self._table[torch.from_numpy(histories.previous)].clone()


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """The numbers of a model, without what was decided for it."""
    return {name: one for name, one in model.state_dict().items() if isinstance(one, Tensor)}
