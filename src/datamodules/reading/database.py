"""Where DuckDB's databases are opened, all in memory."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import duckdb

from segue.datamodules.reading.queries import Database


def connect(threads: int = 0) -> Database:
    """Open a database. It draws no progress bar, as DuckDB does after two seconds in a notebook and with `python -c`.

    Args:
        threads: 0 for as many as OMP_NUM_THREADS, like numpy and torch. Launchers of parallel jobs set it to divide the
            cores among them; without it DuckDB uses all cores.
    """
    given = os.environ.get("OMP_NUM_THREADS", "")
    threads = threads or (int(given) if given.isdecimal() else 0)
    database = duckdb.connect(config={"threads": threads} if threads else {})
    with suppress(duckdb.InvalidInputException):  # a notebook without ipywidgets has no bar to switch off
        database.execute("SET enable_progress_bar = false")
    return database


@contextmanager
def open_database() -> Iterator[tuple[Database, Path]]:
    """Open a database that writes to the disk what is more than 2 GiB, and a folder that is removed with it."""
    with tempfile.TemporaryDirectory(prefix="segue-") as folder, connect() as database:
        database.execute(f"SET temp_directory = '{folder}/spill'; SET memory_limit = '2GiB'")
        yield database, Path(folder)
