"""Engines: what runs the SQL that makes rows of shards from events. DuckDB on this machine, or Spark.

Both run the same queries, the files of `sql/`. A row of a shard is a pair, or an event without one; see `ROW`.
"""

import hashlib
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

import duckdb
import numpy as np

from segue.datamodules.reading.table import SourceEvents
from segue.runs.atomic import write_whole

ROW = {
    "session": "int64",
    "listener": "int64",
    "position": "int32",
    "timestamp": "int64",
    "following": "int64",
    "played_ratio": "float",
    "previous_position": "int32",
    "previous": "int64",
    "split": "int8",
}
"""The columns of a shard with their Arrow types.

`session` is the number of the session in the order of starts, `position` the place 0, 1, … of the event in it,
`timestamp` when it was played (ms since 1970; 0 without a clock), `following` the row of its track, `played_ratio` the
share played (NULL where unknown), `previous` the row of the track it is paired with, at `previous_position` in the
session (NULL without a pair), and `split` the place in `SPLITS` (with split=pair, -1 where there is no pair). The rows
of a session are together, by position and then by previous position; all events of a session have a row.
"""
ORDER = "session, position, previous_position NULLS FIRST"
"""The order of the rows."""
_EVENTS = """
    SELECT user_id, COALESCE(timestamp, 0) AS timestamp, CAST(position AS BIGINT) AS position,
           CAST(track AS BIGINT) AS track, CAST(played_ratio AS FLOAT) AS played_ratio,
           {source_session} AS source_session, {is_last} AS is_last, {recommendation} AS recommendation
    FROM events"""


@runtime_checkable
class Engine(Protocol):
    """Runs queries on tables that it keeps.

    Attributes:
        name: its name in `conf/engine/`.
    """

    name: str

    def begin(self, source: SourceEvents, folder: Path) -> None:
        """Take over the events of a source as the table `events`.

        Args:
            source: the events.
            folder: a folder for files that are needed until the end.

        Raises:
            InputError: the engine cannot be started.
        """
        ...

    def view(self, name: str, query: str) -> None:
        """Give a query a name; it is computed where the name is used."""
        ...

    def table(self, name: str, query: str) -> None:
        """Compute a query and keep its result under a name, which the query itself may read."""
        ...

    def upload(self, name: str, columns: Mapping[str, np.ndarray]) -> None:
        """Make a table of arrays."""
        ...

    def fetch(self, query: str) -> dict[str, np.ndarray]:
        """Compute a query; its columns have no NULL."""
        ...

    def write(self, shards: Mapping[Path, tuple[int, int]]) -> Iterator[Path]:
        """Write the table `rows`, in order, into files that appear when they are whole.

        Args:
            shards: the first session of each file, and the one after its last.

        Yields:
            Each file when it is written.
        """
        ...

    def end(self) -> None:
        """Give back what the engine holds."""
        ...


class DuckDBEngine:
    """DuckDB in this process, in the connection that has read the source. What does not fit into memory is on disk."""

    name = "duckdb"
    _database: duckdb.DuckDBPyConnection

    def __init__(self) -> None:
        self._kept: dict[str, str] = {}
        self._num_tables = 0

    def begin(self, source: SourceEvents, folder: Path) -> None:  # noqa: ARG002 - DuckDB has a folder of its own
        """Read the events into a table."""
        self._database = source.database
        self.table("events", events_query(source))

    def view(self, name: str, query: str) -> None:
        """Give a query a name."""
        self._database.execute(f"CREATE OR REPLACE VIEW {name} AS {query}")

    def table(self, name: str, query: str) -> None:
        """Compute a query and keep its result."""
        self._num_tables += 1
        table = f"{name}_{self._num_tables}"
        self._database.execute(f"CREATE TABLE {table} AS {query}")
        self.view(name, f"SELECT * FROM {table}")
        if before := self._kept.get(name):
            self._database.execute(f"DROP TABLE {before}")
        self._kept[name] = table

    def upload(self, name: str, columns: Mapping[str, np.ndarray]) -> None:
        """Make a table of arrays."""
        import pyarrow as pa

        self._database.register("uploaded", pa.table(dict(columns)))
        self.table(name, "SELECT * FROM uploaded")
        self._database.unregister("uploaded")

    def fetch(self, query: str) -> dict[str, np.ndarray]:
        """Compute a query."""
        return {name: np.asarray(column) for name, column in self._database.execute(query).fetchnumpy().items()}

    def write(self, shards: Mapping[Path, tuple[int, int]]) -> Iterator[Path]:
        """Sort the rows once, then copy them shard by shard."""
        self.table("rows", f"SELECT * FROM rows ORDER BY {ORDER}")
        for path, (first, end) in shards.items():
            query = f"SELECT {', '.join(ROW)} FROM rows WHERE session >= {first} AND session < {end} ORDER BY {ORDER}"
            write_whole(path, partial(self._copy, query))
            yield path

    def _copy(self, query: str, path: Path) -> None:
        quoted = str(path).replace("'", "''")
        try:
            self._database.execute(f"COPY ({query}) TO '{quoted}' (FORMAT parquet, COMPRESSION zstd)")
        except duckdb.IOException as error:
            raise disk_error(error, path) from None

    def end(self) -> None:
        """Drop the tables."""
        for name, table in self._kept.items():
            self._database.execute(f"DROP VIEW {name}; DROP TABLE {table}")
        self._kept.clear()


def events_query(source: SourceEvents) -> str:
    """The query of DuckDB that gives the events of a source without NULL, but for unknown shares."""
    roles = source.reading.columns
    return _EVENTS.format(
        source_session="COALESCE(source_session, 0)" if "session" in roles else "CAST(0 AS BIGINT)",
        is_last="is_last" if "last" in roles else "FALSE",
        recommendation="COALESCE(CAST(recommendation AS BIGINT), -1)"
        if "recommendation" in roles
        else "CAST(-1 AS BIGINT)",
    )


def disk_error(error: BaseException, path: Path) -> OSError:
    """The error of a file that could not be written, with the number that says why if the text of another has it."""
    import errno

    full = "No space left" in str(error)
    return OSError(errno.ENOSPC if full else errno.EACCES, "No space left on device" if full else str(error), str(path))


def sha256(path: Path) -> str:
    """Digest of a file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
