"""Rejected rows: which they are, in which line of which file, why, and the file that lists them."""

import csv
import io
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from segue.datamodules.reading.dialects import Dialect
from segue.datamodules.reading.plain_text import open_binary
from segue.datamodules.reading.raw_rows import RawRows
from segue.errors import InputError
from segue.runs.catalog_files import write_lines

_MOST_LISTED = 100_000  # rejected rows that are listed with their line; all are counted

_END = "\x02"  # a line that is put behind the last one of a file
_REASONS = {
    "INVALID ENCODING": "the line is not {encoding}; datamodule.files.encoding may be wrong",
    "LINE SIZE OVER MAXIMUM": "the line is longer than 2 MiB",
    "UNQUOTED VALUE": "a quote is not closed",
}


class RejectedRow(NamedTuple):
    """A row that is not an event.

    Attributes:
        file: place of its file.
        row: its number among the rows of this file that DuckDB could read, from 0; -1 if it could not.
        byte: where its line begins, if DuckDB could not read it; otherwise -1. DuckDB counts the bytes as UTF-8.
        line: number of its line as DuckDB counts, which may be wrong, if it could not read it; otherwise -1.
    """

    file: int
    row: int
    byte: int
    line: int
    reason: str


# A rejected row, `line` or `row`, and the number of that.
_Located = tuple[RejectedRow, str, int]


@dataclass(frozen=True, kw_only=True)
class RejectedRows:
    """All rejected rows of a source.

    Attributes:
        lines: the first of them: file, line (of Parquet and JSON arrays: row), reason.
        by_reason: their number for each reason, without the values.
        num_lost: how many of them DuckDB could not read.
    """

    lines: list[dict[str, str | int]]
    by_reason: Mapping[str, int]
    num_lost: int

    @property
    def num(self) -> int:
        """Number of rejected rows."""
        return sum(self.by_reason.values())


def find_rejected(rows: RawRows, *, has_items: bool) -> RejectedRows:
    """Collect the rejected rows of the table `rejected` and those lines that DuckDB could not read.

    Args:
        rows: the rows of the files; their database has the tables `parsed` and `rejected`.
        has_items: whether a row may have several events.

    Raises:
        InputError: a quote is not closed, therefore the lines after it are lost.
    """
    number = "row" if has_items else "rowid"
    reason = "regexp_replace(reason, ', got .*$', '')"
    counted = rows.database.execute(f"SELECT {reason}, count(*) FROM rejected GROUP BY 1").fetchall()
    counts, found = Counter(dict(counted)), list[RejectedRow]()
    if counts:
        query = f"""
            WITH files AS (SELECT file, min({number}) AS first FROM parsed GROUP BY file),
                 place AS (SELECT {number} AS row, any_value(file) AS file FROM parsed
                           WHERE {number} IN (SELECT row FROM rejected) GROUP BY 1)
            SELECT file, r.row - first, -1, -1, r.reason FROM rejected r JOIN place USING (row) JOIN files USING (file)
            ORDER BY r.row LIMIT {_MOST_LISTED}"""
        found = [RejectedRow(*row) for row in rows.database.execute(query).fetchall()]
    lost = _lost(rows) if rows.rejects is not None else []
    if rows.has_lines_in_cells:
        _refuse_open_quote(rows)
    counts.update(row.reason.partition(", got ")[0] for row in lost)
    lines: list[dict[str, str | int]] = [
        {"file": rows.files.shown[row.file], unit: place, "reason": row.reason}
        for row, unit, place in _located(sorted([*found, *lost])[:_MOST_LISTED], rows)
    ]
    return RejectedRows(lines=lines, by_reason=dict(counts), num_lost=len(lost))


def _lost(rows: RawRows) -> list[RejectedRow]:
    """Lines that DuckDB could not read.

    Raises:
        InputError: a quote is not closed, therefore the lines after it are lost.
    """
    query = f"""
        SELECT file_path, line_byte_position, min(line), min(error_type::VARCHAR), min(error_message),
               max(error_type IN ('UNQUOTED VALUE', 'LINE SIZE OVER MAXIMUM')
                   AND contains(trim(csv_line, chr(10) || chr(13)), chr(10)))
        FROM {rows.rejects} JOIN scans_{rows.rejects} USING (scan_id, file_id) GROUP BY 1, 2 ORDER BY 1, 2"""
    places = {str(path): place for place, path in enumerate(rows.files.local)}
    lost = []
    for path, byte, line, kind, message, is_open in rows.database.execute(query).fetchall():
        row = RejectedRow(places.get(path, 0), -1, max(int(byte) - 1, 0), int(line), _reason(kind, message, rows))
        if is_open:
            [(_, _, number)] = _located([row], rows)
            raise _open_quote(rows.files.shown[row.file], number)
        lost.append(row)
    return lost


