"""The rows of files as a relation of DuckDB, whatever the format: which columns they have, and the SQL of a cell.

A *path* names a column, or with dots a value inside one: `track_metadata.track_name`.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

import duckdb

from src.datamodules.files import Files, FileSettings
from src.errors import InputError

_MOST_REJECTED = 1_000_000
"""Lines of one file that DuckDB may reject; each is kept in memory. With more, the format is wrong."""

_JSON_SAMPLE = 1_000
"""Rows that are looked at to learn the keys of JSON objects."""


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How a text file is written. A line as a whole is a column that is separated by a character nobody uses.

    Args:
        delimiter: one character.
        quote: one character, or empty for none.
        skip: lines before the first row, the header included.
        names: names of the columns.
    """

    delimiter: str
    quote: str
    skip: int
    names: list[str]


@dataclass(kw_only=True)
class RawRows:
    """The rows of some files. Cells are asked for first, then `relation` is the SQL of rows that have them.

    Args:
        files: the files.
        types: the type of each column in DuckDB; for JSON, `JSON` for each key that the first rows have.
        dialect: of text files, otherwise None.
        scan: SQL of the function that reads the files, with the parameter `$files`.
        sample: the same without a record of rejected lines, for the first rows.
        rejects: name of the table of lines that DuckDB cannot read; None if the format has none.
        absent: optional columns that the files do not have.
        encoding: of text.
    """

    files: Files
    types: dict[str, str]
    dialect: Dialect | None
    scan: str
    sample: str
    rejects: str | None
    absent: list[str]
    encoding: str = "utf-8"
    _schema: dict[str, object] = field(default_factory=dict)
    _texts: dict[str, object] = field(default_factory=dict)

    @property
    def is_json(self) -> bool:
        """Whether a row is a JSON object."""
        return self.files.format in ("json", "jsonl")

    @property
    def parameters(self) -> dict[str, object]:
        """Parameters of a query over `relation`."""
        return {"files": self.files.paths}

    @property
    def plain_paths(self) -> list[str]:
        """The paths without the escapes of a glob."""
        return [_plain(path) for path in self.files.paths]

    @property
    def columns(self) -> list[str]:
        """Names of the columns, in the order of the files."""
        return list(self.types)

    def find(self, path: str) -> str | None:
        """The path as it is written in the files: names are compared exactly, then without case; None if missing."""
        if path in self.types:
            return path
        head, dot, rest = path.partition(".")
        if dot and head in self.types:
            return path
        by_lower = {name.lower(): name for name in self.columns}
        return by_lower.get(path.lower())

    def missing(self, path: str, *, key: str) -> InputError:
        """The error for a column that no file has, with the nearest name."""
        by_lower = {name.lower(): name for name in self.columns}
        near = get_close_matches(path.lower(), by_lower, 1, cutoff=0.5)
        hint = f"did you mean {by_lower[near[0]]}?" if near else "name one of them, or null if there is none"
        listed = ", ".join(self.columns[:30]) + (", …" if len(self.columns) > 30 else "")
        return InputError(f"{key}={path}: {self.files.shown[0]} has no such column, it has {listed}; {hint}")

    def cell(self, path: str, type_: str = "VARCHAR") -> tuple[str, str]:
        """SQL of the value at a path, and its type.

        Args:
            path: as `find` returns it.
            type_: type that a JSON value is read as, unless an earlier call chose one; other formats have their own.
        """
        if self.is_json:
            found = self._require(path.split("."), type_)
            return "fields." + ".".join(_quoted(part) for part in path.split(".")), found
        if path in self.types:
            return _quoted(path), self.types[path]
        inner = ".".join(_quoted(part) for part in path.split("."))
        return inner, _inner_type(self.types[path.split(".")[0]], path.split(".")[1:])

    def _require(self, parts: list[str], type_: str) -> str:
        """Add a path to the schema of `fields`; the type that it has there, which an earlier call may have chosen."""
        schema = self._schema
        for part in parts[:-1]:
            inner = schema.setdefault(part, {})
            if not isinstance(inner, dict):
                raise InputError(f"{'.'.join(parts)}: {part} is a value and not an object; name another column")
            schema = inner
        return str(schema.setdefault(parts[-1], type_))

    def use_in_sql(self, texts: Iterable[str]) -> None:
        """Make the keys of JSON objects that SQL expressions name into columns of `relation`, as text."""
        words = {word for text in texts for word in re.findall(r"\w+", text)}
        self._texts = {name: "VARCHAR" for name in self.columns if self.is_json and name in words}

    def relation(self, *, limit: int | None = None) -> str:
        """SQL SELECT of the rows: `file` (place of the file), the columns; for JSON also `line` and `fields`.

        Args:
            limit: number of rows that are read; None for all.
        """
        scan = self.scan if limit is None else f"(FROM {self.sample} LIMIT {limit})"
        index = "CAST(file_index AS INTEGER) AS file" if limit is None else "0 AS file"
        if self.files.format == "jsonl":
            read = f"SELECT {index}, line FROM {scan}"
        elif self.files.format == "json":
            read = f"SELECT {index}, json AS line FROM {scan}"
        else:
            empty = "".join(f", CAST(NULL AS VARCHAR) AS {_quoted(name)}" for name in self.absent)
            return f"SELECT {index}, * {empty} FROM {scan}"
        schema, texts = (json.dumps(shape or {"": "VARCHAR"}) for shape in (self._schema, self._texts))
        parsed = f"SELECT *, TRY(json_transform(line, {_text(schema)})) AS fields"
        if not self._texts:
            return f"{parsed} FROM ({read})"
        columns = "".join(f", texts.{_quoted(name)} AS {_quoted(name)}" for name in self._texts)
        return (
            f"SELECT file, line, fields{columns} FROM "
            f"({parsed}, TRY(json_transform(line, {_text(texts)})) AS texts FROM ({read}))"
        )


