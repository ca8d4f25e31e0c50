"""How text files are written: their delimiter, quotes and names of columns."""

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from segue.datamodules.reading.files import Files, quote_of
from segue.datamodules.reading.queries import Database, quoted_text
from segue.datamodules.reading.table_settings import FileFormat
from segue.errors import InputError

MOST_REJECTED = 1_000_000
"""Lines of one file that DuckDB may reject; each is kept in memory. With more, the format is wrong."""
_NUM_LINES = 200  # first lines that show the delimiter and the names
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
    """How csv files are written: what the settings say, otherwise what the first lines show.

    Raises:
        InputError: the files have different columns, or two columns of one name.
    """
    quote, key = quote_of(settings, "csv"), settings.group
    query = f"SELECT COALESCE(line, '') FROM {Dialect(encoding=encoding, skip=settings.skip).scan()} LIMIT {_NUM_LINES}"
    starts = [
        [f"{line}\n" for (line,) in replace(files, paths=[path], shown=[shown]).run(database, query).fetchall()]
        for path, shown in zip(files.paths, files.shown, strict=True)
    ]
    delimiter = settings.delimiter.replace("\\t", "\t")
    if delimiter == "auto":
        widths = {one: Counter(map(len, _rows(starts[0], one, quote))).most_common(1)[:1] for one in ",;\t|"}
        delimiter = max(widths, key=lambda one: [(num, width) for width, num in widths[one] if width > 1])
    firsts = [[cell.strip() for cell in next(iter(_rows(lines, delimiter, quote)), [])] for lines in starts]
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


def _rows(lines: Sequence[str], delimiter: str, quote: str) -> list[list[str]]:
    """The rows of the first lines, without blank ones. The last one may end early."""
    texts = [line.replace(delimiter, "\x02") for line in lines] if delimiter else lines
    csv.field_size_limit(1 << 30)
    return list(filter(None, csv.reader(texts, delimiter="\x02", quotechar=quote or None, quoting=0 if quote else 3)))


def _is_header(cells: Sequence[str]) -> bool:
    """Whether a first row has names: every cell has a text that is no value.

    The first or the last may be empty: an index of pandas, or a delimiter at the end of each line.
    """
    names = cells[not cells[0] : len(cells) - (not cells[-1])] if len(cells) > 1 else cells
    return bool(names) and all(cell and not _VALUE.fullmatch(cell) for cell in names)
