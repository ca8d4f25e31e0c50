"""Rejected rows: which they are, in which line of which file, why, and the file that lists them."""

import csv
import gzip
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import duckdb

from segue.datamodules.reading.dialects import Dialect
from segue.datamodules.reading.raw_rows import RawRows
from segue.errors import InputError
from segue.runs.atomic import write_whole

_MOST_LISTED = 100_000
"""Rejected rows that are listed with their line; all are counted."""

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
        byte: where its line begins, if DuckDB could not read it; otherwise -1.
        line: number of its line as DuckDB counts, if it could not read it; otherwise -1.
        reason: why.
    """

    file: int
    row: int
    byte: int
    line: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class RejectedRows:
    """All rejected rows of a source.

    Attributes:
        rows: the first of them, in the order of the files.
        by_reason: their number for each reason, without the values.
        num_lost: how many of them DuckDB could not read.
    """

    rows: list[RejectedRow]
    by_reason: Mapping[str, int]
    num_lost: int

    @property
    def num(self) -> int:
        """Number of rejected rows."""
        return sum(self.by_reason.values())


def find_rejected(database: duckdb.DuckDBPyConnection, rows: RawRows, *, has_items: bool) -> RejectedRows:
    """Collect the rejected rows of the tables `rejected` and of those lines that DuckDB could not read.

    Args:
        database: has the tables `parsed` and `rejected`.
        rows: the rows of the files.
        has_items: whether a row may have several events.
    """
    number = "row" if has_items else "rowid"
    reason = "regexp_replace(reason, ', got .*$', '')"
    counts = Counter(dict(database.execute(f"SELECT {reason}, count(*) FROM rejected GROUP BY 1").fetchall()))
    found: list[RejectedRow] = []
    if counts:
        query = f"""
            WITH files AS (SELECT file, min({number}) AS first FROM parsed GROUP BY file),
                 place AS (SELECT {number} AS row, any_value(file) AS file FROM parsed
                           WHERE {number} IN (SELECT row FROM rejected) GROUP BY 1)
            SELECT file, r.row - first, r.reason FROM rejected r JOIN place USING (row) JOIN files USING (file)
            ORDER BY r.row LIMIT {_MOST_LISTED}"""
        found = [RejectedRow(file, row, -1, -1, text) for file, row, text in database.execute(query).fetchall()]
    lost = _lost(database, rows) if rows.rejects is not None else []
    counts.update(row.reason.partition(", got ")[0] for row in lost)
    return RejectedRows(rows=sorted([*found, *lost])[:_MOST_LISTED], by_reason=dict(counts), num_lost=len(lost))


def _lost(database: duckdb.DuckDBPyConnection, rows: RawRows) -> list[RejectedRow]:
    """Lines that DuckDB could not read.

    Raises:
        InputError: a quote is not closed, therefore the lines after it are lost.
    """
    query = f"""
        SELECT file_path, line_byte_position, min(line), min(error_type::VARCHAR), min(error_message),
               max(error_type IN ('UNQUOTED VALUE', 'LINE SIZE OVER MAXIMUM')
                   AND contains(trim(csv_line, chr(10) || chr(13)), chr(10)))
        FROM {rows.rejects} JOIN scans_{rows.rejects} USING (scan_id, file_id) GROUP BY 1, 2 ORDER BY 1, 2"""
    places = {path: place for place, path in enumerate(rows.plain_paths)}
    lost = []
    for path, byte, line, kind, message, is_open in database.execute(query).fetchall():
        row = RejectedRow(places.get(path, 0), -1, max(int(byte) - 1, 0), int(line), _reason(kind, message, rows))
        if is_open:
            shown = rows.files.shown[row.file]
            number = _lines_of(Path(rows.plain_paths[row.file]), rows, [row])[0][1]
            raise InputError(
                f"{shown} line {number}: a quote is not closed, and the lines after it cannot be read; correct the "
                "line, or give datamodule.files.quote='' if quotes are a part of the text"
            )
        lost.append(row)
    return lost


def _reason(kind: str, message: str, rows: RawRows) -> str:
    if kind in ("MISSING COLUMNS", "TOO MANY COLUMNS"):
        found = re.search(r"Found: (\d+)", message)
        num = len(rows.columns)
        return f"a line must have {num} column{'s' * (num > 1)}" + (f", got {found[1]}" if found else "")
    return _REASONS.get(kind, kind.lower()).format(encoding=rows.encoding.upper())


@dataclass(frozen=True, kw_only=True)
class Rejections:
    """Where rejected rows are listed.

    Args:
        path: the file; it is written only if there are any.
        with_text: whether it has the text of the rows, which may have ids of users.
    """

    path: Path
    with_text: bool

    def write(self, found: RejectedRows, rows: RawRows) -> None:
        """Write one JSON object for each rejected row: file, line or row, reason, and the text if wanted."""
        if found.num:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lines = _located(found.rows, rows, with_text=self.with_text)
            write_whole(self.path, lambda partial: _write_lines(partial, lines))

    def examples(self, found: RejectedRows, rows: RawRows, num: int = 3) -> list[dict[str, str | int]]:
        """The first rejected rows, as they are written."""
        return list(_located(found.rows[:num], rows, with_text=False))

    def too_many(self, found: RejectedRows, num_rows: int, path: str, max_rejected: float, rows: RawRows) -> str:
        """The message for a source that has too many of them."""
        reasons = sorted(found.by_reason.items(), key=lambda entry: -entry[1])[:3]
        firsts = [
            next((row for row in found.rows if row.reason.startswith(reason)), None)  # all are listed up to a limit
            for reason, _ in reasons
        ]
        listed = []
        for (reason, num), row in zip(reasons, firsts, strict=True):
            [example] = _located([row], rows, with_text=False) if row else [{}]
            unit = next((unit for unit in ("line", "row") if unit in example), None)
            where = f"{Path(str(example['file'])).name} {unit} {example[unit]}: " if unit else ""
            more = f" ({num:,} times)" if num > 1 else ""
            listed.append(f"{where}{row.reason if row else reason}{more}")
        return (
            f"{found.num} of {num_rows} rows in {path} are invalid, more than max_rejected={max_rejected} allows "
            f"({'; '.join(listed)}); correct them (they are listed in {self.path}), or raise datamodule.max_rejected"
        )


def _write_lines(path: Path, lines: Iterable[Mapping[str, str | int]]) -> None:
    with path.open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def _located(found: list[RejectedRow], rows: RawRows, *, with_text: bool) -> Iterator[dict[str, str | int]]:
    """Rejected rows with their line in the file (of Parquet and JSON arrays: their number), and their text."""
    for file, group in groupby(found, key=itemgetter(0)):
        wanted = list(group)
        shown = rows.files.shown[file]
        lines = _lines_of(Path(rows.plain_paths[file]), rows, wanted)
        located_rows = zip(wanted, lines, strict=True)
        for row, (unit, line, text) in sorted(located_rows, key=lambda pair: pair[1][1]):
            located: dict[str, str | int] = {"file": shown, unit: line, "reason": row.reason}
            yield {**located, "text": text} if with_text and text is not None else located


def _lines_of(path: Path, rows: RawRows, wanted: list[RejectedRow]) -> list[tuple[str, int, str | None]]:
    """Unit (`line` or `row`), number and text of rejected rows of one file."""
    dialect = rows.dialect
    if dialect is None or not rows.files.is_local or path.suffix == ".zst":
        return [("row", row.row + 1, None) if row.line < 0 else ("line", row.line, None) for row in wanted]
    lost = _line_numbers(path, rows.encoding, [row.byte for row in wanted if row.byte >= 0])
    rest = {row.row for row in wanted if row.row >= 0}
    read = _read_rows(path, dialect, rows.encoding, rest, {number for number, _ in lost.values()})
    return [("line", *(lost[row.byte] if row.byte >= 0 else read.get(row.row, (0, None)))) for row in wanted]


def _open(path: Path) -> gzip.GzipFile | io.BufferedReader:
    return gzip.GzipFile(path) if path.suffix == ".gz" else path.open("rb")


class _AsUtf8(io.RawIOBase):
    """A text of another encoding as the bytes that DuckDB counts: UTF-8."""

    def __init__(self, text: io.TextIOBase) -> None:
        self._text, self._rest = text, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._rest = self._rest or self._text.read(1 << 20).encode()
        num = min(len(buffer), len(self._rest))
        buffer[:num], self._rest = self._rest[:num], self._rest[num:]
        return num


def _line_numbers(path: Path, encoding: str, positions: list[int]) -> dict[int, tuple[int, str]]:
    """Number and text of the line that begins at each byte, or at the first byte after it that ends no line."""
    found: dict[int, tuple[int, str]] = {}
    if not positions:
        return found
    with _open(path) as binary:
        text = binary
        if encoding != "utf-8":
            name = "utf-16-le" if encoding == "utf-16" else encoding  # DuckDB counts the mark
            decoded = io.TextIOWrapper(binary, encoding=name, errors="replace", newline="")
            text = io.BufferedReader(_AsUtf8(decoded), 1 << 20)
        rest = text.read(1 << 20)  # what was read beyond `at`
        end = b"\n" if b"\n" in rest else b"\r"
        number = at = 0
        for position in sorted(set(positions)):
            while at + len(rest) < position + 400 and (block := text.read(1 << 20)):
                skipped, rest = rest[: position - at], rest[position - at :]
                number, at = number + skipped.count(end), at + len(skipped)
                rest += block
            number, at, rest = number + rest[: position - at].count(end), position, rest[position - at :]
            line = rest[:400].lstrip(b"\r\n")
            blank = rest[: len(rest[:400]) - len(line)].count(end)
            found[position] = number + blank + 1, re.split(rb"[\r\n]", line, maxsplit=1)[0].decode("utf-8", "replace")
    return found


def _read_rows(
    path: Path, dialect: Dialect, encoding: str, wanted: set[int], lost: set[int]
) -> dict[int, tuple[int, str | None]]:
    """Line and text of rows, by their number among the rows that DuckDB could read."""
    found: dict[int, tuple[int, str | None]] = {}
    if not wanted:
        return found
    csv.field_size_limit(1 << 30)
    is_plain = dialect.delimiter == "\x01"
    with _open(path) as binary:
        lines = _text_lines(binary, encoding)
        for _ in range(dialect.skip):
            next(lines, "")
        taken: list[str] = []
        rows: Iterable[list[str]] = (
            ([line] for line in _kept(lines, taken))
            if is_plain
            else csv.reader(
                _kept(lines, taken), delimiter=dialect.delimiter, quotechar=dialect.quote or None,
                quoting=csv.QUOTE_MINIMAL if dialect.quote else csv.QUOTE_NONE,
            )
        )  # fmt: skip
        number, row, last = dialect.skip + 1, 0, max(wanted)
        for cells in rows:
            start, number = number, number + len(taken)
            text = "".join(taken).rstrip("\r\n")
            taken.clear()
            if start in lost or (not cells and not is_plain):
                continue
            if row in wanted:
                found[row] = start, text
            if row == last:
                break
            row += 1
    return found


def _kept(lines: Iterator[str], taken: list[str]) -> Iterator[str]:
    """The lines, which are also appended to a list."""
    for line in lines:
        taken.append(line)
        yield line


def _text_lines(binary: gzip.GzipFile | io.BufferedReader, encoding: str) -> Iterator[str]:
    """The lines of a text; CR alone ends a line if the first bytes have no LF."""
    name = "utf-8-sig" if encoding == "utf-8" else encoding
    text = io.TextIOWrapper(binary, encoding=name, errors="replace", newline="")
    start = text.read(1 << 16)
    text.seek(0)
    if "\n" in start or "\r" not in start:
        yield from (line.replace("\0", "") for line in text)
        return
    for line in text.read().split("\r"):
        yield line + "\r"
