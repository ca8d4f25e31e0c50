"""When Python searches for garbage."""

import gc
import sys
import weakref

import pytest

from segue.runs.garbage import keep_objects, quick_imports


class Cycle:
    """An object that refers to itself, as a trainer and its model do."""

    def __init__(self) -> None:
        self.itself = self


def test_garbage_is_not_searched_for_during_imports_and_is_afterwards() -> None:
    with quick_imports():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_garbage_is_searched_for_again_after_an_import_that_fails() -> None:
    with pytest.raises(ImportError), quick_imports():
        import no_such_library  # type: ignore[import-not-found]  # noqa: F401
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


def test_objects_of_triton_stay_in_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", pytest)
    before = gc.get_freeze_count()
    keep_objects()
    assert gc.get_freeze_count() == before
    monkeypatch.delitem(sys.modules, "triton")
    keep_objects()
    assert gc.get_freeze_count() > before
