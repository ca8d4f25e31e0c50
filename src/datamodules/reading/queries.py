"""Queries in DuckDB: their numbers, their errors in one line, and quoted names and texts."""

import re

import duckdb

Database = duckdb.DuckDBPyConnection
"""A connection to a database."""


def count(database: Database, query: str) -> int:
    """The number that a query gives."""
    [(number,)] = database.execute(query).fetchall()
    return int(number)


def are_whole(database: Database, ids: str) -> bool:
    """Whether all ids that a query gives as texts are whole numbers as one writes them: 7 and not 007 or 7.0."""
    is_whole = "COALESCE(CAST(TRY_CAST(id AS BIGINT) AS VARCHAR) = id, FALSE)"
    return bool(count(database, f"SELECT COALESCE(bool_and({is_whole}), FALSE) FROM ({ids})"))


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