def open_rows(
    database: duckdb.DuckDBPyConnection,
    files: Files,
    settings: FileSettings,
    *,
    key: str,
    optional: Sequence[str] = (),
) -> RawRows:
    """Find out which columns files have, and how DuckDB reads them.

    Args:
        database: a connection.
        files: the files, of one format.
        settings: how they are written, where this is not `auto`.
        key: key of the settings on the command line.
        optional: columns that the files may lack.

    Raises:
        InputError: the files cannot be read, or have different columns.
    """
    encoding = "utf-8" if settings.encoding == "auto" else settings.encoding
    rejects: str | None = f"rejects_{re.sub('[^a-z]', '_', key)}"
    database.execute(f"DROP TABLE IF EXISTS {rejects}; DROP TABLE IF EXISTS scans_{rejects}")
    dialect = None
    if files.format == "parquet":
        scan = sample = "read_parquet($files)"
        types, rejects = _described(database, files, scan), None
    elif files.format == "json":
        most = max([2**24, *(2 * Path(_plain(path)).stat().st_size for path in files.paths if files.is_local)])
        scan = sample = f"read_json_objects($files, format = 'auto', maximum_object_size = {min(most, 2**31 - 1)})"
        types, rejects = _json_keys(database, files, f"SELECT json AS line FROM {scan}"), None
    else:
        dialect = (
            _dialect(database, files, settings, key=key, encoding=encoding)
            if files.format == "csv"
            else Dialect(delimiter="\x01", quote="", skip=settings.skip, names=["line"])
        )
        scan, sample = (_csv_scan(dialect, encoding, table) for table in (rejects, None))
        is_json = files.format == "jsonl"
        types = _json_keys(database, files, f"FROM {sample}") if is_json else dict.fromkeys(dialect.names, "VARCHAR")
    absent = [name for name in optional if name not in types]
    types |= dict.fromkeys(absent, "JSON" if files.format in ("json", "jsonl") else "VARCHAR")
    return RawRows(
        files=files, types=types, dialect=dialect, scan=scan, sample=sample, rejects=rejects, absent=absent,
        encoding=encoding,
    )  # fmt: skip


