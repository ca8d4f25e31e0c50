"""Scorers without dropout, bias and offsets; a test sets what it needs."""

from collections.abc import Callable
from functools import partial
from typing import Any

from src.models.heads import CosineMix, TwoTableDot

_BARE: dict[str, Any] = {"init_std": 0.1, "item_bias": False, "dropout": 0.0, "track_dropout": 0.0}
COSINES: Callable[..., CosineMix] = partial(CosineMix, fixed_alpha=None, order_std=0.0, **_BARE)
DOT: Callable[..., TwoTableDot] = partial(TwoTableDot, alpha=None, **_BARE)
