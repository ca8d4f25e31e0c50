"""The rows of files as a relation of DuckDB, whatever the format: which columns they have, and the SQL of a cell.

A *path* names a column, or with dots a value inside one: `track_metadata.track_name`.
"""

import json
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

import duckdb

from src.datamodules.files import Files, FileSettings
from src.datamodules.text_files import is_utf_16, read_start, sample_lines
from src.errors import InputError

_MOST_REJECTED = 1_000_000
"""Lines of one file that DuckDB may reject; each is kept in memory. With more, the format is wrong."""

FILE = "place_of_file"
"""Column of `relation`: the place of the file of each row."""

_JSON_SAMPLE = 10_000
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
        inner = ".".join(map(_quoted, parts))
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
            empty = "".join(f", CAST(NULL AS VARCHAR) AS {_quoted(name)}" for name in self.absent)
            return f"SELECT {index}, * {empty} FROM {scan}"
        schema = {**self._texts, **self._schema}
        others = {name: "VARCHAR" for name in self._texts if schema[name] != "VARCHAR"}  # a role reads it as a number
        shapes = {"fields": schema or {"": "VARCHAR"}, **({"texts": others} if others else {})}
        parsed = "".join(
            f", TRY(json_transform(line, {_text(json.dumps(shape))})) AS {name}" for name, shape in shapes.items()
        )
        columns = "".join(
            f", {'texts' if name in others else 'fields'}.{_quoted(name)} AS {_quoted(name)}" for name in self._texts
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
    encoding = _encoding(files) if settings.encoding == "auto" else settings.encoding
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


def _encoding(files: Files) -> str:
    """UTF-16 if all files are, Latin-1 if the first line of a text is not UTF-8, otherwise UTF-8.

    Raises:
        InputError: only some are.
    """
    if not files.is_local or files.format not in ("csv", "jsonl", "json", "lines"):
        return "utf-8"
    paths = [Path(_plain(path)) for path in files.paths]
    is_wide = [path.suffix != ".zst" and is_utf_16(path, read_start(path)) for path in paths]
    if not any(is_wide):
        for path, shown in zip(paths, files.shown, strict=True):
            if path.suffix != ".zst" and _is_windows_1252(read_start(path)):
                raise InputError(
                    f"cannot read {shown}: it is neither UTF-8 nor Latin-1, probably Windows-1252; save it as UTF-8 "
                    "(iconv -f WINDOWS-1252 -t UTF-8)"
                )
        starts = [read_start(path) for path in paths if path.suffix != ".zst" and "json" not in files.format]
        return "latin-1" if any(not _is_utf_8(start.splitlines()[0]) for start in starts if start.strip()) else "utf-8"
    shown = files.shown[is_wide.index(True)]
    if not all(is_wide) or "json" in files.format:
        raise InputError(f"cannot read {shown}: it is UTF-16; save it as UTF-8 (iconv -f UTF-16 -t UTF-8)")
    return "utf-16"


def _is_windows_1252(start: bytes) -> bool:
    """Whether more than 1 % of the lines are not UTF-8 and have bytes that Latin-1 has no letter for."""
    lines = start.splitlines()[:-1]
    wrong = [line for line in lines if re.search(rb"[\x80-\x9f]", line) and not _is_utf_8(line)]
    return len(wrong) > 0.01 * len(lines)


def _is_utf_8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.end >= len(line) and "unexpected end" in error.reason  # the line goes on
    return True


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


def _csv_scan(dialect: Dialect, encoding: str, rejects: str | None) -> str:
    columns = ", ".join(f"{_text(name)}: 'VARCHAR'" for name in dialect.names)
    keep = (
        f"store_rejects = true, rejects_table = '{rejects}', rejects_scan = 'scans_{rejects}', "
        f"rejects_limit = {_MOST_REJECTED}"
        if rejects
        else "ignore_errors = true"
    )
    is_strict = str(bool(dialect.quote)).lower()
    delimiter, quote = _text(dialect.delimiter), _text(dialect.quote)
    return (
        f"read_csv($files, columns = {{{columns}}}, delim = {delimiter}, quote = {quote}, escape = {quote}, "
        f"header = false, skip = {dialect.skip}, auto_detect = false, strict_mode = {is_strict}, "
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


def _dialect(
    database: duckdb.DuckDBPyConnection, files: Files, settings: FileSettings, *, key: str, encoding: str
) -> Dialect:
    """How csv files are written: what the settings say, otherwise what DuckDB finds in the first file."""
    delimiter = settings.delimiter.replace("\\t", "\t")
    quote = settings.quote
    if delimiter == "auto":
        delimiter = _delimiter(database, files, settings, key=key, encoding=encoding)
    if quote == "auto":
        quote = '"'  # DuckDB would also take an apostrophe of a title
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
    if has_header:
        names = [name or f"column{place}" for place, name in enumerate(names, start=1)]
    lower = [name.lower() for name in names]  # DuckDB does not distinguish them
    if repeated := [name for name, low in zip(names, lower, strict=True) if lower.count(low) > 1]:
        raise InputError(
            f"{files.shown[0]} has several columns {repeated[0]!r}; give {key}.names=[…] and {key}.skip=1 (names that "
            "differ in case alone are the same)"
        )
    if settings.names is not None and len(firsts[0]) not in (0, len(names)):
        raise InputError(
            f"{key}.names has {len(names)} names, and {files.shown[0]} has {len(firsts[0])} columns; give one for each"
        )
    return Dialect(delimiter=delimiter, quote=quote, skip=settings.skip + has_header, names=names)


def _delimiter(
    database: duckdb.DuckDBPyConnection, files: Files, settings: FileSettings, *, key: str, encoding: str
) -> str:
    """The delimiter of the first file, as DuckDB finds it in its first lines."""
    given = "" if settings.quote == "auto" else f", quote = {_text(settings.quote)}"
    with tempfile.TemporaryDirectory(prefix="segue-") as folder:
        path, skip = files.paths[0], settings.skip
        if files.is_local and encoding != "utf-16" and (sample := sample_lines(Path(_plain(path)), skip)) is not None:
            part = Path(folder) / "sample.csv"
            part.write_bytes(sample)
            path, skip = str(part), 0
        query = f"""SELECT Delimiter FROM sniff_csv($file, ignore_errors = true, strict_mode = false,
            all_varchar = true, skip = {skip}, encoding = '{encoding}'{given})"""
        try:
            [(found,)] = database.execute(query, {"file": path}).fetchall()
        except duckdb.Error as error:
            if not files.is_local:
                text = one_line(error).replace(files.paths[0], files.shown[0])
                raise InputError(f"cannot read {files.shown[0]}: {text[:300]}") from None
            raise InputError(
                f"cannot see how the columns of {files.shown[0]} are separated; give {key}.delimiter=<character>, or "
                f"{key}.format if it is not csv"
            ) from None
    return str(found)


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
    line = str(row[0]).replace(delimiter, "\x02")
    reader = csv.reader([line], delimiter="\x02", quotechar=quote or None, quoting=0 if quote else 3)
    return [cell.strip() for cell in next(reader)]


def _is_header(cells: list[str]) -> bool:
    """Whether a first row has names: every cell has a text that is not a number, a time or a UUID.

    The first or the last may be empty: an index of pandas, or a delimiter at the end of each line.
    """
    value = re.compile(r"[+-]?[\d.,:eE/ -]*\d[\d.,:TZ/ -]*|[0-9a-f]{8}-[0-9a-f-]{27}|true|false", re.IGNORECASE)
    names = cells
    if len(cells) > 1:
        names = cells[not cells[0] : len(cells) - (not cells[-1])]
    return bool(names) and all(cell and not value.fullmatch(cell) for cell in names)


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
        for path, shown in zip(files.paths, files.shown, strict=True):
            text = text.replace(path, shown)  # an address may have a secret after its name
        if "state machine reached an invalid state" in text:
            text = "ends of lines are of several kinds (LF, CRLF, CR); make them one, for example with dos2unix"
        where = named or (files.shown[0] if len(files.shown) == 1 else f"{files.shown[0]} and others")
        remedy = "; correct the file, or give datamodule.files.format" if files.format in ("json", "parquet") else ""
        raise InputError(f"cannot read {where}: {text[:300]}{remedy}") from None


def count(database: duckdb.DuckDBPyConnection, query: str) -> int:
    """The number that a query gives."""
    [(number,)] = database.execute(query).fetchall()
    return int(number)


def are_whole(database: duckdb.DuckDBPyConnection, ids: str) -> bool:
    """Whether all ids that a query gives as texts are whole numbers as one writes them: 7 and not 007 or 7.0."""
    is_whole = "COALESCE(CAST(TRY_CAST(id AS BIGINT) AS VARCHAR) = id, FALSE)"
    [(found,)] = database.execute(f"SELECT COALESCE(bool_and({is_whole}), FALSE) FROM ({ids})").fetchall()
    return bool(found)


def one_line(error: Exception) -> str:
    """The text of a DuckDB error on one line, without its kind, its query and values of the data."""
    text = re.sub(r"^[A-Z]\w+( \w+)* Error: ", "", " ".join(str(error).split()))
    text = re.sub(r"\bstring '.*?' to\b", "a text to", text)
    return re.split(r" LINE \d+: ", text, maxsplit=1)[0]


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