def _csv_scan(dialect: Dialect, encoding: str, rejects: str | None) -> str:
    columns = ", ".join(f"{_text(name)}: 'VARCHAR'" for name in dialect.names)
    keep = (
        f"store_rejects = true, rejects_table = '{rejects}', rejects_scan = 'scans_{rejects}', "
        f"rejects_limit = {_MOST_REJECTED}"
        if rejects
        else "ignore_errors = true"
    )
    is_strict = str(bool(dialect.quote)).lower()
    return (
        f"read_csv($files, columns = {{{columns}}}, delim = {_text(dialect.delimiter)}, "
        f"quote = {_text(dialect.quote)}, escape = {_text(dialect.quote)}, header = false, skip = {dialect.skip}, auto_detect = false, strict_mode = {is_strict}, "
        f"encoding = '{encoding}', {keep})"
    )


def _described(database: duckdb.DuckDBPyConnection, files: Files, scan: str) -> dict[str, str]:
    rows = run(database, f"DESCRIBE SELECT * FROM {scan}", {"files": files.paths}, files=files).fetchall()
    return {str(name): str(type_) for name, type_, *_ in rows}


def _json_keys(database: duckdb.DuckDBPyConnection, files: Files, read: str) -> dict[str, str]:
    query = f"""
        SELECT key FROM (SELECT unnest(json_keys(TRY_CAST(line AS JSON))) AS key, rowid AS row
                         FROM (SELECT *, row_number() OVER () AS rowid FROM (FROM ({read}) LIMIT {_JSON_SAMPLE})))
        GROUP BY key ORDER BY min(row), count(*) DESC, key"""
    return {str(key): "JSON" for (key,) in run(database, query, {"files": files.paths}, files=files).fetchall()}


def _dialect(
    database: duckdb.DuckDBPyConnection, files: Files, settings: FileSettings, *, key: str, encoding: str
) -> Dialect:
    """How csv files are written: what the settings say, otherwise what DuckDB finds in the first file."""
    delimiter = settings.delimiter.replace("\\t", "\t")
    quote = settings.quote
    if "auto" in (delimiter, quote):
        given = "".join(
            f", {name} = {_text(value)}" for name, value in (("delim", delimiter), ("quote", quote)) if value != "auto"
        )
        query = f"""SELECT Delimiter, Quote FROM sniff_csv($file, ignore_errors = true, strict_mode = false,
            all_varchar = true, skip = {settings.skip}, encoding = '{encoding}'{given})"""
        try:
            [(found, found_quote)] = database.execute(query, {"file": files.paths[0]}).fetchall()
        except duckdb.Error as error:
            raise InputError(
                f"cannot see how the columns of {files.shown[0]} are separated; give {key}.delimiter= "
                f"({one_line(error)[:150]})"
            ) from None
        delimiter = str(found) if delimiter == "auto" else delimiter
        if quote == "auto":
            quote = '"' if found_quote in ("(empty)", "", "\x00", None) else str(found_quote)
    firsts = [_first_row(database, path, delimiter, quote, settings.skip, encoding) for path in files.paths]
    if settings.names is not None:
        names, has_header = list(map(str, settings.names)), settings.header is True
    else:
        has_header = _is_header(firsts[0]) if settings.header == "auto" else bool(settings.header)
        names = firsts[0] if has_header else [f"column{place}" for place in range(1, len(firsts[0]) + 1)]
    for first, shown in zip(firsts, files.shown, strict=True):
        if has_header and first != firsts[0]:
            raise InputError(
                f"{files.shown[0]} and {shown} have different columns: {_short(firsts[0])} and {_short(first)}; "
                f"choose the files with {key}.pattern=<glob>"
            )
    unique: dict[str, int] = {}
    for name in names:
        unique[name] = unique.get(name, 0) + 1
    if repeated := [name for name, count in unique.items() if count > 1]:
        raise InputError(f"{files.shown[0]} has several columns {repeated[0]!r}; give {key}.names=[…] and {key}.skip=1")
    if settings.names is not None and len(firsts[0]) not in (0, len(names)):
        raise InputError(
            f"{key}.names has {len(names)} names, and {files.shown[0]} has {len(firsts[0])} columns; give one for each"
        )
    return Dialect(delimiter=delimiter, quote=quote, skip=settings.skip + has_header, names=names)


