"""How text files are written: their encoding, delimiter, quotes and names of columns."""

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import duckdb

from segue.datamodules.reading.files import Files, FileSettings
from segue.datamodules.reading.queries import one_line, plain_path, quoted_text
from segue.datamodules.reading.text_files import is_utf_16, read_start, sample_lines
from segue.errors import InputError

MOST_REJECTED = 1_000_000
"""Lines of one file that DuckDB may reject; each is kept in memory. With more, the format is wrong."""


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


def encoding_of(files: Files) -> str:
    """UTF-16 if all files are, Latin-1 if the first line of a text is not UTF-8, otherwise UTF-8.

    Raises:
        InputError: only some are.
    """
    if not files.is_local or files.format not in ("csv", "jsonl", "json", "lines"):
        return "utf-8"
    paths = [Path(plain_path(path)) for path in files.paths]
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


def csv_scan(dialect: Dialect, encoding: str, rejects: str | None) -> str:
    """SQL of the function that reads the files, with the parameter `$files`; `rejects` is its table of bad lines."""
    columns = ", ".join(f"{quoted_text(name)}: 'VARCHAR'" for name in dialect.names)
    keep = (
        f"store_rejects = true, rejects_table = '{rejects}', rejects_scan = 'scans_{rejects}', "
        f"rejects_limit = {MOST_REJECTED}"
        if rejects
        else "ignore_errors = true"
    )
    is_strict = str(bool(dialect.quote)).lower()
    delimiter, quote = quoted_text(dialect.delimiter), quoted_text(dialect.quote)
    return (
        f"read_csv($files, columns = {{{columns}}}, delim = {delimiter}, quote = {quote}, escape = {quote}, "
        f"header = false, skip = {dialect.skip}, auto_detect = false, strict_mode = {is_strict}, "
        f"encoding = '{encoding}', {keep})"
    )


def dialect_of(
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
    given = "" if settings.quote == "auto" else f", quote = {quoted_text(settings.quote)}"
    with tempfile.TemporaryDirectory(prefix="segue-") as folder:
        path, skip = files.paths[0], settings.skip
        if (
            files.is_local
            and encoding != "utf-16"
            and (sample := sample_lines(Path(plain_path(path)), skip)) is not None
        ):
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
    scan = csv_scan(lines, encoding, None)
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


def _short(cells: list[str]) -> str:
    return ",".join(cells)[:80]
