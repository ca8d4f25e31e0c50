"""The catalogue of a source: from a file of tracks, or from the events.

N tracks. Both create the table `catalogue` (`row` in 0..N-1, `track` and `track_id` as in parsed rows, `title`,
`artist`, `duration_ms`, and the texts of attributes).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segue.catalog import Catalog, Id, derived_id, quoted
from segue.datamodules.reading.attribute_files import attribute_columns, column_of
from segue.datamodules.reading.files import find_files, in_folder
from segue.datamodules.reading.queries import Database, are_whole, count, mixed_ids
from segue.datamodules.reading.raw_rows import open_rows
from segue.datamodules.reading.row_sql import artist_of, key_of_text, problems_of_text, whole
from segue.datamodules.reading.table_settings import AttributeSettings, TableSettings
from segue.datamodules.reading.units import MS_OF, unit_of_duration
from segue.errors import InputError
from segue.settings import refuse_unknown


@dataclass(frozen=True, kw_only=True)
class Tracks:
    """The table `catalogue`.

    Args:
        shown: name of its file in messages; empty where the tracks are those of the events.
        ids: `whole` or `text`; `none` where title and artist make the track.
        remarks: what a user should know of them, in lines.
    """

    shown: str
    ids: str
    has_durations: bool
    remarks: Sequence[str] = ()

    def catalog(self, database: Database) -> Catalog:
        """Build the catalogue of all tracks.

        Raises:
            InputError: there is no track, or an id occurs twice.
        """
        columns = "COALESCE(track_id, CAST(track AS VARCHAR)) AS id, title, artist"
        found: dict[str, Any] = database.execute(f"SELECT {columns} FROM catalogue ORDER BY row").fetchnumpy()
        tracks, *names = (found[name].tolist() for name in ("id", "title", "artist"))  # NULL is None
        source = self.shown or "the events"
        if self.ids == "none":
            ids: list[Id] = list(map(derived_id, *names))
        else:
            is_whole = self.ids == "whole" and min(map(int, tracks), default=0) >= 0  # -1 is a text
            ids = list(map(int, tracks)) if is_whole else tracks
        return Catalog.from_columns(ids, *names, source=source)


def read_track_file(database: Database, settings: TableSettings, folder: Path) -> Tracks | None:
    """Read the file of tracks beside the events.

    Args:
        database: gets the table `catalogue`.

    Returns:
        The tracks; None if the source has no such file.

    Raises:
        InputError: the file is missing or damaged, or a column is missing.
    """
    given = settings.catalogue
    if given.file is None:
        return None
    patterns = [given.file] if isinstance(given.file, str) else given.file
    if not in_folder(folder, given, patterns):
        if not given.required:
            return None
        raise InputError(
            f"cannot read {folder}: no {' or '.join(patterns)} in it, the catalogue of tracks; "
            "give datamodule.path=<folder>, or set SEGUE_DATA to the folder that holds the data sets"
        )
    key = "datamodule.catalogue"
    refuse_unknown(given.columns, ["track", "title", "artist", "duration"], key=f"{key}.columns")
    if given.columns.get("track") is None:
        raise InputError(f"{key}.columns.track must name the column of the ids of tracks")
    files = find_files(str(folder), given, patterns=patterns, unpacked=folder)
    rows = open_rows(database, files, given)
    rows.name_in_sql([str(text) for text in given.sql.values()])
    rows.define(given.sql, key=f"{key}.sql")
    mapping = {
        role: rows.found(str(path), key=f"{key}.columns.{role}")
        for role, path in given.columns.items()
        if path is not None
    }
    title = rows.text(mapping["title"]) if "title" in mapping else "CAST(NULL AS VARCHAR)"
    duration, unit = "CAST(NULL AS DOUBLE)", str(given.units["duration"])
    if "duration" in mapping:
        if unit == "auto":
            sample = rows.run(f"SELECT {rows.shown(mapping['duration'])} FROM ({rows.relation(limit=1000)})").fetchall()
            unit = unit_of_duration([str(value) for (value,) in sample if value], column=mapping["duration"])
        duration = f"{rows.typed(mapping['duration'], 'DOUBLE')} * {MS_OF[unit]:g}"
    shown = files.shown[0]
    number = whole(mapping["track"], rows)  # in JSON the text is looked up once more
    text = f"CAST({number} AS VARCHAR)" if settings.ids == "whole" else rows.shown(mapping["track"])
    query = f"""CREATE OR REPLACE TABLE track_file AS
        SELECT {number} AS number, CAST({text} AS VARCHAR) AS text, {title} AS title,
               {artist_of(mapping.get("artist"), rows, settings)} AS artist, {duration} AS duration_ms,
               {"fields IS NULL" if rows.is_json else "FALSE"} AS is_damaged
               {attribute_columns(settings.attributes, rows)}
        FROM ({rows.relation()}) {"WHERE line IS NOT NULL" if rows.has_blank_lines else ""}"""
    try:
        rows.run(query)
    except InputError as error:
        raise InputError(f"cannot read the catalogue {shown}: {error}") from None
    rows.refuse_rejects(f"the catalogue {shown}")
    if (damaged := _first_entry(database, "is_damaged")) is not None:
        raise InputError(f"cannot read the catalogue {shown}: entry {damaged} is not a JSON object; correct it")
    if not count(database, "SELECT count(*) FROM track_file"):
        raise InputError(f"{shown} is empty: a catalogue needs at least one track")
    if (ids := settings.ids) == "auto":
        ids = "whole" if are_whole(database, "SELECT text AS id FROM track_file") else "text"
    column = "number" if ids == "whole" else "text"
    wrong = {
        "no whole number as its track id" if ids == "whole" else "no track id": f"NULLIF({column}::VARCHAR, '') IS NULL"
    }
    wrong |= {f"a track id that {problem}": condition for problem, condition in problems_of_text("text").items()}
    for what, condition in wrong.items():
        if (entry := _first_entry(database, condition)) is not None:
            raise InputError(f"{shown}: entry {entry} has {what}; correct or remove it")
    remarks = _drop_repeated(database, column, Path(shown).name)
    if ids == "text":
        remarks += remarks_on_ids(database, "SELECT text AS id FROM track_file")
    columns = "number AS track, CAST(NULL AS VARCHAR) AS track_id"
    if ids == "text":
        columns = f"{key_of_text('text')} AS track, text AS track_id"
    database.execute(f"""
        CREATE OR REPLACE TABLE catalogue AS
        SELECT row_number() OVER (ORDER BY place) - 1 AS row, * EXCLUDE (place)
        FROM (SELECT {columns}, rowid AS place, * EXCLUDE (number, text, is_damaged)
              FROM track_file);
        DROP TABLE track_file""")
    return Tracks(shown=Path(shown).name, ids=ids, has_durations="duration" in mapping, remarks=remarks)


def _drop_repeated(database: Database, column: str, shown: str) -> list[str]:
    """Leave out all entries of an id but the first, and say in a line which of them have another title or artist.

    Without titles, several entries of a track are usual: one for each artist.
    """
    repeated = f"SELECT {column} AS id, min(rowid) AS place FROM track_file GROUP BY 1 HAVING count(*) > 1"
    database.execute(f"""
        CREATE OR REPLACE TABLE repeated AS
        SELECT t.rowid AS place, r.id, f.title AS first_title, f.artist AS first_artist, t.title, t.artist
        FROM track_file t JOIN ({repeated}) r ON t.{column} = r.id JOIN track_file f ON f.rowid = r.place
        WHERE t.rowid <> r.place;
        DELETE FROM track_file WHERE rowid IN (SELECT place FROM repeated)""")
    others = database.execute("""
        SELECT id, first_title, first_artist, title, artist, count(*) OVER () FROM repeated
        WHERE title IS DISTINCT FROM first_title OR (title IS NOT NULL AND artist IS DISTINCT FROM first_artist)
        ORDER BY place LIMIT 1""").fetchall()
    return [
        f"titles       {num:,} entries of {shown} have the id of an earlier one and another title or artist, such as "
        f"track {quoted(id)}: {title or ''!r} by {artist or 'nobody'}, first {first or ''!r} by {by or 'nobody'}; the "
        "first of each id counts"
        for id, first, by, title, artist, num in others
    ]


def remarks_on_ids(database: Database, ids: str) -> list[str]:
    """A line if some of the ids of tracks that a query gives as texts are whole numbers and others are not."""
    mixed = mixed_ids(database, ids)
    return [] if mixed is None else [f"ids          of tracks: {mixed}"]


def _first_entry(database: Database, condition: str) -> int | None:
    """The number of the first entry of the file that meets a condition, from 1."""
    [(found,)] = database.execute(f"SELECT min(rowid) + 1 FROM track_file WHERE {condition}").fetchall()
    return None if found is None else int(found)


def add_unknown(database: Database) -> None:
    """Add the tracks of the events that the file does not have, in the order in which they first occur."""
    database.execute("""
        INSERT INTO catalogue BY NAME
        SELECT (SELECT count(*) FROM catalogue) + row_number() OVER (ORDER BY first) - 1 AS row, track, track_id,
               title, artist
        FROM (SELECT track, any_value(track_id) AS track_id, min(position) AS first,
                     arg_min(title, position) AS title, arg_min(artist, position) AS artist
              FROM numbered WHERE reason IS NULL AND dropped IS NULL GROUP BY track)
        WHERE track NOT IN (SELECT track FROM catalogue)""")


def tracks_of_events(database: Database, attributes: Sequence[AttributeSettings], *, has_ids: bool) -> Tracks:
    """Make the catalogue of the tracks that occur in the events, in the order in which they first occur.

    Title, artist and attributes are those of the first event that has them.

    Args:
        database: has the view `numbered`; gets the table `catalogue`.
        attributes: those of them that have no file of their own are columns of `numbered`.
    """
    columns = [column_of(one.name) for one in attributes if one.file is None]
    firsts = "".join(f", arg_min({name}, position) FILTER ({name} IS NOT NULL) AS {name}" for name in columns)
    names = "".join(f", {name}" for name in columns)
    differ = "min(title) <> max(title) OR min(artist) <> max(artist)" if has_ids else "FALSE"
    database.execute(f"""
        CREATE OR REPLACE TABLE catalogue AS
        SELECT row_number() OVER (ORDER BY first) - 1 AS row, track, track_id, title, artist,
               CAST(NULL AS DOUBLE) AS duration_ms, differ {names}
        FROM (SELECT track, any_value(track_id) AS track_id, min(position) AS first,
                     arg_min(title, position) FILTER (title IS NOT NULL) AS title,
                     arg_min(artist, position) FILTER (artist IS NOT NULL) AS artist,
                     COALESCE({differ}, FALSE) AS differ {firsts}
              FROM numbered WHERE reason IS NULL AND dropped IS NULL GROUP BY track)""")
    if not has_ids:
        return Tracks(shown="", ids="none", has_durations=False)
    ids, remarks = "SELECT COALESCE(track_id, CAST(track AS VARCHAR)) AS id FROM catalogue", _name_by_time(database)
    if are_whole(database, ids):
        return Tracks(shown="", ids="whole", has_durations=False, remarks=remarks)
    return Tracks(shown="", ids="text", has_durations=False, remarks=[*remarks, *remarks_on_ids(database, ids)])


def _name_by_time(database: Database) -> list[str]:
    """Give the tracks with several titles or artists those of their earliest play, and say in a line how many.

    The order of the rows does not matter then: two trainings on the same plays give an id the same title.
    """
    example = "min(COALESCE(track_id, CAST(track AS VARCHAR)))"
    [(num, first)] = database.execute(f"SELECT count(*), {example} FROM catalogue WHERE differ").fetchall()
    if not num:
        return []
    order = "ORDER BY timestamp, title, artist"
    database.execute(f"""
        UPDATE catalogue SET title = f.title, artist = f.artist
        FROM (SELECT track, first(title {order}) FILTER (title IS NOT NULL) AS title,
                     first(artist {order}) FILTER (artist IS NOT NULL) AS artist
              FROM numbered WHERE reason IS NULL AND dropped IS NULL
              AND track IN (SELECT track FROM catalogue WHERE differ) GROUP BY track) f
        WHERE catalogue.track = f.track""")
    return [
        f"titles       {num:,} ids of tracks have several titles or artists, such as {quoted(first)}; those of the "
        "earliest play count"
    ]
