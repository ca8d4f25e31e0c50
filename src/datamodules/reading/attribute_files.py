"""Reads the attributes of tracks: from columns of the catalogue or of the events, or from files of their own.

N tracks, R rows of a file, W width of a vector. A *text* of an attribute is what a cell has: a value, several with a
separator or as a JSON array, a number, or a JSON array of numbers. NULL is unknown.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from jaxtyping import Int64

from segue.attributes import Attribute, Values, Vectors
from segue.datamodules.reading.attribute_settings import AttributeSettings
from segue.datamodules.reading.files import Files, find_files
from segue.datamodules.reading.queries import quoted_name, quoted_text, run
from segue.datamodules.reading.raw_rows import RawRows, open_rows
from segue.datamodules.reading.row_sql import Cells
from segue.errors import InputError
from segue.runs.catalog_files import read_lines

_BLOCK = 2**14
"""Vectors that are looked at together, of a memory-mapped file."""


def attribute_columns(
    attributes: Mapping[str, AttributeSettings], rows: RawRows, cells: Cells, *, derived: Mapping[str, str]
) -> str:
    """SQL of the columns that have the texts of those attributes that have no file of their own.

    Args:
        attributes: the settings by name.
        rows: of the catalogue or of the events.
        cells: their cells.
        derived: columns that SQL expressions define.

    Returns:
        The end of a SELECT list, with a comma before each column; see `column_of`. A column that is not required and
            missing has no texts.

    Raises:
        InputError: the rows lack a column that is required.
    """
    found = ""
    for name, settings in attributes.items():
        if settings.file is None:
            path = settings.column if settings.column in derived else rows.find(settings.column)
            if path is None and settings.required:
                raise rows.missing(settings.column, key=f"datamodule.attributes.{name}.column")
            text = "CAST(NULL AS VARCHAR)" if path is None else cells.whole_text(path)
            found += f", {text} AS {column_of(name)}"
    return found


def column_of(name: str) -> str:
    """SQL of the column of the table `catalogue` that has the texts of an attribute.

    Args:
        name: of the attribute.
    """
    return quoted_name(f"attribute {name}")


def read_attributes(
    database: duckdb.DuckDBPyConnection, attributes: Mapping[str, AttributeSettings], folder: Path, *, source: str
) -> dict[str, Attribute]:
    """Read all attributes of the tracks of the table `catalogue`.

    Args:
        database: has the table `catalogue`, with the texts of attributes that have no file of their own.
        attributes: the settings by name.
        folder: the folder of the source, or one of its files.
        source: name of the file of the catalogue, for messages.

    Returns:
        The attributes by name, without those that are not required and whose file, or all of whose texts, are missing.

    Raises:
        InputError: a file is missing or damaged, no id or not every entry has a track, or a value is not allowed.
    """
    found: dict[str, Attribute] = {}
    folder = folder if folder.is_dir() else folder.parent
    for name, settings in attributes.items():
        if settings.file is None:
            shown = source
            found[name] = _from_texts(database, name, settings, "catalogue", column_of(name), shown)
            if not settings.required and not found[name].known.any():
                del found[name]
                continue
        else:
            path = folder / settings.file
            if not settings.required and not path.exists():
                continue
            shown = str(path)
            if path.suffix == ".npy":
                found[name] = _from_npy(database, name, settings, path)
            else:
                found[name] = _from_file(database, name, settings, path)
        _check(name, found[name], most_shared=settings.most_shared, source=shown)
    return found


def attributes_of_catalogue(
    path: Path, ids: Sequence[int | str], attributes: Mapping[str, AttributeSettings]
) -> dict[str, Attribute]:
    """Read attributes of the tracks of a `tracks.json` in another order than that of its lines.

    How many tracks share a value is not asked: the model knows the values that it was trained with.

    Args:
        path: the file; `track` is the id of a line. Files of attributes are in the same folder.
        ids: the ids of the tracks, in the order of their rows; the file has all of them.
        attributes: the settings by name.

    Returns:
        The attributes by name.

    Raises:
        InputError: see `read_attributes`.
    """
    records = {record.get("track"): record for _, record in read_lines(path)}
    table: dict[str, np.ndarray] = {"row": np.arange(len(ids)), "track": np.array([str(one) for one in ids], object)}
    for name, settings in attributes.items():
        if settings.file is None:
            texts = [_text_of(_at(records[one], settings.column)) for one in ids]
            table[f"attribute {name}"] = np.array(texts, object)
    with duckdb.connect() as database:
        database.register("columns", table)
        types = ", ".join(f"CAST({quoted_name(name)} AS VARCHAR) AS {quoted_name(name)}" for name in list(table)[1:])
        database.execute(f"CREATE TABLE catalogue AS SELECT row, {types} FROM columns")
        unbounded = {name: replace(settings, most_shared=1) for name, settings in attributes.items()}
        return read_attributes(database, unbounded, path, source=str(path))


def _at(record: Mapping[str, Any], path: str) -> object:
    """The value at a path, as `RawRows.find` finds it; None where there is none."""
    if path in record:
        return record[path]
    head, dot, rest = path.partition(".")
    if dot and isinstance(inner := record.get(head), Mapping):
        return _at(inner, rest)
    return next((value for name, value in record.items() if name.lower() == path.lower()), None)


def _text_of(value: object) -> str | None:
    """A JSON value as the cell of an attribute."""
    return value if isinstance(value, str | None) else json.dumps(value)


def _from_file(database: duckdb.DuckDBPyConnection, name: str, settings: AttributeSettings, path: Path) -> Attribute:
    """An attribute from a file of text or Parquet."""
    key = f"datamodule.attributes.{name}"
    if path.suffix == ".zip":
        raise InputError(f"{path} is an archive; unpack it and give {key}.file=<the file>")
    files = find_files(str(path), settings.files, unpacked=path, key=key)
    rows = open_rows(database, files, settings.files, key=key)
    cells = Cells(rows, {})
    paths: dict[str, str] = {}
    column = "line" if files.format == "lines" else settings.column
    for role, wanted in (("column", column), ("track", settings.track)):
        if wanted is not None:
            found = rows.find(wanted)
            if found is None:
                raise rows.missing(wanted, key=f"{key}.{role}")
            paths[role] = found
    if settings.kind == "vector" and files.format == "parquet":
        return _from_parquet(database, name, settings, files, paths)
    track = cells.whole_text(paths["track"]) if "track" in paths else "CAST(NULL AS VARCHAR)"
    query = f"""CREATE OR REPLACE TABLE attribute AS
        SELECT row_number() OVER () - 1 AS place, {track} AS track, {cells.whole_text(paths["column"])} AS text
        FROM ({rows.relation()})"""
    run(database, query, rows.parameters, files=files)
    if rows.rejects is not None:
        bad = f"SELECT line, error_message FROM {rows.rejects} ORDER BY 1 LIMIT 1"
        for line, message in database.execute(bad).fetchall():
            raise InputError(f"cannot read {path}: line {line}: {message}; correct it")
    row_of = _join(database, name, path, has_ids="track" in paths)
    database.register("row_of_entry", {"place": np.arange(len(row_of)), "row": row_of})
    database.execute("""CREATE OR REPLACE TABLE joined AS
        SELECT c.row, a.text FROM catalogue c
        LEFT JOIN row_of_entry r ON r.row = c.row LEFT JOIN attribute a ON a.place = r.place""")
    database.unregister("row_of_entry")
    return _from_texts(database, name, settings, "joined", "text", str(path))


def _join(database: duckdb.DuckDBPyConnection, name: str, path: Path, *, has_ids: bool) -> Int64[np.ndarray, "R"]:
    """Row of the track of each entry of the table `attribute` (place, track as text); -1 where there is none.

    Raises:
        InputError: no id is one of the catalogue, an id occurs twice, or without ids the numbers of entries differ.
    """
    key = f"datamodule.attributes.{name}"
    [(num_entries, num_tracks)] = database.execute(
        "SELECT (SELECT count(*) FROM attribute), (SELECT count(*) FROM catalogue)"
    ).fetchall()
    if not has_ids:
        if num_entries != num_tracks:
            raise InputError(
                f"{path} has {num_entries:,} entries and the catalogue {num_tracks:,} tracks; without ids entry n is "
                f"that of track n: give {key}.track=<column of the ids>, or {key}.ids=<file> for .npy"
            )
        return np.arange(num_entries)
    joined = database.execute("""
        SELECT a.place, COALESCE(c.row, -1) AS row FROM attribute a
        LEFT JOIN catalogue c ON CAST(c.track AS VARCHAR) = a.track ORDER BY a.place""").fetchnumpy()
    rows: Int64[np.ndarray, R] = np.asarray(joined["row"], np.int64)
    matched = rows[rows >= 0]
    if not len(matched):
        first = [track for (track,) in database.execute("SELECT track FROM attribute LIMIT 1").fetchall()]
        if not first:
            raise InputError(f"{path} has no entry; check {key}.file, or leave the attribute out")
        setting = "ids" if path.suffix == ".npy" else "track"
        raise InputError(
            f"{path}: none of its {num_entries:,} ids of tracks, such as {first[0]}, is in the catalogue; check "
            f"{key}.{setting}"
        )
    if len(np.unique(matched)) < len(matched):
        values, counts = np.unique(matched, return_counts=True)
        place = int((rows == values[counts > 1][0]).argmax())
        [(twice,)] = database.execute("SELECT track FROM attribute WHERE place = $place", {"place": place}).fetchall()
        raise InputError(f"{path}: track {twice} occurs twice; every id must be unique")
    return rows


def _from_texts(
    database: duckdb.DuckDBPyConnection, name: str, settings: AttributeSettings, table: str, column: str, shown: str
) -> Attribute:
    """An attribute from the texts of the tracks, in the order of the column `row` of a table."""
    nothing = ", ".join(map(quoted_text, ["", *settings.unknown]))
    text = f"CASE WHEN trim({column}) NOT IN ({nothing}) THEN trim({column}) END"
    if settings.kind == "number":
        query = f"SELECT {text}, TRY_CAST({text} AS DOUBLE) FROM {table} ORDER BY row"
        numbers: list[float | None] = []
        for written, number in database.execute(query).fetchall():
            if written is not None and (number is None or not np.isfinite(np.float32(number))):
                raise InputError(
                    f"{shown}: the {name} of a track must be a finite number, got {written[:60]!r}; correct it, leave "
                    f"it empty, or add it to datamodule.attributes.{name}.unknown"
                )
            numbers.append(number)
        return Vectors.from_numbers(numbers)
    if settings.kind == "vector":
        query = f"SELECT {text}, TRY_CAST({text} AS FLOAT[]) FROM {table} ORDER BY row"
        return _vectors(database.execute(query).fetchall(), name, shown)
    split = f"[{text}]"
    if settings.kind == "value":
        several = f"SELECT {text} FROM {table} WHERE {text} LIKE '[\"%' AND json_valid({text}) ORDER BY row LIMIT 1"
        for (written,) in database.execute(several).fetchall():
            raise InputError(
                f"{shown}: the {name} of a track must be one value, got {written[:60]!r}; give "
                f"datamodule.attributes.{name}.kind=values"
            )
    if settings.kind == "values":
        if settings.separator is not None:
            split = f"string_split({text}, {quoted_text(settings.separator)})"
        split = f"""CASE WHEN {text} LIKE '[%' AND json_valid({text}) THEN json_extract_string({text}, '$[*]')
                         ELSE {split} END"""
    query = f"""SELECT list_filter(list_transform({split}, lambda value: trim(value)),
                                   lambda value: value IS NOT NULL AND value NOT IN ({nothing}))
                FROM {table} ORDER BY row"""
    return Values.from_lists([values for (values,) in database.execute(query).fetchall()])


def _vectors(cells: list[tuple[str | None, list[float | None] | None]], name: str, shown: str) -> Vectors:
    """Vectors from the text and the numbers of each track."""
    width, known, places = 0, list[list[float | None]](), np.full(len(cells), -1)
    for row, (text, numbers) in enumerate(cells):
        if text is None:
            continue
        if not numbers or any(number is None for number in numbers):
            raise InputError(f"{shown}: the {name} of a track must be a list of numbers, got {text[:60]!r}; correct it")
        width = width or len(numbers)
        if len(numbers) != width:
            raise InputError(
                f"{shown}: the {name} of track {row + 1} has {len(numbers)} numbers and that of others {width}; all "
                "vectors must have the same width"
            )
        places[row] = len(known)
        known.append(numbers)
    return Vectors(data=np.array(known, np.float32).reshape(len(known), width), places=places, is_scaled=False)


def _from_parquet(
    database: duckdb.DuckDBPyConnection,
    name: str,
    settings: AttributeSettings,
    files: Files,
    paths: Mapping[str, str],
) -> Vectors:
    """Vectors from a column of lists, with the 16 or 32 bits that they have there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(files.shown[0])
    try:
        table = pq.read_table(path, columns=list(dict.fromkeys(paths.values())))
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"cannot read {path}: {' '.join(str(error).split())[:300]}") from None
    column = table[paths["column"]].combine_chunks()
    is_list = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    is_list |= pa.types.is_fixed_size_list(column.type)
    if not is_list or not pa.types.is_floating(column.type.value_type):
        raise InputError(
            f"{path}: the column {paths['column']} has the type {column.type}; a vector is a list of floating-point "
            "numbers"
        )
    is_known = ~np.asarray(column.is_null())
    widths = np.asarray(column.drop_null().value_lengths())
    if len(np.unique(widths)) > 1:
        raise _differing(path, name, widths)
    flat = column.drop_null().flatten()
    if flat.null_count:
        raise InputError(f"{path}: a vector of {name} has an empty number; correct it")
    numbers = flat.to_numpy(zero_copy_only=False)
    data = numbers.astype(np.float16 if numbers.dtype == np.float16 else np.float32, copy=False)
    data = data.reshape(len(widths), int(widths[0]) if len(widths) else 0)
    if "track" in paths:
        ids = [None if value is None else str(value) for value in table[paths["track"]].to_pylist()]
    else:
        ids = [None] * len(column)
    rows = _rows_of_ids(database, name, path, ids, has_ids="track" in paths)
    places = np.where(is_known, np.cumsum(is_known) - 1, -1)
    return Vectors(data=data, places=_places(database, rows, places), is_scaled=settings.kind == "number")


