"""Ids of tracks that the source merged: a file of lines `old,new`, and what it does to the rows that are read."""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from segue.catalog import id_problem, quoted
from segue.datamodules.reading.queries import Database, count
from segue.errors import InputError

KEY = "datamodule.aliases"


def read_aliases(path: Path) -> dict[str, str]:
    """Read a file of aliases: in each line an id of before and the id that takes its place.

    Args:
        path: csv of two columns in UTF-8; a first line `old,new` is a header.

    Returns:
        For each id of before, the id of today: chains are followed, 1,2 and 2,3 make 3 of 1.

    Raises:
        InputError: the file cannot be read, a line has not two ids, an id of before is there twice, or following the
            lines leads back to it.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = [(number, cells) for number, cells in enumerate(csv.reader(file), start=1) if cells]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{KEY}: cannot read {path}: {reason}; give a csv of lines old,new in UTF-8") from None
    found: dict[str, str] = {}
    for number, cells in lines:
        if cells == ["old", "new"] and not found:
            continue
        where = f"{path} line {number}"
        if len(cells) != 2:
            raise InputError(f"{where}: must have two ids, old,new, and has {len(cells)} columns; correct it")
        for one in cells:
            if problem := id_problem(one):
                raise InputError(f"{where}: an id {problem}; correct or remove the line")
        old, new = cells
        if old in found:
            raise InputError(
                f"{where}: {quoted(old)} has an alias already, {quoted(found[old])}; remove one of the two lines"
            )
        found[old] = new
    return {old: _last(old, found, path) for old in found}


def _last(old: str, aliases: dict[str, str], path: Path) -> str:
    """The id at the end of a chain. The chain becomes shorter, so that long ones are followed once."""
    passed, id = dict[str, str](), old
    while id in aliases:
        if id in passed:
            raise InputError(f"{path}: the aliases of {quoted(id)} lead back to it; remove one of their lines")
        passed[id] = id = aliases[id]
    aliases.update(dict.fromkeys(passed, id))
    return id


def register_aliases(database: Database, aliases: Mapping[str, str]) -> None:
    """Give a database the table `pairs_of_ids` with the columns `old` and `new`."""
    columns = {"old": np.array([*aliases], object), "new": np.array([*aliases.values()], object)}
    database.register("pairs_of_ids", columns)


def forget_names(database: Database, names: Sequence[str], *, key: Callable[[str], str]) -> None:
    """Forget titles and artists of rows with an id of before, where other rows have the id of today: theirs count.

    Args:
        database: has the tables `parsed` and `pairs_of_ids`.
        key: from the SQL of an id to that of what the column `track` has for it.
    """
    database.execute(f"""
        UPDATE parsed SET {", ".join(f"{name} = NULL" for name in names)}
        FROM (SELECT {key("old")} AS old FROM pairs_of_ids
              WHERE {key("new")} IN (SELECT track FROM parsed WHERE reason IS NULL)) p
        WHERE parsed.track = p.old""")


def replace_ids(database: Database, table: str, column: str, *, key: Callable[[str], str] = str, more: str = "") -> int:
    """Replace the ids of before in a column of a table; the number of rows that were changed.

    Args:
        database: has the table, and `pairs_of_ids`.
        key: from the SQL of an id to that of what the column has for it.
        more: SQL of further assignments for the same rows, in which `new` is the id of today.
    """
    return count(
        database,
        f"""UPDATE {table} SET {column} = {key("new")} {more}
            FROM pairs_of_ids WHERE {table}.{column} = {key("old")}""",
    )
