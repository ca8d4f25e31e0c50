"""Readers: from the files of one source to a catalogue and a table of events.

Each `Reader` is a handful of SQL expressions over one line of text; the rest is shared. Every line is either an event
(or a playlist of them) or is *rejected*: counted, kept aside with file, line number and reason, and reported.
DuckDB does the reading; a table's `rowid` follows the order of files and lines, which gives line numbers for nothing.
"""

import glob
import gzip
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import duckdb

from src.catalog import Catalog
from src.datamodules.compressed import check_whole
from src.errors import InputError, check_number
from src.runs.cores import duckdb_settings

_WHOLE = "DECIMAL(22, 3)"  # a cast to BIGINT would round 1.7 to 2 and say nothing
_SHORT = "DECIMAL(18, 3)"  # 64 bits; all arithmetic of the 128 bits that _WHOLE needs is ten times as slow
_BOTIFY_SCHEMA = (
    f'{{"message": "VARCHAR", "timestamp": "{_SHORT}", "user": "{_WHOLE}", "track": "{_WHOLE}", "time": "DOUBLE"}}'
)


def _whole(number: str) -> str:
    """The BIGINT that a DECIMAL is; NULL where it is none."""
    short = f"TRY_CAST({number} AS {_SHORT})"
    return f"""CASE WHEN {short} % CAST(1 AS {_SHORT}) = 0 THEN CAST({short} AS BIGINT)
                    WHEN {short} IS NULL AND TRY_CAST({number} AS BIGINT) = {number}
                    THEN TRY_CAST({number} AS BIGINT) END"""


@dataclass(frozen=True, kw_only=True)
class Reader:
    """How the files of one source become events.

    Args:
        catalogue: file of the catalogue, relative to the folder.
        catalogue_query: SELECT of `track, title, artist, duration_ms` from `$file`.
        events: glob of the event files, relative to the folder.
        header: what the first line of an event file must be; None where it has no names.
        skip: lines at the head of an event file that hold no event.
        parse: SELECT list over `fields` that gives `user_id, timestamp, track, played_ratio, source_session, is_last,
            reason`; `track` is a list where a line is a playlist, `reason` says why a line does not fit, or is NULL.
        fields: what `parse` reads: an expression over `line`.
        played_ratio: share played, over `parsed` (p) and `catalogue` (c).
        is_playlist: whether a line is a whole playlist.
    """

    catalogue: str
    catalogue_query: str
    events: str
    header: str | None = None
    skip: int = 0
    fields: str
    parse: str
    played_ratio: str = "p.played_ratio"
    is_playlist: bool = False