def _differing(path: Path, name: str, widths: np.ndarray) -> InputError:
    other = int((widths != widths[0]).argmax())
    return InputError(
        f"{path}: the {name} of entry {other + 1} has {widths[other]} numbers and that of entry 1 has {widths[0]}; all "
        "vectors must have the same width"
    )


def _from_npy(database: duckdb.DuckDBPyConnection, name: str, settings: AttributeSettings, path: Path) -> Vectors:
    """Vectors from a memory-mapped file of numpy."""
    key = f"datamodule.attributes.{name}"
    data = _open_npy(path, f"{key}.file")
    if data.ndim == 1 and settings.kind == "number":
        data = data[:, None]
    if data.ndim != 2 or data.dtype not in (np.float16, np.float32):
        raise InputError(
            f"{path} has the shape {data.shape} and the type {data.dtype}; it must have one row for each track, of "
            f"float16 or float32; convert it, or check {key}.file"
        )
    ids: list[str | None] = [None] * len(data)
    if settings.ids is not None:
        ids = _ids_of_npy(path.parent / settings.ids, key)
        if len(ids) != len(data):
            raise InputError(
                f"{path} has {len(data):,} rows and {settings.ids} {len(ids):,} ids; give one for each row"
            )
    rows = _rows_of_ids(database, name, path, ids, has_ids=settings.ids is not None)
    places = _places(database, rows, np.arange(len(data)))
    return Vectors(data=data, places=places, is_scaled=settings.kind == "number")