def _refuse_open_quote(rows: RawRows) -> None:
    """Refuse a file that ends inside of a cell. One thread of DuckDB leaves out this row without a word.

    Raises:
        InputError: there is such a file.
    """
    if (dialect := rows.dialect) is None:
        return
    csv.field_size_limit(1 << 30)
    for path, shown in zip(rows.files.local, rows.files.shown, strict=False):
        with open_binary(path) as binary, io.TextIOWrapper(binary, "utf-8", "replace", newline="") as text:
            last, begins, ends = list[str](), 0, 0
            reader = _cells(itertools.chain(text, [_END]), dialect)
            for row in reader:
                last, begins, ends = row, ends + 1, reader.line_num
            if last != [_END]:
                raise _open_quote(shown, begins)


def _open_quote(shown: str, line: int) -> InputError:
    return InputError(
        f"{shown} line {line}: a quote is not closed, and the lines after it cannot be read; correct the line, or give "
        "datamodule.files.quote='' if quotes are a part of the text"
    )


def _cells(lines: Iterable[str], dialect: Dialect) -> Any:
    quote = dialect.quote or None
    return csv.reader(lines, delimiter=dialect.delimiter[0], quotechar=quote, quoting=0 if quote else 3)


def _reason(kind: str, message: str, rows: RawRows) -> str:
    if kind in ("MISSING COLUMNS", "TOO MANY COLUMNS"):
        found, num = re.search(r"Found: (\d+)", message), len(rows.types)
        return f"a line must have {num} column{'s' * (num > 1)}" + (f", got {found[1]}" if found else "")
    return _REASONS.get(kind, kind.lower()).format(encoding=rows.encoding.upper())


@dataclass(frozen=True, kw_only=True)
class Rejections:
    """Where rejected rows are listed, and how many there may be.

    Args:
        path: the file; it is written only if there are any.
        most: largest share of rows that may be rejected, in [0, 1].
    """

    path: Path
    most: float = 0.01

    def check(self, found: RejectedRows, num_rows: int, path: str) -> None:
        """Write one JSON object for each rejected row, and refuse a source that has too many of them.

        Raises:
            InputError: it has; the message has the first one for each of three reasons.
        """
        if found.num:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_lines(self.path, found.lines)
        if found.num <= self.most * num_rows:
            return
        listed = []
        for reason, num in sorted(found.by_reason.items(), key=lambda entry: -entry[1])[:3]:
            of_reason = (in_words(line) for line in found.lines if str(line["reason"]).startswith(reason))
            shown = next(of_reason, reason)  # rows are listed up to a limit
            listed.append(shown + (f" ({num:,} times)" if num > 1 else ""))
        raise InputError(
            f"{found.num} of {num_rows} rows in {path} are invalid, more than max_rejected={self.most} allows "
            f"({'; '.join(listed)}); correct them (they are listed in {self.path}), or raise datamodule.max_rejected"
        )


def in_words(line: Mapping[str, str | int]) -> str:
    """A listed row for people: its file, its place there, and why it is rejected."""
    unit = "line" if "line" in line else "row"
    return f"{Path(str(line['file'])).name} {unit} {line[unit]}: {line['reason']}"


def _located(found: list[RejectedRow], rows: RawRows) -> Iterator[_Located]:
    """Rows with their lines, or of Parquet, JSON arrays and addresses with their numbers."""
    for file, group in groupby(found, key=lambda row: row.file):
        if rows.dialect is None or not rows.files.local:
            yield from map(_by_number, group)
        else:
            yield from _in_lines(list(group), rows.dialect, rows.files.local[file])


def _by_number(row: RejectedRow) -> _Located:
    return (row, "line", row.line) if row.line >= 0 else (row, "row", row.row + 1)


def _in_lines(wanted: list[RejectedRow], dialect: Dialect, path: Path) -> Iterator[_Located]:
    """Rejected rows of a text file, which is read again.

    A row that DuckDB could not read begins at its byte, or behind the blank lines there. The others are counted.
    """
    csv.field_size_limit(1 << 30)
    lost = sorted((row for row in wanted if row.byte >= 0), key=lambda row: row.byte, reverse=True)
    others = {row.row: row for row in wanted if row.byte < 0}
    errors = "surrogateescape"
    with open_binary(path) as binary, io.TextIOWrapper(binary, "utf-8", errors, newline="") as text:
        taken: list[str] = []
        lines = _kept(text, taken)
        is_plain = dialect.names == ("line",)
        all_rows: Iterator[object] = lines if is_plain else _cells(lines, dialect)
        for _ in range(dialect.skip):
            next(all_rows, None)
        number, byte, place = len(taken), len("".join(taken).encode("utf-8", errors)), 0
        taken.clear()
        for _ in all_rows:
            raw = "".join(taken).encode("utf-8", errors)
            end = byte + len(raw.rstrip(b"\r\n"))
            is_blank = end == byte
            if lost and lost[-1].byte < end and not is_blank:
                yield lost.pop(), "line", number + 1
            elif is_plain or not is_blank:
                if place in others:
                    yield others.pop(place), "line", number + 1
                place += 1
            number, byte = number + len(taken), byte + len(raw)
            taken.clear()
            if not lost and not others:
                return
    yield from map(_by_number, [*lost, *others.values()])


def _kept(lines: Iterable[str], taken: list[str]) -> Iterator[str]:
    """The lines without NUL, which are also appended to a list."""
    for line in lines:
        taken.append(line)
        yield line.replace("\0", "")
