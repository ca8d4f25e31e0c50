"""Executes `examples/first_hour.ipynb`; `python -m tests.notebook` keeps what its cells print."""

import re
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from tests.conftest import ROOT

NOTEBOOK = ROOT / "examples" / "first_hour.ipynb"


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


if __name__ == "__main__":
    nbformat.write(executed(), NOTEBOOK)
