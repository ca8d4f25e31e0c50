"""How text files are written: their encoding, delimiter, quotes and names of columns."""

import csv
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import duckdb

from segue.datamodules.reading.files import Files, is_utf_16, read_start
from segue.datamodules.reading.queries import Database, one_line, quoted_text
from segue.datamodules.reading.table_settings import FileFormat
from segue.errors import InputError

MOST_REJECTED = 1_000_000
"""Lines of one file that DuckDB may reject; each is kept in memory. With more, the format is wrong."""
_SAMPLE = 2**20
"""Bytes of a file whose lines show how it is written."""
_VALUE = re.compile(r"[+-]?[\d.,:eE/ -]*\d[\d.,:TZ/ -]*|[0-9a-f]{8}-[0-9a-f-]{27}|true|false", re.IGNORECASE)
"""A number, a time or a UUID, which is no name of a column."""


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How a text file is written. A line as a whole is a column that is separated by a character nobody uses.

    Args:
        encoding: as DuckDB names it.
        skip: lines before the first row, the header included.
        delimiter: what separates the columns.
        quote: one character, or empty for none.
        names: names of the columns.
    """

    encoding: str
    skip: int
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
            f"strict_mode = {bool(self.quote)}, encoding = '{self.encoding}', {keep})"
        )


def encoding_of(files: Files) -> str:
    """UTF-16 if all files are, Latin-1 if the first line of a text is not UTF-8, otherwise UTF-8.

    Raises:
        InputError: only some are UTF-16, or a text is in Windows-1252.
    """
    starts = [read_start(path) for path in files.local] if files.format != "parquet" else []
    is_wide = [is_utf_16(path, start) for path, start in zip(files.local, starts, strict=False)]
    if any(is_wide):
        if all(is_wide) and "json" not in files.format:
            return "utf-16"
        shown = files.shown[is_wide.index(True)]
        raise InputError(f"cannot read {shown}: it is UTF-16; save it as UTF-8 (iconv -f UTF-16 -t UTF-8)")
    for start, shown in zip(starts, files.shown, strict=False):
        lines = start.splitlines()[:-1]
        wrong = [line for line in lines if re.search(rb"[\x80-\x9f]", line) and not _is_utf_8(line)]
        if len(wrong) > 0.01 * len(lines):  # bytes that Latin-1 has no letter for
            raise InputError(
                f"cannot read {shown}: it is neither UTF-8 nor Latin-1, probably Windows-1252; save it as UTF-8 "
                "(iconv -f WINDOWS-1252 -t UTF-8)"
            )
    firsts = [start.splitlines()[0] for start in starts if start.strip() and "json" not in files.format]
    return "utf-8" if all(map(_is_utf_8, firsts)) else "latin-1"


def _is_utf_8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.end >= len(line) and "unexpected end" in error.reason  # the line goes on
    return True


def dialect_of(database: Database, files: Files, settings: FileFormat, encoding: str) -> Dialect:
    """How csv files are written: what the settings say, otherwise what DuckDB finds in the first file.

    Raises:
        InputError: this cannot be seen, or the files have different columns or two columns of one name.
    """
    delimiter, key = settings.delimiter.replace("\\t", "\t"), settings.group
    if delimiter == "auto":
        delimiter = _delimiter(database, files, settings, encoding)
    quote = '"' if settings.quote == "auto" else settings.quote  # DuckDB would also take an apostrophe of a title
    lines = Dialect(encoding=encoding, skip=settings.skip).scan()
    firsts = []
    for path in files.paths:
        query = f"SELECT line FROM {lines} WHERE line IS NOT NULL LIMIT 1"
        row = database.execute(query, {"files": [path]}).fetchone()
        text = "" if row is None else str(row[0]).replace(delimiter or "\n", "\x02")
        reader = csv.reader([text], delimiter="\x02", quotechar=quote or None, quoting=0 if quote else 3)
        firsts.append([cell.strip() for cell in next(reader)])
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
    return Dialect(encoding=encoding, skip=skip, delimiter=delimiter, quote=quote, names=tuple(names))


def _delimiter(database: Database, files: Files, settings: FileFormat, encoding: str) -> str:
    """The delimiter of the first file, as DuckDB finds it in its first lines, without those above 64 KiB."""
    given = "" if settings.quote == "auto" else f", quote = {quoted_text(settings.quote)}"
    with tempfile.NamedTemporaryFile(prefix="segue-", suffix=".csv") as sample:
        path, skip = files.paths[0], settings.skip
        if files.local and encoding != "utf-16":
            start = read_start(files.local[0], _SAMPLE)
            lines = re.split(rb"(?<=\n)" if b"\n" in start else rb"(?<=\r)", start)
            if len(start) == _SAMPLE:
                del lines[-1]
            if text := b"".join(line for line in lines[skip:] if len(line) <= 2**16):
                path, skip = sample.name, 0
                Path(path).write_bytes(text)
        query = f"""SELECT Delimiter FROM sniff_csv($file, ignore_errors = true, strict_mode = false,
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
