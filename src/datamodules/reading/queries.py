"""Queries in DuckDB: their numbers, their errors in one line, and quoted names and texts."""

import re
from pathlib import Path

import duckdb

from segue.catalog import quoted

Database = duckdb.DuckDBPyConnection
"""A connection to a database."""
_OF_FILES = (
    duckdb.ConversionException,
    duckdb.FatalException,
    duckdb.InternalException,
    duckdb.InvalidInputException,
    duckdb.IOException,
    duckdb.OutOfMemoryException,
    duckdb.OutOfRangeException,
    duckdb.SerializationException,
)


def count(database: Database, query: str) -> int:
    """The number that a query gives."""
    [(number,)] = database.execute(query).fetchall()
    return int(number)


_IS_WHOLE = "COALESCE(id[1] <> '-' AND CAST(TRY_CAST(id AS BIGINT) AS VARCHAR) = id, FALSE)"


def are_whole(database: Database, ids: str) -> bool:
    """Whether all ids that a query gives as texts are whole numbers in canonical form: 7 and not 007, +7, -7 or 7.0."""
    are = f"SELECT COALESCE(bool_and({_IS_WHOLE}), FALSE) FROM"
    return all(bool(count(database, f"{are} ({ids} {limit})")) for limit in ("LIMIT 1000", ""))  # texts are seen early


def mixed_ids(database: Database, ids: str) -> str | None:
    """In words, that some of the ids that a query gives as texts are whole numbers and others are not; None if not."""
    counts = f"count(*), count(*) FILTER ({_IS_WHOLE}), min(id) FILTER ({_IS_WHOLE}), min(id) FILTER (NOT {_IS_WHOLE})"
    [(num, num_whole, number, text)] = database.execute(f"SELECT {counts} FROM ({ids})").fetchall()
    if num_whole in (0, num):
        return None
    numbers = f"whole numbers ({num_whole:,} of {num:,}, such as {number})"
    return f"{numbers} beside texts (such as {quoted(text)}): all are texts"


def one_line(error: Exception) -> str:
    """The text of a DuckDB error on one line, without its kind, its query and values of the data."""
    text = re.sub(r"^[A-Z]\w+( \w+)* Error: ", "", " ".join(str(error).split()))
    text = re.sub(r"\bstring '.*?' to\b", "a text to", text)
    return re.split(r" LINE \d+: | Stack Trace", text, maxsplit=1)[0]


def is_of_files(error: duckdb.Error) -> bool:
    """Whether files can cause an error, by their content or their size. Any other is a fault of the query.

    Damaged Parquet raises `duckdb.Error` itself.
    """
    return type(error) is duckdb.Error or isinstance(error, _OF_FILES)


def plain_path(path: str) -> str:
    """A path without the escapes of a glob."""
    return re.sub(r"\[([*?\[])\]", r"\1", path)


def scratch_folder(database: Database) -> Path:
    """A folder beside the temporary files of a database, for files that live no longer than these."""
    [(spill,)] = database.execute("SELECT current_setting('temp_directory')").fetchall()
    folder = Path(spill).with_name("rewritten")
    folder.mkdir(exist_ok=True)
    return folder


def quoted_name(name: str) -> str:
    """A name of a column in SQL."""
    return '"' + name.replace('"', '""') + '"'


def quoted_text(text: str) -> str:
    """A text in SQL."""
    return "'" + text.replace("'", "''") + "'"
