"""The notebook of the first hour: its cells run, and print what the file shows."""

import re

import pytest

from tests.conftest import ROOT

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")
NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?")


def test_the_cells_print_what_the_notebook_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.notebook import NOTEBOOK, code_cells, executed, texts

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    now = executed()
    for cell, (printed, shown) in enumerate(zip(texts(now), texts(nbformat.read(NOTEBOOK, as_version=4)), strict=True)):
        found, expected = (NUMBER.findall("\n".join(one)) for one in (printed, shown))
        assert len(found) == len(expected), f"cell {cell} prints other lines; python -m tests.notebook"
        numbers = [[float(number.replace(",", "")) for number in one] for one in (found, expected)]
        assert numbers[0] == pytest.approx(numbers[1], rel=0.02, abs=0.02), f"cell {cell}; python -m tests.notebook"
    kinds = {kind for cell in code_cells(now) for one in cell.outputs for kind in one.data}
    assert {"text/html", "text/plain"} <= kinds
    assert sum("data:image/png" in str(one.data) for cell in code_cells(now) for one in cell.outputs) == 3
