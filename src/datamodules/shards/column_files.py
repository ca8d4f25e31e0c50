"""Columns in files: the numbers of an array and nothing else, so that a file can be mapped into memory."""

from pathlib import Path
from typing import Any

import numpy as np

_KINDS = {"played_ratio": np.float32, "part": np.int8}
"""Types of columns; the others are int64."""


def kind_of(column: str) -> np.dtype[Any]:
    """Type of the numbers of a column.

    Args:
        column: its name.
    """
    return np.dtype(_KINDS.get(column, np.int64))


def column_file(folder: Path, table: str, column: str) -> Path:
    """The file of a column.

    Args:
        folder: of the files.
        table: name of the columns that have the same rows.
        column: name of the column.
    """
    return folder / f"{table}-{column}.bin"


def map_column(folder: Path, table: str, column: str) -> Any:
    """A column as an array that is read from its file where it is looked at; what is written into it is not kept.

    Args:
        folder: of the files.
        table: name of the columns that have the same rows.
        column: name of the column.
    """
    path = column_file(folder, table, column)
    if not path.stat().st_size:
        return np.empty(0, kind_of(column))
    return np.memmap(path, kind_of(column), "c").view(np.ndarray)
