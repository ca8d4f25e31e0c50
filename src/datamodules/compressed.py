"""Checks of compressed files."""

import gzip
import zlib
from pathlib import Path

from src.errors import InputError


def check_whole(path: Path) -> None:
    """Refuse a truncated .gz file. DuckDB would read its first part without an error.

    Args:
        path: the file; files with another suffix are not checked.

    Raises:
        InputError: the file is truncated or is not a gzip file.
    """
    if path.suffix != ".gz":
        return
    try:
        with gzip.open(path) as file:
            while file.read(1 << 24):
                pass
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} is not a complete gzip file: {error}; copy or compress it again") from None
