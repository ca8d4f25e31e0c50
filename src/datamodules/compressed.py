"""Logs that were compressed."""

import gzip
import zlib
from pathlib import Path

from src.errors import InputError


def check_whole(path: Path) -> None:
    """Refuse a .gz file that was cut off: DuckDB reads what there is of it, and says nothing.

    Raises:
        InputError: the file ends too early, or is no gzip file.
    """
    if path.suffix != ".gz":
        return
    try:
        with gzip.open(path) as file:
            while file.read(1 << 24):
                pass
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} is no whole gzip file: {error}") from None
