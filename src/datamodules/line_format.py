"""Shared code for text formats: reads lines into a catalogue and a table of events.

A `LineFormat` consists of SQL expressions over one line. `formats/` has one for each source. Each line is either an
event (or a playlist of events) or is *rejected*: it is counted, reported, and written to a file with its file name,
line number and reason. DuckDB reads the files. The `rowid` of a table follows the order of files and lines, therefore
line numbers can be computed from it.
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
from src.models.contracts import Reader, SourceEvents
from src.runs.atomic import write_whole
from src.runs.cores import duckdb_settings


@dataclass(frozen=True, kw_only=True)
class LineFormat(Reader):
    """A `Reader` of text files with one event or one playlist in each line.

    Args:
        catalogue: file of the catalogue, relative to the folder.
        catalogue_query: SQL SELECT of `track, title, artist, duration_ms` (in milliseconds, or NULL) from `$file`.
        events: glob of the event files, relative to the folder.
        header: the first line that an event file must have; None where it has no header.
        skip: number of other lines at the start of an event file that hold no event.
        fields: SQL expression over `line`; `parse` reads its value under the name `fields`.
        parse: SQL SELECT list over `fields` and `line` that gives `user_id, timestamp, track, played_ratio,
            source_session, is_last, reason`. `timestamp` is in milliseconds since 1970. `track` is a list where a line
            is a playlist. `reason` says why the line is rejected, or is NULL.
        played_ratio: SQL expression of the share played, in [0, 1], over `parsed` (p) and `catalogue` (c).
        is_playlist: whether a line is a playlist.
        has_recommendations: whether `parse` also gives `recommendation`, the track that was recommended next, or NULL.
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
    has_recommendations: bool = False

    def read(self, folder: Path, *, max_rejected: float, rejected_path: Path) -> SourceEvents:
        """Read the catalogue and the events; see `Reader.read`.

        Args:
            folder: folder that holds the files.
            max_rejected: largest share of lines that may be rejected, in [0, 1].
            rejected_path: file that rejected lines are written to; it is written only if there are any.

        Returns:
            The catalogue and the events.

        Raises:
            InputError: a file is missing, truncated or empty, or more lines than `max_rejected` are rejected.
        """
        check_number("max_rejected", max_rejected, least=0, most=1, hint="0.01 allows one line in a hundred")
        catalogue_file, event_files = _find_files(self, folder)
        for file in event_files:
            check_whole(file)
        database = duckdb.connect(config=duckdb_settings())
        catalog = _read_catalogue(database, self, catalogue_file)
        _parse_lines(database, self, event_files)
        num_lines = _count(database, "SELECT count(*) FROM parsed WHERE NOT is_blank")
        if num_lines == 0:
            raise InputError(f"no events: {self.events} in {folder} has no lines; check datamodule.path")
        _validate_events(database, self)
        rejected = _rejected_lines(database, self, event_files)
        if rejected:
            rejected_path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(rejected_path, lambda partial: _write_rejected(partial, rejected))
        if len(rejected) > max_rejected * num_lines:
            first = "; ".join(
                f"{Path(str(line['file'])).name} line {line['line']}: {line['reason']}" for line in rejected[:3]
            )
            raise InputError(
                f"{len(rejected)} of {num_lines} lines in {folder} are invalid, more than max_rejected={max_rejected} "
                f"allows ({first}); correct them (all are listed in {rejected_path}), or raise datamodule.max_rejected"
            )
        return SourceEvents(
            database=database,
            catalog=catalog,
            num_events=_count(database, "SELECT count(*) FROM listed WHERE line NOT IN (SELECT line FROM rejected)"),
            num_lines=num_lines,
            num_rejected=len(rejected),
        )

    def is_in(self, folder: Path) -> bool:
        """See `Reader.is_in`."""
        return (folder / self.catalogue).is_file() and bool(_event_files(self, folder))

    @property
    def num_head_lines(self) -> int:
        """Number of lines of an event file before its first event."""
        return self.skip + (self.header is not None)


def _count(database: duckdb.DuckDBPyConnection, query: str) -> int:
    [(count,)] = database.execute(query).fetchall()
    return int(count)


def _find_files(source: LineFormat, folder: Path) -> tuple[Path, list[Path]]:
    catalogue = folder / source.catalogue
    events = _event_files(source, folder)
    exists = {source.catalogue: catalogue.is_file(), source.events: bool(events)}
    missing = [name for name, is_there in exists.items() if not is_there]
    if missing:
        reason = f"no {' and no '.join(missing)} in it" if folder.is_dir() else "no such folder"
        raise InputError(
            f"cannot read {folder}: {reason}; looked for {source.catalogue} and {source.events}; "
            "give datamodule.path=<folder>, or set SEGUE_DATA to the folder that holds the data sets"
        )
    return catalogue, sorted(events, key=_oldest_first)


def _event_files(source: LineFormat, folder: Path) -> list[Path]:
    matches = folder.glob(source.events) if folder.is_dir() else []
    return [path for path in matches if path.is_file() and not path.name.endswith("~")]  # ignore backups of editors


def _oldest_first(path: Path) -> tuple[str, int]:
    """Sort key: the rotated files of one replica, oldest first: data.json.2, data.json.1, data.json."""
    rotation = re.search(r"\.(\d+)(?:\.\w+)?$", path.name)
    return str(path.parent), -int(rotation[1]) if rotation else 0


