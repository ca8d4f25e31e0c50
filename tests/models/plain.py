"""Scorers without dropout, bias and offsets, and contexts without learned numbers; a test sets what it needs."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor, nn

from segue.catalog import example_vocabulary
from segue.models.contexts import LastTrack, Session
from segue.models.heads import CosineMix, TwoTableDot
from segue.models.retrieval.nearest import lists_of_vectors

COSINES: Callable[..., CosineMix] = partial(CosineMix, init_std=0.1, item_bias=False, dropout=0.0, track_dropout=0.0)
DOT: Callable[..., TwoTableDot] = partial(TwoTableDot, init_std=0.1)

LAST_TRACK: Callable[..., LastTrack] = LastTrack
"""Factory of `context=last`."""
SESSION: Callable[..., Session] = partial(
    Session, max_length=4, decay=0.5, skipped=1.0, normalise=0.0, repeats="always"
)
LAST = LAST_TRACK(example_vocabulary(), ["track"], learns=True)


def top_k(*, on_block: Callable[[int], None] = lambda _: None, **search: Any) -> tuple[np.ndarray, np.ndarray]:
    """All lists of a search for vectors, and their scores."""
    return lists_of_vectors(**search).collect(on_block)


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """The numbers of a model, without what was decided for it."""
    return {name: one for name, one in model.state_dict().items() if isinstance(one, Tensor)}
