"""Rows that two stray quotes have swallowed: they are in the text of one cell, and no row."""

from dataclasses import dataclass

from segue.datamodules.reading.queries import quoted_name, quoted_text
from segue.datamodules.reading.raw_rows import FILE, RawRows
from segue.datamodules.reading.rejected_rows import RejectedRow, located

_MANY_LINES = 20  # ends of lines in a cell that are suspicious whatever the lines are


@dataclass(frozen=True, kw_only=True)
class SwallowedRows:
    """Cells that seem to have rows in their text.

    Args:
        file: the file of the first one.
        line: the line in which its row begins.
        num_lines: number of ends of lines in all of them.
    """

    file: str
    line: int
    column: str
    num_lines: int
    num_cells: int

    REMEDY = "if quotes are a part of the text, give datamodule.files.quote=''"

    def __str__(self) -> str:
        others = f", and {self.num_cells - 1:,} other cells" if self.num_cells > 1 else ""
        return (
            f"{self.num_lines:,} ends of lines are inside cells, as if two stray quotes had swallowed rows: column "
            f"{self.column} of the row at {self.file} line {self.line}{others}"
        )


def find_swallowed(rows: RawRows) -> SwallowedRows | None:
    """Find cells with rows in their text: as many delimiters as rows have, or many ends of lines.

    The files are read again, but only if a quote is open at the end of a line.
    """
    dialect = rows.dialect
    if dialect is None or not rows.has_lines_in_cells or not rows.files.local:
        return None
    names, size = list(dialect.names), len(dialect.delimiter)
    delimiter = quoted_text(dialect.delimiter)
    cells = ", ".join(map(quoted_name, names))
    texts = ", ".join(map(quoted_text, names))
    has_lines = " OR ".join(f"contains({quoted_name(name)}, chr(10))" for name in names)
    looks_like_rows = f"num_delimiters = num_lines * {len(names) - 1}" if len(names) > 1 else "FALSE"
    query = f"""
        WITH raw AS (SELECT *, row_number() OVER () - 1 AS row_of_all FROM ({rows.of_files()})),
             first AS (SELECT {FILE}, min(row_of_all) AS first FROM raw GROUP BY 1),
             cells AS (SELECT {FILE}, row_of_all, unnest([{cells}]) AS cell, unnest([{texts}]) AS name
                       FROM raw WHERE {has_lines}),
             counted AS (SELECT * EXCLUDE cell, length(cell) - length(replace(cell, chr(10), '')) AS num_lines,
                                (length(cell) - length(replace(cell, {delimiter}, ''))) / {size} AS num_delimiters
                         FROM cells WHERE contains(cell, chr(10))),
             found AS (SELECT * FROM counted WHERE num_lines >= {_MANY_LINES} OR {looks_like_rows})
        SELECT {FILE}, row_of_all - first, name, (SELECT sum(num_lines) FROM found), (SELECT count(*) FROM found)
        FROM found JOIN first USING ({FILE}) ORDER BY row_of_all LIMIT 1"""
    for file, row, name, num_lines, num_cells in rows.run(query).fetchall():
        [(_, _, line, _)] = located([RejectedRow(file, row, -1, -1, "")], rows)
        return SwallowedRows(
            file=rows.files.shown[file], line=line, column=name, num_lines=int(num_lines), num_cells=num_cells
        )
    return None
