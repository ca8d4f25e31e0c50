"""The catalogue of a source: from a file of tracks, or from the events.

N tracks. Both create the table `catalogue` (`row` in 0..N-1, `track` as in parsed rows, `title`, `artist`,
`duration_ms`, and the texts of attributes).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from segue.catalog import Catalog
from segue.datamodules.reading.attribute_files import attribute_columns, column_of
from segue.datamodules.reading.attribute_settings import AttributeSettings
from segue.datamodules.reading.files import find_files, has_files
from segue.datamodules.reading.queries import are_whole, quoted_name, run
from segue.datamodules.reading.raw_rows import open_rows
from segue.datamodules.reading.row_sql import Cells, artist_of, whole
from segue.datamodules.reading.table_settings import TableSettings
from segue.datamodules.reading.units import MS_OF, unit_of_duration
from segue.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Tracks:
    """The table `catalogue`.

    Args:
        shown: name of its file in messages; empty where the tracks are those of the events.
        ids: `whole` or `text`; `none` where title and artist make the track.
        has_durations: whether a column has durations.
    """

    shown: str
    ids: str
    has_durations: bool

    def add_unknown(self, database: duckdb.DuckDBPyConnection) -> "Tracks":
        """Add the tracks of the events that the file does not have, in the order in which they first occur."""
        database.execute("""
            INSERT INTO catalogue BY NAME
            SELECT (SELECT count(*) FROM catalogue) + row_number() OVER (ORDER BY first) - 1 AS row,
                   track, title, artist
            FROM (SELECT track, min(position) AS first, arg_min(title, position) AS title,
                         arg_min(artist, position) AS artist
                  FROM numbered WHERE reason IS NULL AND dropped IS NULL GROUP BY track)
            WHERE track NOT IN (SELECT track FROM catalogue)""")
        return self

    def catalog(self, database: duckdb.DuckDBPyConnection) -> Catalog:
        """Build the catalogue of all tracks.

        Raises:
            InputError: there is no track, or an id occurs twice.
        """
        columns = database.execute("SELECT track, title, artist FROM catalogue ORDER BY row").fetchnumpy()
        lists: list[list[Any]] = [columns[name].tolist() for name in ("track", "title", "artist")]  # NULL is None
        tracks, *names = lists
        source = self.shown or "the events"
        if self.ids == "whole":
            return Catalog.from_columns(list(map(int, tracks)), *names, source=source)
        source_ids = tracks if self.ids == "text" else None
        return Catalog.from_columns(range(len(tracks)), *names, source=source, source_ids=source_ids)


def read_track_file(database: duckdb.DuckDBPyConnection, settings: TableSettings, folder: Path) -> Tracks | None:
    """Read the file of tracks beside the events.

    Args:
        database: gets the table `catalogue`.
        settings: of the table.
        folder: the folder of the events, or the file of the events.

    Returns:
        The tracks; None if the source has no such file.

    Raises:
        InputError: the file is missing or damaged, or a column is missing.
    """
    given = settings.catalogue
    if given is None:
        return None
    if not folder.is_dir():
        folder = folder.parent
    if not has_files(folder, given.files):
        if not given.required:
            return None
        raise InputError(
            f"cannot read {folder}: no {' or '.join(given.files.patterns)} in it, the catalogue of tracks; "
            "give datamodule.path=<folder>, or set SEGUE_DATA to the folder that holds the data sets"
        )
    key = "datamodule.catalogue"
    files = find_files(str(folder), given.files, unpacked=folder, key=key)
    rows = open_rows(database, files, given.files, key=key)
    rows.use_in_sql(given.sql.values())
    mapping: dict[str, str] = {}
    for role, path in given.columns.items():
        if path is None:
            continue
        found = str(path) if path in given.sql else rows.find(str(path))
        if found is None:
            raise rows.missing(str(path), key=f"{key}.columns.{role}")
        mapping[role] = found
    cells = Cells(rows, dict.fromkeys(given.sql, "VARCHAR"))
    derived = "".join(f", CAST(({text}) AS VARCHAR) AS {quoted_name(name)}" for name, text in given.sql.items())
    title = cells.text(mapping["title"]) if "title" in mapping else "CAST(NULL AS VARCHAR)"
    duration, unit = "CAST(NULL AS DOUBLE)", given.duration_unit
    if "duration" in mapping:
        shown = cells.shown(mapping["duration"])
        sample = f"SELECT {shown} FROM (SELECT *{derived} FROM ({rows.relation(limit=1000)}))"
        values = [str(value) for (value,) in run(database, sample, rows.parameters, files=files).fetchall() if value]
        unit = unit_of_duration(values, unit, column=mapping["duration"], key=f"{key}.units.duration")
        duration = f"{cells.typed(mapping['duration'], 'DOUBLE')} * {MS_OF[unit]:g}"
    number, text = whole(mapping["track"], cells), "NULL"
    if settings.ids != "whole":  # in JSON a text is looked up once more
        text = cells.shown(mapping["track"])
    query = f"""CREATE OR REPLACE TABLE track_file AS
        SELECT {number} AS number, CAST({text} AS VARCHAR) AS text, {title} AS title,
               {artist_of(mapping.get("artist"), cells, settings)} AS artist, {duration} AS duration_ms,
               {"fields IS NULL" if rows.is_json else "FALSE"} AS is_damaged
               {attribute_columns(settings.attributes, rows, cells, derived=given.sql)}
        FROM (SELECT *{derived} FROM ({rows.relation()}))
        {"WHERE line IS NOT NULL" if files.format in ("jsonl", "lines") else ""}"""
    try:
        run(database, query, rows.parameters, files=files)
    except InputError as error:
        raise InputError(f"cannot read the catalogue {files.shown[0]}: {error}") from None
    _check_entries(database, rows.rejects, files.shown[0])
    ids = _ids(database, settings.ids, files.shown[0])
    return _number_tracks(database, settings, ids, shown=Path(files.shown[0]).name, has_durations="duration" in mapping)


def _check_entries(database: duckdb.DuckDBPyConnection, rejects: str | None, shown: str) -> None:
    if rejects is not None:
        query = f"SELECT line, error_message FROM {rejects} ORDER BY 1 LIMIT 1"
        for line, message in database.execute(query).fetchall():
            raise InputError(f"cannot read the catalogue {shown}: line {line}: {message}; correct it")
    damaged = database.execute("SELECT min(rowid) FROM track_file WHERE is_damaged").fetchone()
    if damaged is not None and damaged[0] is not None:
        raise InputError(f"cannot read the catalogue {shown}: entry {damaged[0] + 1} is not a JSON object; correct it")
    if database.execute("SELECT count(*) FROM track_file").fetchone() == (0,):
        raise InputError(f"{shown} is empty: a catalogue needs at least one track")


def _ids(database: duckdb.DuckDBPyConnection, given: str, shown: str) -> str:
    """`whole` or `text`; with `auto`, what all entries are."""
    if given == "auto":
        query = "SELECT bool_and(COALESCE(CAST(number AS VARCHAR) = text, FALSE)) FROM track_file"
        given = "whole" if database.execute(query).fetchone() == (True,) else "text"
    column = "number" if given == "whole" else "NULLIF(text, '')"
    row = database.execute(f"SELECT min(rowid) FROM track_file WHERE {column} IS NULL").fetchone()
    if row is not None and row[0] is not None:
        what = "no whole number as its track id" if given == "whole" else "no track id"
        raise InputError(f"{shown}: entry {row[0] + 1} has {what}; correct or remove it")
    return given


def _number_tracks(
    database: duckdb.DuckDBPyConnection, settings: TableSettings, ids: str, *, shown: str, has_durations: bool
) -> Tracks:
    column = "number" if ids == "whole" else "text"
    is_first = settings.catalogue is not None and settings.catalogue.repeated == "first"
    first = f"WHERE rowid IN (SELECT min(rowid) FROM track_file GROUP BY {column})" if is_first else ""
    database.execute(f"""
        CREATE OR REPLACE TABLE catalogue AS
        SELECT row_number() OVER (ORDER BY place) - 1 AS row, * EXCLUDE (place)
        FROM (SELECT {column} AS track, rowid AS place, * EXCLUDE (number, text, is_damaged) FROM track_file {first});
        DROP TABLE track_file""")
    twice = database.execute("SELECT track FROM catalogue GROUP BY track HAVING count(*) > 1 LIMIT 1").fetchone()
    if twice is not None:
        raise InputError(f"{shown}: track {twice[0]} occurs twice; every id must be unique")
    return Tracks(shown=shown, ids=ids, has_durations=has_durations)


def tracks_of_events(
    database: duckdb.DuckDBPyConnection, attributes: Mapping[str, AttributeSettings], *, has_ids: bool
) -> Tracks:
    """Make the catalogue of the tracks that occur in the events, in the order in which they first occur.

    Title, artist and attributes are those of the first event that has them.

    Args:
        database: has the view `numbered`; gets the table `catalogue`.
        attributes: those of them that have no file of their own are columns of `numbered`.
        has_ids: whether the source has ids of tracks.
    """
    columns = [column_of(name) for name, settings in attributes.items() if settings.file is None]
    firsts = "".join(f", arg_min({name}, position) FILTER ({name} IS NOT NULL) AS {name}" for name in columns)
    names = "".join(f", {name}" for name in columns)
    database.execute(f"""
        CREATE OR REPLACE TABLE catalogue AS
        SELECT row_number() OVER (ORDER BY first) - 1 AS row, track, title, artist, CAST(NULL AS DOUBLE) AS duration_ms
               {names}
        FROM (SELECT track, min(position) AS first,
                     arg_min(title, position) FILTER (title IS NOT NULL) AS title,
                     arg_min(artist, position) FILTER (artist IS NOT NULL) AS artist {firsts}
              FROM numbered WHERE reason IS NULL AND dropped IS NULL GROUP BY track)""")
    ids = "none"
    if has_ids:
        described = {str(name): str(type_) for name, type_, *_ in database.execute("DESCRIBE catalogue").fetchall()}
        is_whole = described["track"] != "VARCHAR" or are_whole(database, "SELECT track AS id FROM catalogue")
        ids = "whole" if is_whole else "text"
    return Tracks(shown="", ids=ids, has_durations=False)
