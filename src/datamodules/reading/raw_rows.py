"""The rows of files as a relation of DuckDB, whatever the format: which columns they have, and the SQL of a cell.

A *path* names a column, or with dots a value inside one: `track_metadata.track_name`.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

import duckdb

from segue.datamodules.reading.dialects import MOST_REJECTED, Dialect, csv_scan, dialect_of, encoding_of
from segue.datamodules.reading.files import Files, FileSettings
from segue.datamodules.reading.queries import plain_path, quoted_name, quoted_text, run
from segue.errors import InputError

FILE = "place_of_file"
"""Column of `relation`: the place of the file of each row."""

_JSON_SAMPLE = 10_000
"""Rows that are looked at to learn the keys of JSON objects."""


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
        return [plain_path(path) for path in self.files.paths]

    @property
    def columns(self) -> list[str]:
        """Names of the columns, in the order of the files."""
        return list(self.types)

    def find(self, path: str) -> str | None:
        """The path as it is written in the files: names are compared exactly, then without case; None if missing."""
        if path in self.types:
            return path
        head, dot, _ = path.partition(".")
        if dot and head in self.types and (self.is_json or self.types[head].startswith("STRUCT")):
            return path
        by_lower = {name.lower(): name for name in self.columns}
        return by_lower.get(path.lower())

    def missing(self, path: str, *, key: str) -> InputError:
        """The error for a column that no file has, with the nearest name."""
        by_lower = {name.lower(): name for name in self.columns}
        near = get_close_matches(path.lower(), by_lower, 1, cutoff=0.5)
        hint = f"did you mean {by_lower[near[0]]}?" if near else "name one of them, or null if there is none"
        return InputError(f"{key}={path}: {self.files.shown[0]} has no such column, it has {self.listed}; {hint}")

    @property
    def listed(self) -> str:
        """The first names of columns, for a message."""
        names = [name if len(name) <= 40 else f"{name[:40]}…" for name in self.columns]
        return ", ".join(names[:30]) + (", …" if len(names) > 30 else "")

    def cell(self, path: str, type_: str = "VARCHAR") -> tuple[str, str]:
        """SQL of the value at a path, and its type.

        Args:
            path: as `find` returns it.
            type_: type that a JSON value is read as, unless an earlier call chose one; other formats have their own.
        """
        parts = self.parts(path)
        inner = ".".join(map(quoted_name, parts))
        if self.is_json:
            return f"fields.{inner}", self._require(parts, type_)
        return inner, self.types[path] if path in self.types else _inner_type(self.types[parts[0]], parts[1:])

    def parts(self, path: str) -> list[str]:
        """The keys of a path. A name with dots is a column if there is one of this name."""
        return [path] if path in self.types else path.split(".")

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
        """SQL SELECT of the rows: `place_of_file`, the columns; for JSON also `line` and `fields`.

        Args:
            limit: number of rows that are read; None for all.
        """
        scan = self.scan if limit is None else f"(FROM {self.sample} LIMIT {limit})"
        index = f"CAST(file_index AS INTEGER) AS {FILE}" if limit is None else f"0 AS {FILE}"
        if self.files.format == "jsonl":
            read = f"SELECT {index}, line FROM {scan}"
        elif self.files.format == "json":
            read = f"SELECT {index}, json AS line FROM {scan}"
        else:
            empty = "".join(f", CAST(NULL AS VARCHAR) AS {quoted_name(name)}" for name in self.absent)
            return f"SELECT {index}, * {empty} FROM {scan}"
        schema = {**self._texts, **self._schema}
        others = {name: "VARCHAR" for name in self._texts if schema[name] != "VARCHAR"}  # a role reads it as a number
        shapes = {"fields": schema or {"": "VARCHAR"}, **({"texts": others} if others else {})}
        parsed = "".join(
            f", TRY(json_transform(line, {quoted_text(json.dumps(shape))})) AS {name}" for name, shape in shapes.items()
        )
        columns = "".join(
            f", {'texts' if name in others else 'fields'}.{quoted_name(name)} AS {quoted_name(name)}"
            for name in self._texts
        )
        return f"SELECT {FILE}, line, fields{columns} FROM (SELECT *{parsed} FROM ({read}))"


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
    if not files.is_local:
        _load_httpfs(database, files.shown[0])
    encoding = encoding_of(files) if settings.encoding == "auto" else settings.encoding
    rejects: str | None = f"rejects_{re.sub('[^a-z]', '_', key)}"
    database.execute(f"DROP TABLE IF EXISTS {rejects}; DROP TABLE IF EXISTS scans_{rejects}")
    dialect = None
    if files.format == "parquet":
        scan = sample = "read_parquet($files)"
        types, rejects = _described(database, files, scan), None
    elif files.format == "json":
        most = max([2**24, *(2 * Path(plain_path(path)).stat().st_size for path in files.paths if files.is_local)])
        scan = sample = f"read_json_objects($files, format = 'auto', maximum_object_size = {min(most, 2**31 - 1)})"
        types, rejects = _json_keys(database, files, f"SELECT json AS line FROM {scan}"), None
    else:
        dialect = (
            dialect_of(database, files, settings, key=key, encoding=encoding)
            if files.format == "csv"
            else Dialect(delimiter="\x01", quote="", skip=settings.skip, names=["line"])
        )
        scan, sample = (csv_scan(dialect, encoding, table) for table in (rejects, None))
        is_json = files.format == "jsonl"
        types = _json_keys(database, files, f"FROM {sample}") if is_json else dict.fromkeys(dialect.names, "VARCHAR")
    if not types:
        rule = " with a JSON object" if "json" in files.format else ""
        raise InputError(f"{files.shown[0]} has no row{rule}; download it again, or give {key}.format or {key}.skip")
    if taken := [name for name in types if name.lower() in (FILE, "file_index") and files.format in ("csv", "parquet")]:
        raise InputError(f"{files.shown[0]} has a column {taken[0]}, a name that DuckDB or Segue uses; rename it")
    absent = [name for name in optional if name not in types]
    types |= dict.fromkeys(absent, "JSON" if files.format in ("json", "jsonl") else "VARCHAR")
    return RawRows(
        files=files, types=types, dialect=dialect, scan=scan, sample=sample, rejects=rejects, absent=absent,
        encoding=encoding,
    )  # fmt: skip


def _load_httpfs(database: duckdb.DuckDBPyConnection, address: str) -> None:
    """Load the extension with which DuckDB opens addresses; it downloads it on first use.

    Raises:
        InputError: it cannot be downloaded.
    """
    try:
        database.execute("INSTALL httpfs; LOAD httpfs")
    except duckdb.Error:
        raise InputError(
            f"cannot read {address}: DuckDB opens addresses with its extension httpfs and cannot download it; type "
            "python -c \"import duckdb; duckdb.sql('INSTALL httpfs')\" with access to the internet, or get the file"
        ) from None


def _described(database: duckdb.DuckDBPyConnection, files: Files, scan: str) -> dict[str, str]:
    rows = run(database, f"DESCRIBE SELECT * FROM {scan}", {"files": files.paths}, files=files).fetchall()
    return {str(name): str(type_) for name, type_, *_ in rows}


def _json_keys(database: duckdb.DuckDBPyConnection, files: Files, read: str) -> dict[str, str]:
    query = f"""
        SELECT key FROM (SELECT unnest(json_keys(TRY_CAST(line AS JSON))) AS key, rowid AS row
                         FROM (SELECT *, row_number() OVER () AS rowid FROM (FROM ({read}) LIMIT {_JSON_SAMPLE})))
        GROUP BY key ORDER BY min(row), count(*) DESC, key"""
    return {str(key): "JSON" for (key,) in run(database, query, {"files": files.paths}, files=files).fetchall()}


def find_late_keys(database: duckdb.DuckDBPyConnection, rows: RawRows, wanted: Sequence[str]) -> None:
    """Add those keys of JSON objects that only later rows have.

    Args:
        database: a connection.
        rows: the rows; `types` and `absent` are changed.
        wanted: the keys, or paths that begin with them.
    """
    if not rows.is_json:
        return
    line = "line" if rows.files.format == "jsonl" else "json"
    for key in dict.fromkeys(path.split(".")[0] for path in wanted if path != "auto"):
        if key in rows.types and key not in rows.absent:
            continue
        query = f"""SELECT 1 FROM {rows.sample} WHERE contains({line}::VARCHAR, $key)
            AND json_exists(TRY_CAST({line} AS JSON), $path) LIMIT 1"""
        parameters = {**rows.parameters, "key": f'"{key}"', "path": f'$."{key}"'}
        if run(database, query, parameters, files=rows.files).fetchone():
            rows.types[key] = "JSON"
            rows.absent[:] = [name for name in rows.absent if name != key]


def check_rejects(database: duckdb.DuckDBPyConnection, rows: RawRows) -> None:
    """Refuse files of which so many lines are rejected that not all are known.

    Raises:
        InputError: a file has a million of them.
    """
    if rows.rejects is None:
        return
    query = f"SELECT file_id, count(*), min(error_message) FROM {rows.rejects} GROUP BY ALL ORDER BY 2 DESC LIMIT 1"
    for file, num, message in database.execute(query).fetchall():
        if num >= MOST_REJECTED:
            name = rows.files.shown[file] if file < len(rows.files.shown) else rows.files.shown[0]
            raise InputError(f"{name}: a million lines cannot be read ({message}); check delimiter, quote and encoding")


def _inner_type(type_: str, parts: list[str]) -> str:
    """Type of a field inside a STRUCT; VARCHAR if it cannot be seen."""
    for part in parts:
        match = re.search(rf'(?:\(|, )"?{re.escape(part)}"? ([A-Z]+(?:\(.*?\))?(?:\[\])?)', type_)
        type_ = match[1] if match else "VARCHAR"
    return type_
