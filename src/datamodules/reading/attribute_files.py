"""Reads the attributes of tracks: from columns of the catalogue or of the events, or from files of their own.

N tracks. A *text* of an attribute is what a cell has: a value, several with a separator or as a JSON array, a number,
or a JSON array of numbers. NULL is unknown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from segue.attributes import Attribute, Values, Vectors
from segue.catalog import Catalog
from segue.datamodules.reading.database import open_database
from segue.datamodules.reading.files import find_files
from segue.datamodules.reading.queries import Database, count, quoted_name, quoted_text
from segue.datamodules.reading.raw_rows import RawRows, open_rows
from segue.datamodules.reading.table_settings import RESERVED, AttributeSettings, FileFormat, attribute_settings
from segue.errors import InputError

_BLOCK = 2**14  # vectors that are looked at together, of a memory-mapped file


def attribute_columns(attributes: Sequence[AttributeSettings], rows: RawRows) -> str:
    """SQL of the columns that have the texts of those attributes that have no file of their own.

    Returns:
        The end of a SELECT list, with a comma before each column; see `column_of`. A column that is not required and
            missing has no texts.

    Raises:
        InputError: the rows lack a column that is required.
    """
    found = ""
    for one in attributes:
        if one.file is None:
            path = rows.found(one.path, key=f"{one.group}.column") if one.required else rows.find(one.path)
            text = "CAST(NULL AS VARCHAR)" if path is None else rows.whole_text(path)
            found += f", {text} AS {column_of(one.name)}"
    return found


def column_of(name: str) -> str:
    """SQL of the column of the table `catalogue` that has the texts of an attribute."""
    return quoted_name(f"attribute {name}")


def read_attributes(
    database: Database, attributes: Sequence[AttributeSettings], folder: Path, *, source: str
) -> dict[str, Attribute]:
    """Read all attributes of the tracks of the table `catalogue`.

    Args:
        database: has the table `catalogue`, with the texts of attributes that have no file of their own.
        source: name of the file of the catalogue, for messages.

    Returns:
        The attributes by name, without those that are not required and whose file, or all of whose texts, are missing.

    Raises:
        InputError: a file is missing or damaged, no id or not every entry has a track, or a value is not allowed.
    """
    found: dict[str, Attribute] = {}
    for one in attributes:
        path = folder / (one.file or "")
        if one.file is not None and not one.required and not path.exists():
            continue
        shown = source if one.file is None else str(path)
        if one.file is None:
            attribute = _from_texts(database, one, "catalogue", column_of(one.name), shown)
        else:
            attribute = (_from_npy if path.suffix == ".npy" else _from_file)(database, one, path)
        if one.required or one.file is not None or attribute.known.any():
            _check(one, attribute, source=shown)
            found[one.name] = attribute
    return found


def attributes_of_run(given: Mapping[str, Any], catalog: Catalog, path: Path) -> Mapping[str, Attribute]:
    """Read the attributes that are parts of the model of a run, in the order of its tracks, from a `tracks.json`.

    How many tracks share a value is not asked: the model knows the values that it was trained with.

    Args:
        given: config of the run.
        catalog: the tracks of the run, and new ones, in the order of their rows.
        path: the file, which has all of them; `track` is the id of a line, without it the one derived from title and
            artist. Files of attributes are in the same folder.

    Raises:
        InputError: the file of the catalogue lacks one, or it is damaged.
    """
    if not (names := [str(name) for name in given["model"].get("parts") or () if name not in RESERVED]):
        return {}
    if "attributes" not in given["datamodule"]:
        raise InputError(
            f"add= cannot know where {path} has {', '.join(names)}, because the run was trained from shards; train a "
            "run from the source of the shards"
        )
    of_run = attribute_settings({name: given["datamodule"]["attributes"][name] for name in names})
    ids = catalog.track_ids
    lines = FileFormat(group="catalogue", format="jsonl")
    with open_database() as (database, _):
        rows = open_rows(database, find_files(str(path), lines, patterns=(), unpacked=path), lines)
        derived = derived_in_sql(rows.shown("title"), rows.shown("artist"))
        columns = f"COALESCE({rows.shown('track')}, {derived}) AS track_id {attribute_columns(of_run, rows)}"
        database.register("ids", {"row": np.arange(len(ids)), "track": np.array([*map(str, ids)], object)})
        rows.run(f"""CREATE TABLE catalogue AS
            SELECT ids.row, CAST(NULL AS BIGINT) AS track, c.*
            FROM ids JOIN (SELECT {columns} FROM ({rows.relation()})) c ON c.track_id = CAST(ids.track AS VARCHAR)""")
        of_run = [replace(one, most_shared=1.0) for one in of_run]
        return read_attributes(database, of_run, path.parent, source=str(path))


def derived_in_sql(title: str, artist: str) -> str:
    """SQL of `catalog.derived_id`."""
    return f"left(sha256({title} || chr(31) || COALESCE({artist}, '')), 32)"


def _from_file(database: Database, one: AttributeSettings, path: Path) -> Attribute:
    if path.suffix == ".zip":
        raise InputError(f"{path} is an archive; unpack it and give {one.group}.file=<the file>")
    files = find_files(str(path), one, patterns=(), unpacked=path)
    rows = open_rows(database, files, one)
    column = "line" if files.format == "lines" else rows.found(one.path, key=f"{one.group}.column")
    are_lists = one.kind == "vector" and rows.type_of(column).endswith("]")  # of Parquet: faster than by texts
    text = f"TRY_CAST({rows.value(column)} AS FLOAT[])" if are_lists else rows.whole_text(column)
    track = "NULL" if one.track is None else rows.whole_text(rows.found(one.track, key=f"{one.group}.track"))
    rows.run(f"""CREATE OR REPLACE TABLE attribute AS
        SELECT row_number() OVER () - 1 AS place, CAST({track} AS VARCHAR) AS track, {text} AS text
        FROM ({rows.relation()})""")
    rows.refuse_rejects(str(path))
    _join(database, one, path, has_ids=one.track is not None)
    return _from_texts(database, one, "joined", "text", str(path), are_lists=are_lists)


def _join(database: Database, one: AttributeSettings, path: Path, *, has_ids: bool) -> None:
    """Create the table `joined`: all columns of the table `attribute` (`place`, `track`, …) for each row of a track.

    Raises:
        InputError: no id is one of the catalogue, an id occurs twice, or without ids the numbers of entries differ.
    """
    num_entries, num_tracks = (count(database, f"SELECT count(*) FROM {table}") for table in ("attribute", "catalogue"))
    if not has_ids and num_entries != num_tracks:
        raise InputError(
            f"{path} has {num_entries:,} entries and the catalogue {num_tracks:,} tracks; without ids entry n is "
            f"that of track n: give {one.group}.track=<column of the ids>, or {one.group}.ids=<file> for .npy"
        )
    is_same = "a.track = COALESCE(c.track_id, CAST(c.track AS VARCHAR))" if has_ids else "a.place = c.row"
    database.execute(
        f"CREATE OR REPLACE TABLE joined AS SELECT c.row, a.* FROM catalogue c LEFT JOIN attribute a ON {is_same}"
    )
    for (first,) in database.execute(
        "SELECT track FROM attribute WHERE NOT EXISTS (FROM joined WHERE place IS NOT NULL) ORDER BY place LIMIT 1"
    ).fetchall():
        raise InputError(
            f"{path}: none of its {num_entries:,} ids of tracks, such as {first}, is in the catalogue; check "
            f"{one.group}.{'ids' if path.suffix == '.npy' else 'track'}"
        )
    if not num_entries:
        raise InputError(f"{path} has no entry; check {one.group}.file, or leave the attribute out")
    twice = "SELECT track FROM joined GROUP BY row, track HAVING count(*) > 1 ORDER BY row LIMIT 1"
    for (track,) in database.execute(twice).fetchall():
        raise InputError(f"{path}: track {track} occurs twice; every id must be unique")


def _from_texts(
    database: Database, one: AttributeSettings, table: str, column: str, shown: str, *, are_lists: bool = False
) -> Attribute:
    """An attribute from the texts, or the lists of numbers, of the tracks, in the order of the column `row`."""
    nothing = ", ".join(map(quoted_text, ["", *one.unknown]))
    text = column if are_lists else f"CASE WHEN trim({column}) NOT IN ({nothing}) THEN trim({column}) END"
    split = f"[{text}]" if one.separator is None else f"string_split({text}, {quoted_text(one.separator)})"
    several = f"""CASE WHEN {text} LIKE '[%' AND json_valid({text}) THEN json_extract_string({text}, '$[*]')
                       ELSE {split} END"""
    value, is_wrong, rule, remedy = {
        "number": (
            f"TRY_CAST({text} AS DOUBLE)",
            "NOT COALESCE(isfinite(TRY_CAST(text AS FLOAT)), FALSE)",
            "a finite number",
            f"correct it, leave it empty, or add it to {one.group}.unknown",
        ),
        "vector": (
            column if are_lists else f"TRY_CAST({text} AS FLOAT[])",
            "COALESCE(list_count(value), 0) < greatest(len(value), 1) OR value IS NULL",
            "a list of numbers",
            "correct it",
        ),
        "value": (
            _names(f"[{text}]", nothing),
            "text LIKE '[\"%' AND json_valid(text)",
            "one value",
            f"give {one.group}.kind=values",
        ),
        "values": (_names(several, nothing), "FALSE", "", ""),
    }[one.kind]
    database.execute(f"CREATE OR REPLACE TABLE texts AS SELECT row, {text} AS text, {value} AS value FROM {table}")
    wrong = f"SELECT text::VARCHAR FROM texts WHERE text IS NOT NULL AND ({is_wrong}) ORDER BY row LIMIT 1"
    for (written,) in database.execute(wrong).fetchall():
        raise InputError(f"{shown}: the {one.name} of a track must be {rule}, got {written[:60]!r}; {remedy}")
    if one.kind == "vector":
        return _vectors(database, one, shown)
    values = [value for (value,) in database.execute("SELECT value FROM texts ORDER BY row").fetchall()]
    return Vectors.from_numbers(values) if one.kind == "number" else Values.from_lists(values)


def _names(split: str, nothing: str) -> str:
    """SQL of the values of a list of texts."""
    trimmed = f"list_transform({split}, lambda value: trim(value))"
    return f"list_filter({trimmed}, lambda value: value IS NOT NULL AND value NOT IN ({nothing}))"


def _vectors(database: Database, one: AttributeSettings, shown: str) -> Vectors:
    num_tracks, known = count(database, "SELECT count(*) FROM texts"), "FROM texts WHERE text IS NOT NULL ORDER BY row"
    rows = database.execute(f"SELECT row, len(value) AS width {known}").fetchnumpy()
    widths = np.asarray(rows["width"])
    width = int(widths[0]) if len(widths) else 0
    if (others := np.flatnonzero(widths != width)).size:
        raise InputError(
            f"{shown}: the {one.name} of track {rows['row'][others[0]] + 1} has {widths[others[0]]} numbers and that "
            f"of others {width}; all vectors must have the same width"
        )
    chunks = database.execute(f"SELECT value {known}").to_arrow_table()["value"].chunks
    data = np.concatenate([np.empty(0, np.float32), *(chunk.flatten().to_numpy() for chunk in chunks)])
    places = np.full(num_tracks, -1)
    places[rows["row"]] = np.arange(len(widths))
    return Vectors(data=data.reshape(len(widths), width), places=places, is_scaled=False)


def _from_npy(database: Database, one: AttributeSettings, path: Path) -> Vectors:
    key = one.group
    try:
        data: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}; check {key}.file") from None
    except (ValueError, EOFError):
        raise InputError(
            f"cannot read {path}: it is no whole .npy file of numbers; write it with numpy.save, or check {key}.file"
        ) from None
    if data.ndim == 1 and one.kind == "number":
        data = data[:, None]
    if data.ndim != 2 or data.dtype not in (np.float16, np.float32):
        raise InputError(
            f"{path} has the shape {data.shape} and the type {data.dtype}; it must have one row for each track, of "
            f"float16 or float32; convert it, or check {key}.file"
        )
    ids: list[str | None] = [None] * len(data)
    if one.ids is not None:
        try:
            text = (path.parent / one.ids).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read {path.parent / one.ids}: {error}; check {key}.ids") from None
        ids = [*text.removesuffix("\n").split("\n")] if text else []
        if len(ids) != len(data):
            raise InputError(f"{path} has {len(data):,} rows and {one.ids} {len(ids):,} ids; give one for each row")
    database.register("entries", {"place": np.arange(len(ids)), "track": np.array(ids, object)})
    database.execute("CREATE OR REPLACE TABLE attribute AS SELECT place, CAST(track AS VARCHAR) AS track FROM entries")
    database.unregister("entries")
    _join(database, one, path, has_ids=one.ids is not None)
    joined = database.execute("SELECT COALESCE(place, -1) AS place FROM joined ORDER BY row").fetchnumpy()
    return Vectors(data=data, places=np.asarray(joined["place"], np.int64), is_scaled=one.kind == "number")


def _check(one: AttributeSettings, attribute: Attribute, *, source: str) -> None:
    """Refuse an attribute that no track has, or whose numbers are not finite.

    Raises:
        InputError: no track has it, too many tracks share a value, or a number is NaN or infinite.
    """
    if not attribute.known.any() or (isinstance(attribute, Vectors) and not attribute.data.shape[1]):
        raise InputError(f"{source} gives no track the attribute {one.name}; check {one.group}, or leave it out")
    if isinstance(attribute, Values):
        tracks = attribute.tracks_of_values()
        top = int(tracks.argmax())
        if (share := tracks[top] / len(attribute.known)) > one.most_shared:
            raise InputError(
                f"{source}: {share:.0%} of the tracks have the same {one.name}, {str(attribute.names[top])!r}, above "
                f"{one.group}.most_shared={one.most_shared:g}; if it means nothing, add it to {one.group}.unknown, "
                f"otherwise raise {one.group}.most_shared"
            )
        return
    for start in range(0, len(attribute.data), _BLOCK):
        is_finite = np.isfinite(attribute.data[start : start + _BLOCK]).all(axis=1)
        if not is_finite.all():
            raise InputError(
                f"{source}: entry {start + int((~is_finite).argmax()) + 1} of {one.name} has a number that is NaN or "
                "infinite; correct it, or leave out the entries of tracks whose value is unknown"
            )
