"""A clock of training time, for `quality.py` and for the process of RecTools. It imports no other package."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

GROWTH = 1.25
"""A model is evaluated when it has trained this many times as long as at its last evaluation, or longer."""
FIRST_S = 0.05
"""No model is evaluated before, in s."""
LIMIT_S = 120.0
"""Longest training of a contender, in s. At that time it is evaluated for the last time."""


class Clock:
    """Seconds of training, without those of evaluation. It starts when it is built."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._paused = 0.0
        self._next = FIRST_S

    @property
    def seconds(self) -> float:
        """Training time until now, in s."""
        return time.perf_counter() - self._began - self._paused

    @property
    def is_due(self) -> bool:
        """Whether it is time to evaluate the model."""
        return self.seconds >= self._next

    @contextmanager
    def evaluation(self) -> Iterator[float]:
        """Stop the clock for an evaluation, and give the training time at which it happens, in s."""
        stopped_at, began = self.seconds, time.perf_counter()
        try:
            yield stopped_at
        finally:
            self._next = min(GROWTH * stopped_at, LIMIT_S)
            self._paused += time.perf_counter() - began
