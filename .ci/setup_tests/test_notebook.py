"""The notebook of the first hour: its cells run, and print what the file shows.

`make docs` looks at it; `PYTHONPATH=.ci python -m setup_tests.test_notebook` keeps what its cells print now.
"""

import os
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import ROOT

NOTEBOOK = ROOT / "examples" / "first_hour.ipynb"
NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?")


def executed(path: Path = NOTEBOOK) -> Any:
    """The notebook with what its cells print now, without progress bars."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(path.parent)}}).execute()
    for cell in code_cells(notebook):
        cell.outputs = [one for one in cell.outputs if one.output_type != "stream"]
        cell.metadata = {}
    notebook.metadata.language_info = {"name": "python"}
    return notebook


def code_cells(notebook: Any) -> list[Any]:
    """The cells with code."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(notebook: Any) -> list[list[str]]:
    """What each cell prints as text, without the names of temporary folders and the ids of tracks."""
    shown = [[one.data["text/plain"] for one in cell.outputs] for cell in code_cells(notebook)]
    return [[re.sub(r"\S*segue-[\w-]+|\b[0-9a-f]{32}\b", "…", text) for text in of_cell] for of_cell in shown]


def test_the_cells_print_what_the_notebook_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    now = executed()
    for cell, (printed, shown) in enumerate(zip(texts(now), texts(nbformat.read(NOTEBOOK, as_version=4)), strict=True)):
        found, expected = (NUMBER.findall("\n".join(one)) for one in (printed, shown))
        assert len(found) == len(expected), f"cell {cell} prints other lines; see the top of this file"
        numbers = [[float(number.replace(",", "")) for number in one] for one in (found, expected)]
        assert numbers[0] == pytest.approx(numbers[1], rel=0.02, abs=0.02), f"cell {cell}; see the top of this file"
    kinds = {kind for cell in code_cells(now) for one in cell.outputs for kind in one.data}
    assert {"text/html", "text/plain"} <= kinds
    assert sum("data:image/png" in str(one.data) for cell in code_cells(now) for one in cell.outputs) == 3


if __name__ == "__main__":
    os.environ["PYTHONPATH"] = str(ROOT)
    nbformat.write(executed(), NOTEBOOK)
