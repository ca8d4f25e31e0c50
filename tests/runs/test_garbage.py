"""When Python searches for garbage."""

import gc
import weakref

from segue.runs.garbage import quick_imports


class Cycle:
    """An object that refers to itself, as a trainer and its model do."""

    def __init__(self) -> None:
        self.itself = self


def test_garbage_is_not_searched_for_during_imports_and_is_afterwards() -> None:
    with quick_imports():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_what_was_imported_is_not_searched_again() -> None:
    with quick_imports():
        imported = Cycle()
    assert not any(searched is imported for searched in gc.get_objects())


def test_what_an_earlier_job_left_is_not_kept() -> None:
    model = Cycle()
    still_there = weakref.ref(model)
    del model
    with quick_imports():
        assert still_there() is None
