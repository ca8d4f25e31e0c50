"""How text files are written: their encoding, delimiter, quotes and names of columns."""

import csv
import re
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb

from segue.datamodules.reading.files import Files, quote_of
from segue.datamodules.reading.plain_text import read_start
from segue.datamodules.reading.queries import Database, one_line, quoted_text
from segue.datamodules.reading.table_settings import FileFormat
from segue.errors import InputError

MOST_REJECTED = 1_000_000
"""Lines of one file that DuckDB may reject; each is kept in memory. With more, the format is wrong."""
_MOST_LINES_OF_NAMES = 20  # lines that a first row may have, because names in quotes have ends of lines
_SAMPLE = 2**20  # bytes of a file whose lines show how it is written
# A line before the names, in which Excel reads the delimiter.
_OF_EXCEL = re.compile(rb"(?:\xef\xbb\xbf)?sep=([\x09\x20-\x7e])\r?\n", re.IGNORECASE)
_EMPTY = (b'""', b"''")  # a row of one empty cell, after which DuckDB finds no delimiter
# A number, a time or a UUID, which is no name of a column.
_VALUE = re.compile(r"[+-]?[\d.,:eE/ -]*\d[\d.,:TZ/ -]*|[0-9a-f]{8}-[0-9a-f-]{27}|true|false", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How a text file is written. A line as a whole is a column that is separated by a character nobody uses.

    Args:
        encoding: as DuckDB names it.
        skip: rows before the first one of data, the header included.
        is_parallel: whether several threads may read; not if a cell has an end of a line, see `plain_text.py`.
        delimiter: what separates the columns.
        quote: one character, or empty for none.
        names: names of the columns.
    """

    encoding: str
    skip: int
    is_parallel: bool = True
    delimiter: str = "\x01"
    quote: str = ""
    names: tuple[str, ...] = ("line",)

    def scan(self, rejects: str | None = None) -> str:
        """SQL of the function that reads the files, with the parameter `$files`; `rejects`: a table for bad lines."""
        columns = ", ".join(f"{quoted_text(name)}: 'VARCHAR'" for name in self.names)
        tables = f"rejects_table = '{rejects}', rejects_scan = 'scans_{rejects}', rejects_limit = {MOST_REJECTED}"
        keep = "ignore_errors = true" if rejects is None else f"store_rejects = true, {tables}"
        quote = quoted_text(self.quote)
        return (
            f"read_csv($files, columns = {{{columns}}}, delim = {quoted_text(self.delimiter)}, quote = {quote}, "
            f"escape = {quote}, header = false, skip = {self.skip}, auto_detect = false, "
            f"strict_mode = {bool(self.quote)}, parallel = {self.is_parallel}, "
            f"encoding = {quoted_text(self.encoding)}, {keep})"
        )


def dialect_of(database: Database, files: Files, settings: FileFormat, encoding: str, *, is_parallel: bool) -> Dialect:
    """How csv files are written: what the settings say, otherwise what DuckDB finds in the first file.

    Raises:
        InputError: this cannot be seen, or the files have different columns or two columns of one name.
    """
    delimiter, key = settings.delimiter.replace("\\t", "\t"), settings.group
    if files.local and not settings.skip and (of_excel := _OF_EXCEL.match(read_start(files.local[0]))):
        settings = replace(settings, skip=1)
        delimiter = of_excel[1].decode() if delimiter == "auto" else delimiter
    if delimiter == "auto":
        delimiter = _delimiter(database, files, settings, encoding)
    quote = quote_of(settings, "csv")
    lines = Dialect(encoding=encoding, skip=settings.skip).scan()
    firsts = []
    for path, shown in zip(files.paths, files.shown, strict=True):
        query = f"SELECT COALESCE(line, '') FROM {lines} LIMIT {_MOST_LINES_OF_NAMES}"
        found = replace(files, paths=[path], shown=[shown]).run(database, query).fetchall()
        texts = [(line.replace(delimiter, "\x02") if delimiter else line) + "\n" for (line,) in found]
        reader = csv.reader(texts, delimiter="\x02", quotechar=quote or None, quoting=0 if quote else 3)
        firsts.append([cell.strip() for cell in next(filter(None, reader), [])])
    first = firsts[0]
    has_header = (settings.names is None and _is_header(first)) if settings.header == "auto" else settings.header
    names = list(map(str, settings.names)) if settings.names is not None else first if has_header else [""] * len(first)
    for other, shown in zip(firsts, files.shown, strict=True):
        if has_header and other != first:
            raise InputError(
                f"{files.shown[0]} and {shown} have different columns: {','.join(first)[:80]} and "
                f"{','.join(other)[:80]}; choose the files with {key}.pattern=<glob>"
            )
    names = [name or f"column{place}" for place, name in enumerate(names, start=1)]
    lower = [name.lower() for name in names]  # DuckDB does not distinguish them
    if repeated := [name for name, low in zip(names, lower, strict=True) if lower.count(low) > 1]:
        raise InputError(
            f"{files.shown[0]} has several columns {repeated[0]!r}; give {key}.names=[…] and {key}.skip=1 (names that "
            "differ in case alone are the same)"
        )
    skip = settings.skip + has_header
    return Dialect(
        encoding=encoding, skip=skip, is_parallel=is_parallel, delimiter=delimiter, quote=quote, names=tuple(names)
    )


def _delimiter(database: Database, files: Files, settings: FileFormat, encoding: str) -> str:
    """The delimiter of the first file, as DuckDB finds it in its first lines, without empty ones and above 64 KiB."""
    given = "" if settings.quote == "auto" else f", quote = {quoted_text(settings.quote)}"
    with tempfile.NamedTemporaryFile(prefix="segue-", suffix=".csv") as sample:
        path, skip = files.paths[0], settings.skip
        if files.local:
            start = read_start(files.local[0], _SAMPLE)
            lines = start.splitlines(keepends=True)
            if len(start) == _SAMPLE:
                del lines[-1]
            if text := b"".join(line for line in lines[skip:] if len(line) <= 2**16 and line.rstrip() not in _EMPTY):
                path, skip = sample.name, 0
                Path(path).write_bytes(text)
        query = f"""SELECT Delimiter FROM sniff_csv($file, ignore_errors = true, strict_mode = true,
            all_varchar = true, skip = {skip}, encoding = '{encoding}'{given})"""
        try:
            [(found,)] = database.execute(query, {"file": path}).fetchall()
        except duckdb.Error as error:
            if not files.local:
                text_of_error = one_line(error).replace(files.paths[0], files.shown[0])
                raise InputError(f"cannot read {files.shown[0]}: {text_of_error[:300]}") from None
            raise InputError(
                f"cannot see how the columns of {files.shown[0]} are separated; give "
                f"{settings.group}.delimiter=<character>, or {settings.group}.format if it is not csv"
            ) from None
    return str(found)


def _is_header(cells: list[str]) -> bool:
    """Whether a first row has names: every cell has a text that is no value.

    The first or the last may be empty: an index of pandas, or a delimiter at the end of each line.
    """
    names = cells[not cells[0] : len(cells) - (not cells[-1])] if len(cells) > 1 else cells
    return bool(names) and all(cell and not _VALUE.fullmatch(cell) for cell in names)
