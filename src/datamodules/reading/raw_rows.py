"""The rows of files as a relation of DuckDB, whatever the format: which columns they have, and the SQL of a cell.

A *path* names a column, or with dots a value inside one: `track_metadata.track_name`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property

import duckdb

from segue.datamodules.reading.dialects import MOST_REJECTED, Dialect, dialect_of
from segue.datamodules.reading.files import Files, as_plain_text
from segue.datamodules.reading.queries import Database, one_line, quoted_name, quoted_text
from segue.datamodules.reading.table_settings import FileFormat
from segue.errors import InputError

FILE = "place_of_file"
"""Column of `relation`: the place of the file of each row."""
OF_ITEMS = ("item", "row", "place")
"""Columns of events that are elements of a list."""
# Rows that are looked at to learn the keys of JSON objects, and the units that the settings leave open.
_SAMPLE = 10_000


@dataclass(kw_only=True)
class RawRows:
    """The rows of some files. Cells are asked for first, then `relation` is the SQL of rows that have them.

    Args:
        types: the type of each column in DuckDB; for JSON, `JSON` for each key that the first rows have.
        dialect: of text files, otherwise None.
        scan: SQL of the function that reads the files, with the parameter `$files`.
        sample: the same without a record of rejected lines, for the first rows.
        rejects: name of the table of lines that DuckDB cannot read; None if the format has none.
        absent: optional columns that the files do not have.
        encoding: of text, as Python names it; of several files, all that occur.
        has_lines_in_cells: whether a cell may have an end of a line.

    `derived` are the types of the columns that `define` adds.
    """

    database: Database
    files: Files
    types: dict[str, str]
    dialect: Dialect | None
    scan: str
    sample: str
    rejects: str | None
    absent: list[str]
    encoding: str
    has_lines_in_cells: bool = False
    derived: dict[str, str] = field(default_factory=dict)
    _each: str | None = None
    _defined: dict[str, str] = field(default_factory=dict)
    _schema: dict[str, object] = field(default_factory=dict)
    _texts: dict[str, object] = field(default_factory=dict)

    @property
    def is_json(self) -> bool:
        """Whether a row is a JSON object."""
        return "json" in self.files.format

    @property
    def has_blank_lines(self) -> bool:
        """Whether a row may be a blank line."""
        return self.files.format in ("jsonl", "lines")

    def run(self, query: str, **parameters: object) -> Database:
        """Execute a query over `relation`; see `Files.run`."""
        return self.files.run(self.database, query, **parameters)

    def find(self, path: str) -> str | None:
        """The path as it is written in the files: names are compared exactly, then without case; None if missing."""
        head, dot, _ = path.partition(".")
        if path in self.derived or path in self.types or (dot and self.is_json and head in self.types):
            return path
        if found := {name.lower(): name for name in (*self.inner_types, *self.types)}.get(path.lower()):
            return found
        day, plus, hour = path.partition(" + ")
        return self._joined(day, hour) if plus else None

    def _joined(self, day: str, hour: str) -> str | None:
        """A column of days and one of times of day as a column of both; None if one is missing."""
        columns = [self.find(path) for path in (day, hour)]
        texts = [self.text(column) for column in columns if column is not None]
        if len(texts) < len(columns):
            return None
        name = " + ".join(map(str, columns))
        self.define({**self._defined, name: " || ' ' || ".join(texts)}, key="datamodule.columns", each=self._each)
        return name

    @cached_property
    def inner_types(self) -> dict[str, str]:
        """Type of each value inside a STRUCT, by its path; those that are a STRUCT themselves are before their own."""
        found, left = dict[str, str](), [*self.types.items()][::-1]
        while left:
            path, type_ = left.pop()
            inner = [(f"{path}.{name}", of_name) for name, of_name in _fields(type_).items() if "." not in name]
            found.update(inner)
            left += inner[::-1]
        return found

    def found(self, path: str, *, key: str) -> str:
        """The path as it is written in the files.

        Raises:
            InputError: no file has it; the message has the nearest name.
        """
        if (found := self.find(path)) is not None:
            return found
        by_lower = {name.lower(): name for name in self.types}
        near = get_close_matches(path.lower(), by_lower, 1, cutoff=0.5)
        hint = f"did you mean {by_lower[near[0]]}?" if near else "name one of them, or null if there is none"
        raise InputError(f"{key}={path}: {self.files.shown[0]} has no such column, it has {self.listed}; {hint}")

    @property
    def listed(self) -> str:
        """The first names of columns, for a message."""
        lines = (" ".join(name.split()) for name in self.types)
        names = [name if len(name) <= 40 else f"{name[:40]}…" for name in lines]
        return ", ".join(names[:30]) + (", …" if len(names) > 30 else "")

    def cell(self, path: str, type_: str = "VARCHAR") -> tuple[str, str]:
        """SQL of the value at a path, and its type.

        Args:
            path: as `find` returns it.
            type_: type that a JSON value is read as, unless an earlier call chose one; other formats have their own.
        """
        if path in self.derived:
            return quoted_name(path), self.derived[path]
        parts, schema = self._parts(path), self._schema
        inner = ".".join(map(quoted_name, parts))
        if not self.is_json:
            return inner, self.types[path] if path in self.types else self.inner_types[path]
        for part in parts[:-1]:
            deeper = schema.setdefault(part, {})
            if not isinstance(deeper, dict):
                raise InputError(f"{'.'.join(parts)}: {part} is a value and not an object; name another column")
            schema = deeper
        return f"fields.{inner}", str(schema.setdefault(parts[-1], type_))

    def _parts(self, path: str) -> list[str]:
        """The keys of a path. A name with dots is a column if there is one of this name."""
        return [path] if path in self.types else path.split(".")

    def _is_key(self, path: str) -> bool:
        return self.is_json and path not in self.derived

    def type_of(self, path: str) -> str:
        """Type of a column; VARCHAR for what is text."""
        return "VARCHAR" if self._is_key(path) else self.cell(path)[1]

    def typed(self, path: str, type_: str) -> str:
        """SQL of the value as another type, NULL where it is not one."""
        return self.cell(path, type_)[0] if self._is_key(path) else f"TRY_CAST({self.cell(path)[0]} AS {type_})"

    def reread(self, path: str, type_: str) -> str:
        """SQL of the value as another type, also of a JSON value that `fields` has as some type; slow."""
        if not self._is_key(path):
            return self.typed(path, type_)
        schema: object = type_
        parts = self._parts(path)
        for key in reversed(parts):
            schema = {key: schema}
        return f"TRY(json_transform(line, {quoted_text(json.dumps(schema))})).{'.'.join(map(quoted_name, parts))}"

    def text(self, path: str) -> str:
        """SQL of the value as text, NULL where it is empty."""
        plain, type_ = self.cell(path)
        if type_.endswith("[]"):
            name = '."name"' * ("name" in _fields(type_.removesuffix("[]")))
            return f"CAST({plain}[1]{name} AS VARCHAR)"
        if type_ in ("FLOAT", "DOUBLE"):  # ids of pandas, where one was missing: 7.0
            return f"regexp_replace(CAST({plain} AS VARCHAR), '[.]0$', '')"
        return f"NULLIF({plain}, '')" if type_ == "VARCHAR" else f"CAST({plain} AS VARCHAR)"

    def shown(self, path: str) -> str:
        """SQL of the value as text for a message, also of a JSON value that is read as a number."""
        if self._is_key(path):
            return f"TRY(json_extract_string(line, {quoted_text(self.json_path(path))}))"
        return f"CAST({self.cell(path)[0]} AS VARCHAR)"

    def json_path(self, path: str) -> str:
        """The path of a value in a JSON object, as DuckDB writes it."""
        return "$" + "".join(f'."{key}"' for key in self._parts(path))

    def whole_text(self, path: str) -> str:
        """SQL of the value as text, NULL where it is empty; a list is a JSON array."""
        if self._is_key(path):
            return self.shown(path)
        plain, type_ = self.cell(path)
        return f"CAST(to_json({plain}) AS VARCHAR)" if type_.endswith("]") else self.text(path)

    def first_values(self, path: str) -> list[str]:
        """The first values of a column as texts, without empty ones."""
        query = f"SELECT {self.shown(path)} AS value FROM ({self.relation(limit=_SAMPLE)})"
        return [str(text) for (text,) in self.run(f"FROM ({query}) WHERE value <> '' LIMIT {_SAMPLE}").fetchall()]

    def has_numbers(self, path: str) -> bool:
        """Whether the first values of a column are whole numbers."""
        return bool(found := self.first_values(path)) and all(value.lstrip("-").isdecimal() for value in found)

    def is_filled(self, path: str) -> bool:
        """Whether 99 % of the first rows have a value in a column."""
        query = f"SELECT avg((COALESCE({self.shown(path)}, '') <> '')::INT) FROM ({self.relation(limit=_SAMPLE)})"
        [(share,)] = self.run(query).fetchall()
        return bool((share or 0) >= 0.99)

    def define(self, columns: Mapping[str, str | None], *, key: str, each: str | None = None) -> None:
        """Add columns that SQL expressions define; in JSON, keys that they name are columns of text.

        Args:
            columns: expression of each column.
            key: of the expressions on the command line.
            each: expression of a list; a row becomes several, with the columns `item`, `row` and `place`.

        Raises:
            InputError: the expressions do not fit the rows.
        """
        self._each, self._defined = each, {name: str(text) for name, text in columns.items()}
        if not (names := [*(OF_ITEMS if each else ()), *columns]):
            return
        try:
            described = self.database.execute(f"DESCRIBE {self.relation(limit=1)}", {"files": self.files.paths})
        except duckdb.Error as error:
            raise InputError(
                f"{key} does not fit {self.files.shown[0]}: {one_line(error)[:300]}; its columns are {self.listed}"
            ) from None
        self.derived = {name: str(type_) for name, type_, *_ in described.fetchall() if name in names}

    def name_in_sql(self, texts: Sequence[str]) -> None:
        """Make the keys of JSON objects that SQL expressions name into columns of `relation`, as text."""
        words = {word for text in texts for word in re.findall(r"\w+", text)}
        self._texts = {name: "VARCHAR" for name in self.types if self.is_json and name in words}

    def relation(self, *, limit: int | None = None) -> str:
        """SQL SELECT of the rows: `place_of_file`, the columns, those of `define`; for JSON also `line` and `fields`.

        Args:
            limit: number of rows that are read; None for all.
        """
        relation = self.of_files(limit=limit)
        if self._each is not None:
            relation = f"""
                SELECT *, unnest(items) AS item, unnest(range(len(items))) AS place FROM (
                    SELECT * EXCLUDE items, COALESCE(len(items) = 0, FALSE) AS has_no_item,
                           CASE WHEN items IS NULL OR len(items) = 0 THEN [NULL] ELSE items END AS items
                    FROM (SELECT *, row_number() OVER () - 1 AS row, ({self._each}) AS items FROM ({relation})))"""
        columns = "".join(f", ({text}) AS {quoted_name(name)}" for name, text in self._defined.items())
        return f"SELECT *{columns} FROM ({relation})" if columns else relation

    def of_files(self, *, limit: int | None = None) -> str:
        """SQL SELECT of the rows without the columns of `define`; see `relation`."""
        scan = self.scan if limit is None else f"(FROM {self.sample} LIMIT {limit})"
        index = f"CAST(file_index AS INTEGER) AS {FILE}" if limit is None else f"0 AS {FILE}"
        if not self.is_json:
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
        line = "line" if self.files.format == "jsonl" else "json AS line"
        return f"SELECT {FILE}, line, fields{columns} FROM (SELECT *{parsed} FROM (SELECT {index}, {line} FROM {scan}))"

    def find_late_keys(self, wanted: Sequence[str]) -> None:
        """Add those keys of JSON objects that only later rows have.

        Args:
            wanted: the keys, or paths that begin with them.
        """
        line = "line" if self.files.format == "jsonl" else "json"
        for key in dict.fromkeys(path.split(".")[0] for path in wanted if path != "auto" and self.is_json):
            query = f"""SELECT 1 FROM {self.sample} WHERE contains({line}::VARCHAR, $key)
                AND json_exists(TRY_CAST({line} AS JSON), $path) LIMIT 1"""
            is_unknown = key not in self.types or key in self.absent
            if is_unknown and self.run(query, key=f'"{key}"', path=f'$."{key}"').fetchone():
                self.types[key] = "JSON"
                self.absent = [name for name in self.absent if name != key]

    def check_rejects(self) -> None:
        """Refuse files of which so many lines are rejected that not all are known.

        Raises:
            InputError: a file has a million of them.
        """
        if self.rejects is None:
            return
        query = f"SELECT file_id, min(error_message) FROM {self.rejects} GROUP BY 1 HAVING count(*) >= {MOST_REJECTED}"
        for file, message in self.database.execute(query).fetchall():
            name = self.files.shown[file] if file < len(self.files.shown) else self.files.shown[0]
            raise InputError(f"{name}: a million lines cannot be read ({message}); check delimiter, quote and encoding")

    def refuse_rejects(self, what: str) -> None:
        """Refuse files with a line that DuckDB cannot read.

        Raises:
            InputError: there is such a line.
        """
        if self.rejects is not None:
            query = f"SELECT line, error_message FROM {self.rejects} ORDER BY 1 LIMIT 1"
            for line, message in self.database.execute(query).fetchall():
                raise InputError(f"cannot read {what}: line {line}: {message}; correct it")


def open_rows(database: Database, files: Files, settings: FileFormat, *, optional: Sequence[str] = ()) -> RawRows:
    """Find out which columns files have, and how DuckDB reads them.

    Args:
        files: the files, of one format.
        settings: how they are written, where this is not `auto`.

    Raises:
        InputError: the files cannot be read, or have different columns.
    """
    if not files.local:
        try:
            database.execute("INSTALL httpfs; LOAD httpfs")
        except duckdb.Error:
            raise InputError(
                f"cannot read {files.shown[0]}: DuckDB opens addresses with its extension httpfs and cannot download "
                "it; type python -c \"import duckdb; duckdb.sql('INSTALL httpfs')\" with access to the internet, or "
                "get the file"
            ) from None
    key, format_ = settings.group, files.format
    files, encoding, has_lines = as_plain_text(database, files, settings)
    rejects: str | None = None
    dialect = None
    if format_ == "parquet":
        scan = sample = "read_parquet($files)"
    elif format_ == "json":
        most = max([2**24, *(2 * path.stat().st_size for path in files.local)])
        scan = sample = f"read_json_objects($files, format = 'auto', maximum_object_size = {min(most, 2**31 - 1)})"
    else:
        of_duckdb = "utf-8" if files.local else encoding
        dialect = Dialect(encoding=of_duckdb, skip=settings.skip)
        if format_ == "csv":
            dialect = dialect_of(database, files, settings, of_duckdb, is_parallel=not has_lines)
        rejects = f"rejects_{re.sub('[^a-z]', '_', key)}"
        database.execute(f"DROP TABLE IF EXISTS {rejects}; DROP TABLE IF EXISTS scans_{rejects}")
        scan, sample = dialect.scan(rejects), dialect.scan()
    query = f"DESCRIBE SELECT * FROM {sample}"
    if "json" in format_:
        query = f"""
            SELECT key, 'JSON' FROM (
                SELECT unnest(json_keys(TRY_CAST(line AS JSON))) AS key, row
                FROM (SELECT *, row_number() OVER () AS row FROM (
                    SELECT {"line" if format_ == "jsonl" else "json AS line"} FROM {sample} LIMIT {_SAMPLE})))
            GROUP BY key ORDER BY min(row), count(*) DESC, key"""
    if dialect is not None and format_ != "jsonl":
        types = dict.fromkeys(dialect.names, "VARCHAR")
    else:
        types = {str(name): str(type_) for name, type_, *_ in files.run(database, query).fetchall()}
    if not types:
        rule = " with a JSON object" if "json" in format_ else ""
        raise InputError(f"{files.shown[0]} has no row{rule}; download it again, or give {key}.format or {key}.skip")
    if any("\0" in name for name in types):
        raise InputError(
            f"the names of the columns of {files.shown[0]} have zero bytes, as damaged UTF-16 has; save it again as "
            f"UTF-8, or give {key}.encoding or {key}.skip"
        )
    if taken := [name for name in types if name.lower() in (FILE, "file_index") and format_ in ("csv", "parquet")]:
        raise InputError(f"{files.shown[0]} has a column {taken[0]}, a name that DuckDB or Segue uses; rename it")
    absent = [name for name in optional if name not in types]
    types |= dict.fromkeys(absent, "JSON" if "json" in format_ else "VARCHAR")
    return RawRows(
        database=database, files=files, types=types, dialect=dialect, scan=scan, sample=sample, rejects=rejects,
        absent=absent, encoding=encoding, has_lines_in_cells=has_lines,
    )  # fmt: skip


def _fields(type_: str) -> dict[str, str]:
    """Type of each field of a STRUCT; none of another type."""
    is_struct = type_.startswith("STRUCT") and not type_.endswith("]")
    return {name: str(of_name) for name, of_name in duckdb.sqltype(type_).children} if is_struct else {}
