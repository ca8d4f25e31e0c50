"""Rejected rows: which they are, where they are, why, and the file that lists them."""

import csv
import io
import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from segue.datamodules.reading.plain_text import open_binary
from segue.datamodules.reading.raw_rows import RawRows
from segue.errors import InputError
from segue.runs.catalog_files import write_lines

_MOST_LISTED = 100_000  # rejected rows that are listed with their place; all are counted
_END = "\x02"  # a line that is put behind the last one of a file
_REASONS = {
    "INVALID ENCODING": "the line is not {encoding}; give datamodule.files.encoding=<name>, such as windows-1252",
    "LINE SIZE OVER MAXIMUM": "the line is longer than 2 MiB",
    "UNQUOTED VALUE": "a quote is not closed",
}


@dataclass(frozen=True, kw_only=True)
class RejectedRows:
    """All rejected rows of a source.

    Attributes:
        lines: the first of them: file, `line` or `row`, reason. A row is counted from 1 among those of its file that
            DuckDB could read, without the names of the columns.
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
    """Collect the lines that DuckDB could not read and the rows of the table `rejected`.

    Args:
        rows: the rows of the files; their database has the tables `parsed` and `rejected`.
        has_items: whether a row may have several events.

    Raises:
        InputError: a quote is not closed, therefore the lines after it are lost.
    """
    if rows.has_lines_in_cells:
        _refuse_open_quote(rows)
    lost = _lost(rows)
    counts = Counter(reason for of_file in lost.values() for reason in of_file.values())
    lines: list[dict[str, str | int]] = [
        {"file": rows.files.shown[file], "line": line, "reason": reason}
        for file, of_file in lost.items()
        for line, reason in of_file.items()
    ]
    number, reason = "row" if has_items else "rowid", "regexp_replace(reason, ', got .*$', '')"
    counts.update(dict(rows.database.execute(f"SELECT {reason}, count(*) FROM rejected GROUP BY 1").fetchall()))
    query = f"""
        WITH files AS (SELECT file, min({number}) AS first FROM parsed GROUP BY file),
             place AS (SELECT {number} AS row, any_value(file) AS file FROM parsed
                       WHERE {number} IN (SELECT row FROM rejected) GROUP BY 1)
        SELECT file, r.row - first + 1, r.reason FROM rejected r JOIN place USING (row) JOIN files USING (file)
        ORDER BY r.row LIMIT {_MOST_LISTED}"""
    for file, row, why in rows.database.execute(query).fetchall():
        place: dict[str, str | int] = {"row": row}
        if rows.has_blank_lines and rows.dialect is not None:  # a row is a line
            line = rows.dialect.skip + row
            for other in lost[file]:
                line += other <= line
            place = {"line": line}
        lines.append({"file": rows.files.shown[file], **place, "reason": why})
    num_lost = sum(map(len, lost.values()))
    return RejectedRows(lines=lines[:_MOST_LISTED], by_reason=dict(counts), num_lost=num_lost)


def _lost(rows: RawRows) -> dict[int, dict[int, str]]:
    """The reason of each line that DuckDB could not read, by the place of its file and its number."""
    lost = defaultdict[int, dict[int, str]](dict)
    if rows.rejects is None:
        return lost
    query = f"""SELECT file_path, line, min(error_type::VARCHAR), min(error_message)
        FROM {rows.rejects} JOIN scans_{rows.rejects} USING (scan_id, file_id) GROUP BY ALL ORDER BY ALL"""
    places = {str(path): place for place, path in enumerate(rows.files.local)}
    for path, line, kind, message in rows.database.execute(query).fetchall():
        reason = _REASONS.get(kind, kind.lower()).format(encoding=rows.encoding.upper())
        if kind in ("MISSING COLUMNS", "TOO MANY COLUMNS"):
            found, num = re.search(r"Found: (\d+)", message), len(rows.types)
            reason = f"a line must have {num} column{'s' * (num > 1)}" + (f", got {found[1]}" if found else "")
        lost[places.get(path, 0)][int(line)] = reason
    return lost


def _refuse_open_quote(rows: RawRows) -> None:
    """Refuse a file that ends inside of a cell. One thread of DuckDB leaves out this row without a word.

    Raises:
        InputError: there is such a file.
    """
    if (dialect := rows.dialect) is None:
        return
    for path, shown in zip(rows.files.local, rows.files.shown, strict=False):
        with open_binary(path) as binary, io.TextIOWrapper(binary, "utf-8", "replace", newline="") as text:
            last, begins, ends = list[str](), 0, 0
            lines = itertools.chain(text, [_END])
            reader = csv.reader(lines, delimiter=dialect.delimiter[0], quotechar=dialect.quote)
            for row in reader:
                last, begins, ends = row, ends + 1, reader.line_num
            if last != [_END]:
                raise InputError(
                    f"{shown} line {begins}: a quote is not closed, and the lines after it cannot be read; correct the "
                    "line, or give datamodule.files.quote='' if quotes are a part of the text"
                )


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