READERS = {
    "botify": Reader(
        catalogue="tracks.json",
        catalogue_query="""
            SELECT track, title, artist, NULL AS duration_ms FROM read_json($file, format = 'newline_delimited',
            columns = {track: 'BIGINT', title: 'VARCHAR', artist: 'VARCHAR'})""",
        events="logs/**/data.json*",
        fields=f"TRY(json_transform(line, '{_BOTIFY_SCHEMA}'))",
        parse=f"""
            {_whole("fields.user")} AS user_id, {_whole("fields.timestamp")} AS timestamp,
            {_whole("fields.track")} AS track, fields.time AS played_ratio,
            CAST(NULL AS BIGINT) AS source_session, fields.message = 'last' AS is_last,
            CASE WHEN fields IS NULL THEN 'not a JSON object'
                 WHEN COALESCE(fields.message NOT IN ('next', 'last'), TRUE) THEN 'message must be "next" or "last"'
                 WHEN COALESCE(timestamp NOT BETWEEN 0 AND 253402300799999, TRUE)
                 THEN 'timestamp must be a whole number of milliseconds since 1970'
                 WHEN user_id IS NULL THEN 'user must be a whole number'
                 WHEN track IS NULL THEN 'track must be a whole number'
                 WHEN fields.time IS NULL THEN 'time must be a number' END AS reason""",
    ),
    "yes": Reader(
        catalogue="song_hash.txt",
        catalogue_query="""
            SELECT track, title, artist, NULL AS duration_ms FROM read_csv($file, delim = '\\t', quote = '',
            escape = '', header = false, auto_detect = false,
            columns = {track: 'BIGINT', title: 'VARCHAR', artist: 'VARCHAR'})""",
        events="train.txt",
        skip=2,
        fields="list_transform(string_split_regex(trim(line), '\\s+'), lambda word: TRY_CAST(word AS BIGINT))",
        parse="""
            CAST(NULL AS BIGINT) AS user_id, CAST(NULL AS BIGINT) AS timestamp, fields AS track,
            CAST(NULL AS DOUBLE) AS played_ratio, CAST(NULL AS BIGINT) AS source_session, FALSE AS is_last,
            CASE WHEN len(list_filter(fields, lambda song: song IS NULL)) > 0
                 THEN 'a playlist must be song numbers with spaces between' END AS reason""",
        is_playlist=True,
    ),
    "polimi": Reader(
        catalogue="tracks.csv",
        catalogue_query="""
            SELECT track_id AS track, 'track ' || track_id AS title, 'artist ' || artist_id AS artist,
                   NULL AS duration_ms
            FROM read_csv($file, delim = ',', header = true, auto_detect = false, columns = {track_id: 'BIGINT',
            album_id: 'BIGINT', artist_id: 'BIGINT', duration_sec: 'BIGINT'})""",
        events="train_sequential.csv",
        header="playlist_id,track_id",
        fields="string_split(line, ',')",
        parse="""
            TRY_CAST(fields[1] AS BIGINT) AS user_id, CAST(NULL AS BIGINT) AS timestamp,
            TRY_CAST(fields[2] AS BIGINT) AS track, CAST(NULL AS DOUBLE) AS played_ratio,
            TRY_CAST(fields[1] AS BIGINT) AS source_session, FALSE AS is_last,
            CASE WHEN len(fields) <> 2 THEN 'a line must have 2 columns'
                 WHEN user_id IS NULL THEN 'playlist_id must be a whole number'
                 WHEN track IS NULL THEN 'track_id must be a whole number' END AS reason""",
    ),
    "situnes": Reader(
        catalogue="tracks.csv",
        catalogue_query="""
            SELECT item_id AS track, title, artist, duration_ms FROM read_csv($file, delim = ',', quote = '"',
            header = true, auto_detect = false,
            columns = {item_id: 'BIGINT', duration_ms: 'DOUBLE', title: 'VARCHAR', artist: 'VARCHAR'})""",
        events="stage1.csv",
        header="user_id,item_id,timestamp,duration",
        fields="string_split(line, ',')",
        parse="""
            TRY_CAST(fields[1] AS BIGINT) AS user_id, TRY_CAST(fields[3] AS INTEGER)::BIGINT * 1000 AS timestamp,
            TRY_CAST(fields[2] AS BIGINT) AS track, TRY_CAST(fields[4] AS DOUBLE) AS played_ratio,
            CAST(NULL AS BIGINT) AS source_session, FALSE AS is_last,
            CASE WHEN len(fields) <> 4 THEN 'a line must have 4 columns'
                 WHEN user_id IS NULL THEN 'user_id must be a whole number'
                 WHEN track IS NULL THEN 'item_id must be a whole number'
                 WHEN COALESCE(timestamp NOT BETWEEN 0 AND 253402300799999, TRUE)
                 THEN 'timestamp must be a whole number of seconds since 1970'
                 WHEN fields[4] <> '' AND played_ratio IS NULL THEN 'duration must be a number of seconds, or nothing'
                 END AS reason""",
        played_ratio="""CASE WHEN p.played_ratio * 1000 >= c.duration_ms THEN 1
                          ELSE p.played_ratio * 1000 / c.duration_ms END""",
    ),
}
"""The sources that Segue can read, by the name that `datamodule=` gives them."""


@dataclass(frozen=True, kw_only=True)
class EventLog:
    """What a source held: the catalogue, and the table `events` in `database`.

    `events` has the columns `user_id, timestamp` (ms, NULL without a clock) `, position` (order of the lines) `,
    track` (row of the catalogue) `, played_ratio` (0 to 1, or NULL) `, source_session, is_last`.
    """

    database: duckdb.DuckDBPyConnection
    catalog: Catalog
    num_events: int
    num_lines: int
    num_rejected: int