def _read_catalogue(database: duckdb.DuckDBPyConnection, source: LineFormat, file: Path) -> Catalog:
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


def _parse_lines(database: duckdb.DuckDBPyConnection, source: LineFormat, files: Sequence[Path]) -> None:
    """Create the table `parsed`: one row for each line, in the order of files and lines.

    `file` is the place 0, 1, … of its file in `files`; a name in each row would be most of the memory of the table.
    """
    for file in files:
        if source.header is not None:
            with file.open(encoding="utf-8", errors="replace") as lines:
                header = lines.readline().strip()
            if header != source.header:
                raise InputError(f"{file}: the first line must be {source.header!r}, got {header[:80]!r}")
    query = f"""
        CREATE OR REPLACE TABLE parsed AS
        SELECT file, line IS NULL AS is_blank, {source.parse}
        FROM (SELECT CAST(file_index AS INTEGER) AS file, line, {source.fields} AS fields
              FROM read_csv($files, columns = {{line: 'VARCHAR'}}, delim = '\x01', quote = '', escape = '',
              header = false, auto_detect = false, strict_mode = false, skip = {source.num_head_lines},
              encoding = $encoding))"""
    parameters: dict[str, object] = {"files": [glob.escape(str(file)) for file in files], "encoding": "utf-8"}
    try:
        try:
            database.execute(query, parameters)
        except duckdb.InvalidInputException:  # not UTF-8: latin-1 reads all bytes, to name lines
            database.execute(query, {**parameters, "encoding": "latin-1"})
    except duckdb.Error as error:
        raise InputError(f"cannot read {source.events}: {_one_line(error)}") from None


def _validate_events(database: duckdb.DuckDBPyConnection, source: LineFormat) -> None:
    """Create the table `rejected` (line, reason) and the views `listed` and `events` from `parsed` and `catalogue`.

    `listed` has one row for each event of each line, valid or not; unlike `events`, it can be counted without a join.
    """
    listed = "SELECT rowid AS line, 0 AS place, * FROM parsed WHERE NOT is_blank"
    if source.is_playlist:
        listed = """
            SELECT rowid AS line, generate_subscripts(track, 1) AS place, rowid AS user_id, timestamp,
                   unnest(track) AS track, played_ratio, source_session, is_last, reason
            FROM parsed WHERE NOT is_blank"""
    recommendation, of_line, catalogue = (
        (", r.row AS recommendation", ", p.recommendation", "LEFT JOIN catalogue r ON v.recommendation = r.track")
        if source.has_recommendations
        else ("", "", "")
    )
    database.execute(f"""
        CREATE VIEW listed AS {listed};
        CREATE VIEW validated AS
        SELECT p.line, p.line * 1048576 + p.place AS position, p.user_id, p.timestamp, c.row AS track,
               {source.played_ratio} AS played_ratio, p.source_session, p.is_last,
               CASE WHEN p.reason IS NOT NULL THEN p.reason
                    WHEN c.row IS NULL THEN 'track ' || p.track || ' is not in {source.catalogue}'
                    WHEN p.played_ratio IS NOT NULL AND ({source.played_ratio}) IS NULL
                    THEN 'track ' || p.track || ' has no duration in {source.catalogue}, therefore no share'
                    WHEN ({source.played_ratio}) NOT BETWEEN 0 AND 1
                    THEN 'the share played must lie in [0, 1], got ' || ({source.played_ratio})
               END AS reason {of_line}
        FROM listed p LEFT JOIN catalogue c ON p.track = c.track;
        CREATE TABLE rejected AS
        SELECT line, min(reason) AS reason FROM validated WHERE reason IS NOT NULL GROUP BY line;
        CREATE VIEW events AS
        SELECT user_id, timestamp, position, v.track, played_ratio, source_session, is_last {recommendation}
        FROM validated v {catalogue} WHERE line NOT IN (SELECT line FROM rejected)""")


def _rejected_lines(
    database: duckdb.DuckDBPyConnection, source: LineFormat, files: Sequence[Path]
) -> list[dict[str, str | int]]:
    rows = database.execute(f"""
        WITH files AS (SELECT file, min(rowid) AS first FROM parsed GROUP BY file)
        SELECT file, rejected.line - files.first + 1 + {source.num_head_lines}, rejected.reason
        FROM rejected JOIN parsed ON rejected.line = parsed.rowid JOIN files USING (file)
        ORDER BY rejected.line""").fetchall()
    return [{"file": str(files[file]), "line": line, "reason": reason} for file, line, reason in rows]


def _write_rejected(path: Path, rejected: Sequence[dict[str, str | int]]) -> None:
    """Write each rejected line with its file, line number, reason and text."""
    with path.open("w", encoding="utf-8") as out:
        for name, lines in groupby(rejected, key=lambda line: str(line["file"])):
            open_text = gzip.open if name.endswith(".gz") else open
            with open_text(name, "rt", encoding="utf-8", errors="replace", newline="\n") as texts:
                numbered = enumerate(texts, start=1)
                for line in lines:
                    text = next((text for number, text in numbered if number == line["line"]), "")
                    out.write(json.dumps({**line, "text": text.rstrip("\r\n")}, ensure_ascii=False) + "\n")


def _one_line(error: Exception) -> str:
    """The first 300 characters of a DuckDB error on one line."""
    return " ".join(str(error).split())[:300]
