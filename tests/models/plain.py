"""Scorers without dropout, bias and offsets, and contexts without learned numbers; a test sets what it needs."""

from collections.abc import Callable
from functools import partial
from typing import Any

from segue.catalog import example_vocabulary
from segue.models.context.last_track import LastTrack
from segue.models.context.session import Session
from segue.models.heads import CosineMix, TwoTableDot

_BARE: dict[str, Any] = {"init_std": 0.1, "item_bias": False, "dropout": 0.0, "track_dropout": 0.0}
COSINES: Callable[..., CosineMix] = partial(CosineMix, prior=None, **_BARE)
DOT: Callable[..., TwoTableDot] = partial(TwoTableDot, **_BARE)

_CANDIDATES: dict[str, Any] = {"repeats": "always", "repeats_up_to": 0.0, "repeats_within": "auto"}
LAST_TRACK: Callable[..., LastTrack] = partial(LastTrack, max_length=0, **_CANDIDATES)
"""Factory of `context=last`."""
_SUM: dict[str, Any] = {"decay": 0.5, "first_decay": 0.8, "earlier": 1.0, "skipped": 1.0, "trains_on": "session"}
SESSION: Callable[..., Session] = partial(
    Session, max_length=4, normalise=0.0, first_normalise=0.3, **_SUM, **_CANDIDATES
)
LAST = LAST_TRACK(example_vocabulary(), ["track"], learns=True)
