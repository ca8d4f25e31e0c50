"""Queries over files in DuckDB: an error becomes one line, and names and texts are quoted."""

import re
from collections.abc import Mapping

import duckdb

from segue.datamodules.reading.files import Files
from segue.errors import InputError


def run(
    database: duckdb.DuckDBPyConnection, query: str, parameters: Mapping[str, object], *, files: Files
) -> duckdb.DuckDBPyConnection:
    """Execute a query over files; an error of DuckDB becomes one line.

    Raises:
        InputError: DuckDB cannot read the files.
    """
    try:
        return database.execute(query, dict(parameters))
    except duckdb.Error as error:
        text = one_line(error)
        named = next(
            (shown for path, shown in zip(files.paths, files.shown, strict=True) if plain_path(path) in text), ""
        )
        for path, shown in zip(files.paths, files.shown, strict=True):
            text = text.replace(path, shown)  # an address may have a secret after its name
        if "state machine reached an invalid state" in text:
            text = "ends of lines are of several kinds (LF, CRLF, CR); make them one, for example with dos2unix"
        where = named or (files.shown[0] if len(files.shown) == 1 else f"{files.shown[0]} and others")
        remedy = "; correct the file, or give datamodule.files.format" if files.format in ("json", "parquet") else ""
        raise InputError(f"cannot read {where}: {text[:300]}{remedy}") from None


def count(database: duckdb.DuckDBPyConnection, query: str) -> int:
    """The number that a query gives."""
    [(number,)] = database.execute(query).fetchall()
    return int(number)


def are_whole(database: duckdb.DuckDBPyConnection, ids: str) -> bool:
    """Whether all ids that a query gives as texts are whole numbers as one writes them: 7 and not 007 or 7.0."""
    is_whole = "COALESCE(CAST(TRY_CAST(id AS BIGINT) AS VARCHAR) = id, FALSE)"
    [(found,)] = database.execute(f"SELECT COALESCE(bool_and({is_whole}), FALSE) FROM ({ids})").fetchall()
    return bool(found)


def one_line(error: Exception) -> str:
    """The text of a DuckDB error on one line, without its kind, its query and values of the data."""
    text = re.sub(r"^[A-Z]\w+( \w+)* Error: ", "", " ".join(str(error).split()))
    text = re.sub(r"\bstring '.*?' to\b", "a text to", text)
    return re.split(r" LINE \d+: ", text, maxsplit=1)[0]


def plain_path(path: str) -> str:
    """A path without the escapes of a glob."""
    return re.sub(r"\[([*?\[])\]", r"\1", path)


def quoted_name(name: str) -> str:
    """A name of a column in SQL."""
    return '"' + name.replace('"', '""') + '"'


def quoted_text(text: str) -> str:
    """A text in SQL."""
    return "'" + text.replace("'", "''") + "'"
