"""SIGTERM and SIGINT (Ctrl-C) before a supervisor handles them: they interrupt the start, or wait for it."""

import contextlib
import signal
from collections.abc import Iterator

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

_received: list[int] = []
_raises = False


@contextlib.contextmanager
def stop_signals_recorded() -> Iterator[None]:
    """Record these signals instead of acting on them, here and in processes that are forked meanwhile."""
    before = {number: signal.signal(number, _record) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _received.clear()


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let the first signal raise KeyboardInterrupt; one that was recorded before raises it at once.

    Later signals are recorded, therefore they do not interrupt what cleans up.
    """
    global _raises
    try:
        _raises = True
        if _received:
            raise KeyboardInterrupt
        yield
    finally:
        _raises = False


def _record(number: int, _: object) -> None:
    global _raises
    _received.append(number)
    if _raises:
        _raises = False
        raise KeyboardInterrupt
