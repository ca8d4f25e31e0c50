"""When Python searches for garbage: not among objects that stay until the process ends."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def keep_objects() -> None:
    """Leave all present objects out of the search for garbage, also of the one at exit, which takes seconds."""
    if "triton" not in sys.modules:  # which reports such objects of its own as leaks
        gc.freeze()


@contextmanager
def quick_imports() -> Iterator[None]:
    """Do not search for garbage while libraries are imported, nor among their objects afterwards.

    Torch, Lightning and MLflow create more than a million objects. To search among them again and again takes longer
    than a second.
    """
    was_enabled = gc.isenabled()
    gc.collect()  # what an earlier job has left would be kept too
    gc.disable()
    try:
        yield
    finally:
        keep_objects()
        if was_enabled:
            gc.enable()
