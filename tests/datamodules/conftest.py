"""DuckDB reads with several threads here, although a test computes with one: they must change no row and no order."""

import pytest


@pytest.fixture(autouse=True)
def several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
