"""Which lines of a log are events, where in the files a line is, and where a session ends."""

import glob
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import duckdb
import numpy as np
import pyarrow as pa
from jaxtyping import Bool

from segue.catalog import AN_ID, changes, id_problem, key_of
from segue.datamodules.pairs.interleaved import separate
from segue.datamodules.reading.database import open_database
from segue.datamodules.reading.files import check_whole
from segue.datamodules.reading.units import LATEST_MS
from segue.errors import InputError
from segue.settings import Setting

Lines = dict[str, Any]
"""Lines of a log as columns: an array for each field."""

_Begins = Bool[np.ndarray, "e"]

# The keys that are read, with their types. As a number DuckDB would read `true` as 1, and round 1.5 to 2.
_KEYS = {
    **dict.fromkeys(("timestamp", "user", "track", "recommendation", "time", "latency", "propensity"), "JSON"),
    **dict.fromkeys(("message", "fallback", "experiments", "release", "remember"), "VARCHAR"),
}

# SQL of the lines of the parameter `$files`.
_READ = f"""read_json($files, format = 'newline_delimited', columns = {_KEYS}, ignore_errors = true, filename = true,
    maximum_object_size = 16777216)"""


def _whole(key: str) -> str:
    """The beginning of a CASE: a whole number as BIGINT."""
    return f"CASE WHEN regexp_full_match({key}::VARCHAR, '[0-9]{{1,19}}') THEN TRY_CAST({key}::VARCHAR AS BIGINT)"


def _id(key: str) -> str:
    """The key of an id (`catalog.key_of`)."""
    return f"{_whole(key)} WHEN json_type({key}) = 'VARCHAR' THEN key_of({key} ->> '$') END"


def _number(key: str) -> str:
    return f"TRY_CAST({key}::VARCHAR AS DOUBLE)"  # a text has its quotes


# SQL of the columns that `read_events` can give.
_COLUMNS = {
    "is_last": "CASE message WHEN 'last' THEN TRUE WHEN 'next' THEN FALSE END",
    "timestamp": f"{_whole('timestamp')} END",
    "user_id": _id("user"),
    "track": _id("track"),
    "time": _number("time"),
    "latency": f"CASE WHEN latency IS NULL THEN 0 ELSE {_number('latency')} END",
    "recommendation": f"CASE WHEN recommendation IS NULL THEN -1 ELSE {_id('recommendation')} END",
    "is_fallback": "fallback IS NOT NULL",
    "experiments": "experiments",
    "any_experiments": "COALESCE(experiments, '')",
    "propensity": f"COALESCE({_number('propensity')}, 'nan'::DOUBLE)",
    "release": "COALESCE(release, '')",
    "is_kept": "COALESCE(remember <> 'false', TRUE)",
}

# When a line is no event, by the column that says it, and the rule for the user.
_FAULTS = {
    "is_last": ("is_last IS NULL", 'message must be "next" or "last"'),
    "timestamp": (
        f"COALESCE(timestamp NOT BETWEEN 0 AND {LATEST_MS}, TRUE)",
        "timestamp must be a whole number of milliseconds since 1970, before 2100",
    ),
    "user_id": ("user_id IS NULL", f"user must be {AN_ID}"),
    "track": ("track IS NULL", f"track must be {AN_ID}"),
    "time": ("COALESCE(NOT isfinite(time), TRUE)", "time must be a number"),
    "latency": ("COALESCE(latency NOT BETWEEN 0 AND 1e6, TRUE)", "latency must be a number of seconds, from 0 to 1e6"),
    "recommendation": ("recommendation IS NULL", f"recommendation must be {AN_ID}, or null"),
    "experiments": ("experiments IS NULL", "experiments is missing"),
}

_FILE = "(hash({}) >> 32)::UINTEGER"

_NOTHING = "is_last IS NULL AND timestamp IS NULL AND user_id IS NULL AND track IS NULL"


@dataclass(frozen=True, kw_only=True)
class EventLines:
    """The lines of a log, which are in the table `lines` of a database.

    Args:
        num: their number.
        num_rejected: number of those that are not events.
    """

    num: int
    num_rejected: int


MaxRejected = Annotated[float, Setting("accepted share of lines that are not events", least=0, most=1)]


class _Keys(dict[str | None, int | None]):
    """The key of each text that is an id; None for other texts."""

    def __missing__(self, text: str | None) -> int | None:
        self[text] = None if text is None or id_problem(text) else key_of(text)
        return self[text]


@contextmanager
def log_database() -> Iterator[duckdb.DuckDBPyConnection]:
    """A database for the lines of a log, which writes to the disk what is larger than its memory."""
    keys = _Keys()

    def keys_of(texts: pa.ChunkedArray) -> pa.Array:
        return pa.array(map(keys.__getitem__, texts.to_pylist()), pa.int64())

    with open_database() as (database, _):
        how: dict[str, Any] = {"type": "arrow", "null_handling": "special"}  # which may return null
        database.create_function("key_of", keys_of, ["VARCHAR"], "BIGINT", **how)
        yield database