def _open_npy(path: Path, key: str) -> np.ndarray:
    try:
        found: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"cannot read {path}: there is no such file; check {key}") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}; check {key}") from None
    except (ValueError, EOFError):
        raise InputError(
            f"cannot read {path}: it is no whole .npy file of numbers or texts; write it with numpy.save, or check "
            f"{key}"
        ) from None
    return found


def _ids_of_npy(path: Path, key: str) -> list[str | None]:
    if path.suffix == ".npy":
        found = _open_npy(path, f"{key}.ids")
        if found.ndim != 1 or found.dtype.kind not in "iuU":
            raise InputError(
                f"{path} has the shape {found.shape} and the type {found.dtype}; it must have one id for each row, a "
                f"whole number or a text; correct it, or check {key}.ids"
            )
        return [str(value) for value in found.tolist()]
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}; check {key}.ids") from None
    return [*text.removesuffix("\n").split("\n")] if text else []


def _rows_of_ids(
    database: duckdb.DuckDBPyConnection, name: str, path: Path, ids: list[str | None], *, has_ids: bool
) -> Int64[np.ndarray, "R"]:
    """Row of the track of each id; see `_join`."""
    database.register("entries", {"place": np.arange(len(ids)), "track": np.array(ids, object)})
    database.execute("CREATE OR REPLACE TABLE attribute AS SELECT place, CAST(track AS VARCHAR) AS track FROM entries")
    database.unregister("entries")
    return _join(database, name, path, has_ids=has_ids)