def read_events(*, reader: str, folder: Path, max_rejected: float, rejected_path: Path) -> EventLog:
    """Read the catalogue and the events of one source.

    Args:
        reader: a name in READERS.
        folder: where the source's files are.
        max_rejected: share of lines that may be rejected, 0 to 1.
        rejected_path: where rejected lines are kept aside; written only if there are any.

    Raises:
        InputError: a file is missing, was cut off, holds nothing, or too many lines do not fit.
    """
    if reader not in READERS:
        raise InputError(f"no reader {reader!r}; there are {', '.join(sorted(READERS))}")
    check_number("max_rejected", max_rejected, least=0, most=1, hint="0.01 lets one line in a hundred pass")
    source = READERS[reader]
    catalogue_file, event_files = _find_files(source, folder)
    for file in event_files:
        check_whole(file)
    database = duckdb.connect(config=duckdb_settings())
    catalog = _read_catalogue(database, source, catalogue_file)
    _parse_lines(database, source, event_files)
    num_lines = _count(database, "SELECT count(*) FROM parsed WHERE NOT is_blank")
    if num_lines == 0:
        raise InputError(f"no events: {source.events} in {folder} holds no line")
    _judge_events(database, source)
    rejected = _rejected_lines(database, source)
    if rejected:
        _write_rejected(rejected_path, rejected)
    if len(rejected) > max_rejected * num_lines:
        first = "; ".join(
            f"{Path(str(line['file'])).name} line {line['line']}: {line['reason']}" for line in rejected[:3]
        )
        raise InputError(
            f"{len(rejected)} of {num_lines} lines in {folder} do not fit, more than max_rejected={max_rejected} allows"
            f" ({first}); mend them (all are listed in {rejected_path}), or raise datamodule.max_rejected"
        )
    num_events = _count(database, "SELECT count(*) FROM events")
    return EventLog(
        database=database, catalog=catalog, num_events=num_events, num_lines=num_lines, num_rejected=len(rejected)
    )


def _count(database: duckdb.DuckDBPyConnection, query: str) -> int:
    [(count,)] = database.execute(query).fetchall()
    return int(count)


def _find_files(source: Reader, folder: Path) -> tuple[Path, list[Path]]:
    catalogue = folder / source.catalogue
    found = folder.glob(source.events) if folder.is_dir() else []
    events = [path for path in found if path.is_file() and not path.name.endswith("~")]  # no editor's backups
    missing = [name for name, found in ((source.catalogue, catalogue.is_file()), (source.events, events)) if not found]
    if missing:
        state = f"no {' and no '.join(missing)} in it" if folder.is_dir() else "no such folder"
        raise InputError(
            f"cannot read {folder}: {state}; looked for {source.catalogue} and {source.events}; "
            "give datamodule.path=<folder>, or set SEGUE_DATA to the folder that holds the data sets"
        )
    return catalogue, sorted(events, key=_age)


def _age(path: Path) -> tuple[str, int]:
    """Sorts the rotated files of one replica oldest first: data.json.2, data.json.1, data.json."""
    rotation = re.search(r"\.(\d+)(?:\.\w+)?$", path.name)
    return str(path.parent), -int(rotation[1]) if rotation else 0


def _read_catalogue(database: duckdb.DuckDBPyConnection, source: Reader, file: Path) -> Catalog:
    try:
        frame = database.execute(source.catalogue_query, {"file": glob.escape(str(file))}).df()
    except duckdb.Error as error:
        raise InputError(f"cannot read the catalogue {file}: {_one_line(error)}") from None
    catalog = Catalog.from_frame(frame, str(file))
    database.register("frame", frame)
    database.execute("""
        CREATE TABLE catalogue AS
        SELECT row_number() OVER () - 1 AS row, track, CAST(duration_ms AS DOUBLE) AS duration_ms FROM frame""")
    database.unregister("frame")
    return catalog


