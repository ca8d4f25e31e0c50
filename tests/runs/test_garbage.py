"""When Python searches for garbage."""

import gc
import weakref

from segue.runs.garbage import quick_imports


class Cycle:
    """An object that refers to itself, as a trainer and its model do."""

    def __init__(self) -> None:
        self.itself = self


def test_garbage_of_an_earlier_job_is_gone_and_what_is_imported_is_not_searched() -> None:
    model = Cycle()
    still_there = weakref.ref(model)
    del model
    with quick_imports():
        assert still_there() is None
        assert not gc.isenabled()
        imported = Cycle()
    assert gc.isenabled()
    assert not any(searched is imported for searched in gc.get_objects())
