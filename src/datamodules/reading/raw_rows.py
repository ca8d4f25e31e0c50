"""The rows of files as a relation of DuckDB, whatever the format: which columns they have, and the SQL of a cell.

A *path* names a column, or with dots a value inside one: `track_metadata.track_name`. The cells of csv and of JSON are
texts, those of Parquet have types.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

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
SAMPLE = 10_000
"""Rows that are looked at to learn the keys of JSON objects, and what the settings leave open."""


@dataclass(kw_only=True)
class RawRows:
    """The rows of some files. Cells are asked for first, then `relation` is the SQL of rows that have them.

    Args:
        types: the type of each column in DuckDB; VARCHAR for each key that the first JSON objects have.
        inner: the same of each value inside a JSON object or a STRUCT, by its path.
        dialect: of text files, otherwise None.
        scan: SQL of the function that reads the files, with the parameter `$files`.
        sample: the same without a record of rejected lines, for the first rows.
        rejects: name of the table of lines that DuckDB cannot read; None if the format has none.
        encoding: of text, as Python names it; of several files, all that occur.
        has_lines_in_cells: whether a cell may have an end of a line.
        absent: optional columns that the files do not have.

    `derived` are the types of the columns that `define` adds.
    """

    database: Database
    files: Files
    types: dict[str, str]
    inner: dict[str, str]
    dialect: Dialect | None
    scan: str
    sample: str
    rejects: str | None
    encoding: str
    has_lines_in_cells: bool
    absent: list[str] = field(default_factory=list)
    derived: dict[str, str] = field(default_factory=dict)
    _each: str | None = None
    _defined: dict[str, str] = field(default_factory=dict)
    _pointers: dict[str, int] = field(default_factory=dict)
    _named: list[str] = field(default_factory=list)

    @property
    def is_json(self) -> bool:
        """Whether a row is a JSON object."""
        return "json" in self.files.format

    @property
    def has_blank_lines(self) -> bool:
        """Whether a row may be a blank line."""
        return self.files.format in ("jsonl", "lines")

    @property
    def _line(self) -> str:
        return "json" if self.files.format == "json" else "line"

    def run(self, query: str, **parameters: object) -> Database:
        """Execute a query over `relation`; see `Files.run`."""
        return self.files.run(self.database, query, **parameters)

    def find(self, path: str) -> str | None:
        """The path as it is written in the files: names are compared exactly, then without case; None if missing."""
        known = (*self.inner, *self.types)
        if path in self.derived or path in known or (self.is_json and "." in path and path.split(".")[0] in self.types):
            return path
        return {name.lower(): name for name in known}.get(path.lower())

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

    def value(self, path: str) -> str:
        """SQL of the value at a path, as `find` returns it."""
        if path in self.derived or (path in self.types and not self.is_json):
            return quoted_name(path)
        parts = [path] if path in self.types else path.split(".")
        if not self.is_json:
            return ".".join(map(quoted_name, parts))
        pointer = "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in parts)
        return f"fields[{self._pointers.setdefault(pointer, len(self._pointers) + 1)}]"

    def type_of(self, path: str) -> str:
        """Type of a value."""
        if path in self.derived:
            return self.derived[path]
        return "VARCHAR" if self.is_json else {**self.inner, **self.types}[path]

    def typed(self, path: str, type_: str) -> str:
        """SQL of the value as another type, NULL where it is not one."""
        return f"TRY_CAST({self.value(path)} AS {type_})"

    def text(self, path: str) -> str:
        """SQL of the value as text, NULL where it is empty; of a list its first element."""
        value, type_ = self.value(path), self.type_of(path)
        if type_.endswith("[]"):
            name = '."name"' * ("name" in _fields(type_.removesuffix("[]")))
            return f"CAST({value}[1]{name} AS VARCHAR)"
        if type_ in ("FLOAT", "DOUBLE"):  # ids of pandas, where one was missing: 7.0
            return f"regexp_replace(CAST({value} AS VARCHAR), '[.]0$', '')"
        return f"NULLIF({value}, '')" if type_ == "VARCHAR" else f"CAST({value} AS VARCHAR)"

    def shown(self, path: str) -> str:
        """SQL of the value as text, as it is written."""
        return f"CAST({self.value(path)} AS VARCHAR)"

    def whole_text(self, path: str) -> str:
        """SQL of the value as text, NULL where it is empty; a list is a JSON array."""
        is_list = self.type_of(path).endswith("]")
        return f"CAST(to_json({self.value(path)}) AS VARCHAR)" if is_list else self.text(path)

    def first_values(self, path: str) -> list[str]:
        """The first values of a column as texts, without empty ones."""
        query = f"SELECT {self.shown(path)} AS value FROM ({self.relation(limit=SAMPLE)})"
        return [str(text) for (text,) in self.run(f"FROM ({query}) WHERE value <> ''").fetchall()]

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
        self._named = [name for name in self.types if self.is_json and name in words]

    def relation(self, *, limit: int | None = None) -> str:
        """SQL SELECT of the rows: `place_of_file`, the columns, those of `define`; for JSON also `line` and `fields`.

        Args:
            limit: number of rows that are read; None for all.
        """
        relation = self._of_files(limit=limit)
        if self._each is not None:
            relation = f"""
                SELECT *, unnest(items) AS item, unnest(range(len(items))) AS place FROM (
                    SELECT * EXCLUDE items, COALESCE(len(items) = 0, FALSE) AS has_no_item,
                           CASE WHEN items IS NULL OR len(items) = 0 THEN [NULL] ELSE items END AS items
                    FROM (SELECT *, row_number() OVER () - 1 AS row, ({self._each}) AS items FROM ({relation})))"""
        columns = "".join(f", ({text}) AS {quoted_name(name)}" for name, text in self._defined.items())
        return f"SELECT *{columns} FROM ({relation})" if columns else relation

    def _of_files(self, *, limit: int | None) -> str:
        scan = self.scan if limit is None else f"(FROM {self.sample} LIMIT {limit})"
        index = f"CAST(file_index AS INTEGER) AS {FILE}" if limit is None else f"0 AS {FILE}"
        if not self.is_json:
            empty = "".join(f", CAST(NULL AS VARCHAR) AS {quoted_name(name)}" for name in self.absent)
            return f"SELECT {index}, * {empty} FROM {scan}"
        named = "".join(f", {self.value(name)} AS {quoted_name(name)}" for name in self._named)
        pointers = ", ".join(map(quoted_text, self._pointers)) or "'/'"
        fields = f"TRY(json_extract_string(line, [{pointers}])) AS fields"  # a line is parsed once for all of its keys
        return f"SELECT *{named} FROM (SELECT *, {fields} FROM (SELECT {index}, {self._line} AS line FROM {scan}))"

    def find_late_keys(self, wanted: Sequence[str]) -> None:
        """Add those keys of JSON objects that only later rows have.

        Args:
            wanted: the keys, or paths that begin with them.
        """
        for key in dict.fromkeys(path.split(".")[0] for path in wanted if path != "auto" and self.is_json):
            query = f"""SELECT 1 FROM {self.sample} WHERE contains({self._line}::VARCHAR, $key)
                AND json_exists(TRY_CAST({self._line} AS JSON), $path) LIMIT 1"""
            is_unknown = key not in self.types or key in self.absent
            if is_unknown and self.run(query, key=f'"{key}"', path=f'$."{key}"').fetchone():
                self.types[key] = "VARCHAR"
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
    rejects = dialect = None
    inner = dict[str, str]()
    if format_ == "parquet":
        scan = sample = "read_parquet($files)"
        described = files.run(database, f"DESCRIBE SELECT * FROM {scan}").fetchall()
        types = {str(name): str(type_) for name, type_, *_ in described}
        for name, type_ in types.items():
            inner |= _inside(name, type_, _fields)
    elif format_ == "json":
        most = max([2**24, *(2 * path.stat().st_size for path in files.local)])
        scan = sample = f"read_json_objects($files, format = 'auto', maximum_object_size = {min(most, 2**31 - 1)})"
        types, inner = _keys(database, files, f"SELECT json FROM {sample}")
    else:
        of_duckdb = "utf-8" if files.local else encoding
        dialect = Dialect(encoding=of_duckdb, skip=settings.skip)
        if format_ == "csv":
            dialect = dialect_of(database, files, settings, of_duckdb, is_parallel=not has_lines)
        rejects = f"rejects_{re.sub('[^a-z]', '_', key)}"
        database.execute(f"DROP TABLE IF EXISTS {rejects}; DROP TABLE IF EXISTS scans_{rejects}")
        scan, sample = dialect.scan(rejects), dialect.scan()
        types = dict.fromkeys(dialect.names, "VARCHAR")
        if format_ == "jsonl":
            types, inner = _keys(database, files, f"SELECT line FROM {sample}")
    if not types:
        rule = " with a JSON object" if "json" in format_ else ""
        raise InputError(f"{files.shown[0]} has no row{rule}; download it again, or give {key}.format or {key}.skip")
    if any("\0" in name for name in types):
        raise InputError(
            f"the names of the columns of {files.shown[0]} have zero bytes, as UTF-16 has; give {key}.encoding="
            "utf-16-le or utf-16-be, or save it again as UTF-8"
        )
    if taken := [name for name in types if name.lower() in (FILE, "file_index") and format_ in ("csv", "parquet")]:
        raise InputError(f"{files.shown[0]} has a column {taken[0]}, a name that DuckDB or Segue uses; rename it")
    absent = [name for name in optional if name not in types]
    types |= dict.fromkeys(absent, "VARCHAR")
    return RawRows(
        database=database, files=files, types=types, inner=inner, dialect=dialect, scan=scan, sample=sample,
        rejects=rejects, encoding=encoding, has_lines_in_cells=has_lines, absent=absent,
    )  # fmt: skip


def _keys(database: Database, files: Files, lines: str) -> tuple[dict[str, str], dict[str, str]]:
    """The keys that the first JSON objects have, and the paths of the values inside of these."""
    query = f"""SELECT json_group_structure(value) FROM (SELECT TRY_CAST(COLUMNS(*) AS JSON) AS value FROM ({lines})
        LIMIT {SAMPLE}) WHERE json_type(value) = 'OBJECT'"""
    [(found,)] = files.run(database, query).fetchall()
    keys: dict[str, object] = json.loads(found or "{}")
    inner = dict[str, Any]()
    for name, shape in keys.items():
        inner |= _inside(name, shape, lambda shape: shape if isinstance(shape, dict) else {})
    return dict.fromkeys(keys, "VARCHAR"), dict.fromkeys(inner, "VARCHAR")


def _inside(path: str, shape: Any, fields_of: Callable[[Any], Mapping[str, Any]]) -> dict[str, Any]:
    """The shape of each value inside another one, by its path."""
    found = dict[str, Any]()
    for name, of_name in fields_of(shape).items():
        if name and "." not in name:
            found |= {f"{path}.{name}": of_name, **_inside(f"{path}.{name}", of_name, fields_of)}
    return found


def _fields(type_: str) -> dict[str, str]:
    """Type of each field of a STRUCT; none of another type."""
    is_struct = type_.startswith("STRUCT") and not type_.endswith("]")
    return {name: str(of_name) for name, of_name in duckdb.sqltype(type_).children} if is_struct else {}