def _parse_lines(database: duckdb.DuckDBPyConnection, source: Reader, files: Sequence[Path]) -> None:
    """Make the table `parsed`: one row a line, in the order of files and lines."""
    for file in files:
        if source.header is not None:
            with file.open(encoding="utf-8", errors="replace") as lines:
                header = lines.readline().strip()
            if header != source.header:
                raise InputError(f"{file}: the first line must be {source.header!r}, got {header[:80]!r}")
    skip = source.skip + (source.header is not None)
    query = f"""
        CREATE OR REPLACE TABLE parsed AS
        SELECT filename, line IS NULL AS is_blank, {source.parse}
        FROM (SELECT filename, line, {source.fields} AS fields FROM read_csv($files, columns = {{line: 'VARCHAR'}},
              delim = '\x01', quote = '', escape = '', header = false, auto_detect = false, strict_mode = false,
              filename = true, skip = {skip}, encoding = $encoding))"""
    parameters: dict[str, object] = {"files": [glob.escape(str(file)) for file in files], "encoding": "utf-8"}
    try:
        try:
            database.execute(query, parameters)
        except duckdb.InvalidInputException:  # bytes that are not UTF-8: read them all the same, to name their lines
            database.execute(query, {**parameters, "encoding": "latin-1"})
    except duckdb.Error as error:
        raise InputError(f"cannot read {source.events}: {_one_line(error)}") from None


def _judge_events(database: duckdb.DuckDBPyConnection, source: Reader) -> None:
    """Make the tables `rejected` (line, reason) and `events` from `parsed` and `catalogue`."""
    numbered = "SELECT rowid AS line, 0 AS place, * FROM parsed WHERE NOT is_blank"
    if source.is_playlist:
        numbered = """
            SELECT rowid AS line, generate_subscripts(track, 1) AS place, rowid AS user_id, timestamp,
                   unnest(track) AS track, played_ratio, source_session, is_last, reason
            FROM parsed WHERE NOT is_blank"""
    database.execute(f"""
        CREATE VIEW judged AS
        SELECT p.line, p.line * 1048576 + p.place AS position, p.user_id, p.timestamp, c.row AS track,
               {source.played_ratio} AS played_ratio, p.source_session, p.is_last,
               CASE WHEN p.reason IS NOT NULL THEN p.reason
                    WHEN c.row IS NULL THEN 'track ' || p.track || ' is not in {source.catalogue}'
                    WHEN p.played_ratio IS NOT NULL AND ({source.played_ratio}) IS NULL
                    THEN 'track ' || p.track || ' has no duration in {source.catalogue} to take a share of'
                    WHEN ({source.played_ratio}) NOT BETWEEN 0 AND 1
                    THEN 'the share played must lie in [0, 1], got ' || ({source.played_ratio})
               END AS reason
        FROM ({numbered}) p LEFT JOIN catalogue c ON p.track = c.track;
        CREATE TABLE rejected AS
        SELECT line, min(reason) AS reason FROM judged WHERE reason IS NOT NULL GROUP BY line;
        CREATE VIEW events AS
        SELECT user_id, timestamp, position, track, played_ratio, source_session, is_last
        FROM judged WHERE line NOT IN (SELECT line FROM rejected)""")


def _rejected_lines(database: duckdb.DuckDBPyConnection, source: Reader) -> list[dict[str, str | int]]:
    skip = source.skip + (source.header is not None)
    rows = database.execute(f"""
        WITH files AS (SELECT filename, min(rowid) AS first FROM parsed GROUP BY filename)
        SELECT files.filename, rejected.line - files.first + 1 + {skip}, rejected.reason
        FROM rejected JOIN parsed ON rejected.line = parsed.rowid JOIN files ON parsed.filename = files.filename
        ORDER BY rejected.line""").fetchall()
    return [{"file": file, "line": line, "reason": reason} for file, line, reason in rows]


def _write_rejected(path: Path, rejected: Sequence[dict[str, str | int]]) -> None:
    """Write each rejected line with its file, number, reason and text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as out:
        for name, lines in groupby(rejected, key=lambda line: str(line["file"])):
            unpack = gzip.open if name.endswith(".gz") else open
            with unpack(name, "rt", encoding="utf-8", errors="replace", newline="\n") as texts:
                numbered = enumerate(texts, start=1)
                for line in lines:
                    text = next((text for number, text in numbered if number == line["line"]), "")
                    out.write(json.dumps({**line, "text": text.rstrip("\r\n")}, ensure_ascii=False) + "\n")
    partial.replace(path)


def _one_line(error: Exception) -> str:
    """The gist of a DuckDB error, which can run over a screenful."""
    return " ".join(str(error).split())[:300]