def read_events(
    database: duckdb.DuckDBPyConnection,
    folder: Path,
    where: str,
    *,
    columns: Sequence[str],
    max_rejected: float,
    needs: tuple[str, str] | None = None,
) -> EventLines:
    """Create the table `lines`: these columns, the number of the `file`, and whether a line `is_event`.

    Args:
        database: the connection.
        folder: every `data.json*` in it and below it is read.
        where: setting and value that name it, for messages.
        columns: names of the columns; what is in no column is not checked.
        max_rejected: accepted share of lines that are not events, in [0, 1].
        needs: a key that at least one line must have, and what is said if none has it.

    Raises:
        InputError: there are no complete files, they are empty or cannot be read, or too many lines are not events.
    """
    files = _event_files(folder, where)
    faults = [_FAULTS[name] for name in columns if name in _FAULTS]
    wanted = ", ".join(f"{_COLUMNS[name]} AS {name}" for name in columns)
    names = {"files": [glob.escape(str(file)) for file in files]}
    try:
        if needs is not None:  # reads no further than to the first such line
            query = f"SELECT count(*) FROM (SELECT 1 FROM {_READ} WHERE {needs[0]} IS NOT NULL LIMIT 1)"
            if database.execute(query, names).fetchone() == (0,):
                raise InputError(f"{where}: {needs[1]}")
        query = f"""
            CREATE TABLE lines AS
            SELECT *, NOT ({" OR ".join(fault for fault, _ in faults)}) AS is_event
            FROM (SELECT {wanted}, {_FILE.format("filename")} AS file FROM {_READ})"""
        database.execute(query, names)
    except duckdb.Error as error:
        raise InputError(f"{where}: cannot read the logs: {' '.join(str(error).split())[:300]}") from None
    counts = "SELECT count(*), count(*) FILTER (NOT is_event) FROM lines"
    [(num, num_rejected)] = database.execute(counts).fetchall()
    if not num:
        raise InputError(f"{where}: the logs are empty; name the logs of serve.py or simulate.py")
    if num_rejected > max_rejected * num:
        rules = " ".join(f"WHEN {fault} THEN '{rule}'" for fault, rule in faults)
        query = f"""
            SELECT path, 1 + row - (SELECT min(rowid) FROM lines WHERE file = wrong.file), rule FROM (
                SELECT file, rowid AS row,
                    CASE WHEN {_NOTHING} THEN 'no message, timestamp, user and track' {rules} END AS rule
                FROM lines WHERE NOT is_event ORDER BY rowid LIMIT 1
            ) AS wrong, (SELECT unnest($paths) AS path) WHERE {_FILE.format("path")} = file"""
        [(path, row, rule)] = database.execute(query, {"paths": [*map(str, files)]}).fetchall()
        raise InputError(
            f"{where}: {num_rejected} of {num} lines are not events, more than max_rejected={max_rejected:g} allows; "
            f"the first is row {row} of {path}: {rule}; correct the lines, or raise max_rejected"
        )
    return EventLines(num=num, num_rejected=num_rejected)


def _event_files(folder: Path, where: str) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"{where}: no such folder; name a folder with data.json files in it or below it")
    paths = glob.glob(f"{glob.escape(str(folder))}/**/data.json*", recursive=True)  # noqa: PTH207 - it follows links
    if not (files := sorted(path for path in map(Path, paths) if path.is_file())):
        raise InputError(f"{where}: no data.json in it or below it; name the run folder of serve.py or simulate.py")
    for path in files:
        check_whole(path)
    return files


def json_object(text: str) -> dict[str, Any]:
    """The object that a text is in JSON, such as the arms of `experiments`; empty if it is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def cut_log(lines: Lines, gap_minutes: float, policy: str = "separate") -> tuple[Lines, _Begins, int]:
    """Cut the lines of each user into sessions: after each `last`, and before a `next` that comes after a long pause.

    As `datamodules/pairs/sessions.py` cuts events, but a `last` belongs to the session before it, whenever it comes: a
    service sends it when a listener has left.

    Args:
        lines: columns of the lines, sorted by user and time.
        gap_minutes: longest pause in a session.
        policy: for sessions of one user at the same time.

    Returns:
        What `separate` returns.
    """
    is_last = lines["is_last"]
    gap_ms = np.where(is_last, np.inf, gap_minutes * 60_000)
    is_late = np.diff(lines["timestamp"], prepend=lines["timestamp"][:1]) > gap_ms
    return separate(lines, changes(lines["user_id"]) | np.roll(is_last, 1) | is_late, policy=policy, gap_ms=gap_ms)