def _places(
    database: duckdb.DuckDBPyConnection, rows: Int64[np.ndarray, "R"], places: Int64[np.ndarray, "R"]
) -> Int64[np.ndarray, "N"]:
    """Place of the vector of each track, from the row of the track of each entry and the place of its vector."""
    [(num_tracks,)] = database.execute("SELECT count(*) FROM catalogue").fetchall()
    of_track = np.full(num_tracks, -1)
    of_track[rows[rows >= 0]] = places[rows >= 0]
    return of_track


def _check(name: str, attribute: Attribute, *, most_shared: int | float, source: str) -> None:
    """Refuse an attribute that no track has, or whose numbers are not finite.

    Raises:
        InputError: no track has it, too many tracks share a value, or a number is NaN or infinite.
    """
    key = f"datamodule.attributes.{name}"
    if not attribute.known.any() or (isinstance(attribute, Vectors) and not attribute.data.shape[1]):
        raise InputError(f"{source} gives no track the attribute {name}; check {key}, or leave it out")
    if isinstance(attribute, Values):
        tracks = attribute.tracks_of_values()
        top = int(tracks.argmax())
        share = tracks[top] / len(attribute.known)
        if share > most_shared:
            raise InputError(
                f"{source}: {share:.0%} of the tracks have the same {name}, {str(attribute.names[top])!r}, above "
                f"{key}.most_shared={most_shared:g}; if it means nothing, add it to {key}.unknown, otherwise raise "
                f"{key}.most_shared"
            )
        return
    for start in range(0, len(attribute.data), _BLOCK):
        is_finite = np.isfinite(attribute.data[start : start + _BLOCK]).all(axis=1)
        if not is_finite.all():
            place = start + int((~is_finite).argmax()) + 1
            raise InputError(
                f"{source}: entry {place} of {name} has a number that is NaN or infinite; correct it, or leave out the "
                "entries of tracks whose value is unknown"
            )