def _first_row(
    database: duckdb.DuckDBPyConnection, path: str, delimiter: str, quote: str, skip: int, encoding: str
) -> list[str]:
    """Cells of the first row that has text."""
    import csv

    lines = Dialect(delimiter="\x01", quote="", skip=skip, names=["line"])
    scan = _csv_scan(lines, encoding, None)
    query = f"SELECT line FROM {scan} WHERE line IS NOT NULL LIMIT 1"
    row = database.execute(query, {"files": [path]}).fetchone()
    if row is None:
        return []
    reader = csv.reader([str(row[0])], delimiter=delimiter, quotechar=quote or None, quoting=0 if quote else 3)
    return [cell.strip() for cell in next(reader)]


def _is_header(cells: list[str]) -> bool:
    """Whether a first row has names: every cell has a text that is not a number, a time or a UUID."""
    value = re.compile(r"[+-]?[\d.,:eE/ -]*\d[\d.,:TZ/ -]*|[0-9a-f]{8}-[0-9a-f-]{27}|true|false", re.IGNORECASE)
    return bool(cells) and all(cell and not value.fullmatch(cell) for cell in cells)


def check_rejects(database: duckdb.DuckDBPyConnection, rows: RawRows) -> None:
    """Refuse files of which so many lines are rejected that not all are known.

    Raises:
        InputError: a file has a million of them.
    """
    if rows.rejects is None:
        return
    query = f"SELECT file_id, count(*), min(error_message) FROM {rows.rejects} GROUP BY ALL ORDER BY 2 DESC LIMIT 1"
    for file, num, message in database.execute(query).fetchall():
        if num >= _MOST_REJECTED:
            name = rows.files.shown[file] if file < len(rows.files.shown) else rows.files.shown[0]
            raise InputError(f"{name}: a million lines cannot be read ({message}); check delimiter, quote and encoding")


def run(
    database: duckdb.DuckDBPyConnection, query: str, parameters: Mapping[str, object], *, files: Files
) -> duckdb.DuckDBPyConnection:
    """Execute a query over files; an error of DuckDB becomes one line.

    Raises:
        InputError: DuckDB cannot read the files.
    """
    try:
        return database.execute(query, dict(parameters))
    except duckdb.Error as error:
        text = one_line(error)
        named = next((shown for path, shown in zip(files.paths, files.shown, strict=True) if _plain(path) in text), "")
        where = named or (files.shown[0] if len(files.shown) == 1 else f"{files.shown[0]} and others")
        remedy = "; correct the file, or give datamodule.files.format" if files.format in ("json", "parquet") else ""
        raise InputError(f"cannot read {where}: {text[:300]}{remedy}") from None


def count(database: duckdb.DuckDBPyConnection, query: str) -> int:
    """The number that a query gives."""
    [(number,)] = database.execute(query).fetchall()
    return int(number)


def are_whole(database: duckdb.DuckDBPyConnection, ids: str) -> bool:
    """Whether all ids that a query gives as texts are whole numbers as one writes them: 7 and not 007 or 7.0."""
    query = f"SELECT COALESCE(bool_and(COALESCE(CAST(TRY_CAST(id AS BIGINT) AS VARCHAR) = id, FALSE)), FALSE) FROM ({ids})"
    [(found,)] = database.execute(query).fetchall()
    return bool(found)


def one_line(error: Exception) -> str:
    """The text of a DuckDB error on one line, without its kind."""
    return re.sub(r"^[A-Z]\w+( \w+)* Error: ", "", " ".join(str(error).split()))


def _inner_type(type_: str, parts: list[str]) -> str:
    """Type of a field inside a STRUCT; VARCHAR if it cannot be seen."""
    for part in parts:
        match = re.search(rf'(?:\(|, )"?{re.escape(part)}"? ([A-Z]+(?:\(.*?\))?(?:\[\])?)', type_)
        type_ = match[1] if match else "VARCHAR"
    return type_


def _plain(path: str) -> str:
    """A path without the escapes of a glob."""
    return re.sub(r"\[([*?\[])\]", r"\1", path)


def _short(cells: list[str]) -> str:
    return ",".join(cells)[:80]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
