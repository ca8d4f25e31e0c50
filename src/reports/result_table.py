"""A table of a result: it is built once, and shown in the terminal, in Markdown and as plain values."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from rich.box import HEAVY_HEAD, SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.table import Table as RichTable
from rich.text import Text

from segue.reports import markdown

Cell = str | Text

_NARROW = 10  # columns of the terminal in which a text can be broken over lines


def styled(text: str, style: str) -> Text:
    """A cell, or a part of one, in bold, dim or a colour; Markdown has bold alone."""
    return Text.assemble((text, style))


@dataclass(frozen=True, kw_only=True)
class Table:
    """Columns, and a row of cells for each line.

    Args:
        columns: their names. A line break, as in a cell, is one in the terminal.
        rows: the cells of each row. A `Text` has styles, or says how it is cut.
        align: a letter for each column: l for text, r for numbers; L and R are never broken over lines.
        title: above it, in the terminal.
        notes: below it.
        look: in the terminal: in a box, with lines between the rows too, or open.
        keeps: columns that every terminal shows, however narrow; those after them where it has room. None: all.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    align: str
    title: str = ""
    notes: Sequence[str] = ()
    look: Literal["box", "lines", "open"] = "box"
    keeps: int | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        num = len(self.columns) if self.keeps is None else max(self.keeps, self._fitting(options.max_width))
        table = RichTable(box=SIMPLE_HEAD if self.look == "open" else HEAVY_HEAD, show_lines=self.look == "lines")
        for name, letter in zip(self.columns[:num], self.align, strict=False):
            table.add_column(escape(name), justify="left" if letter in "lL" else "right", no_wrap=letter.isupper())
        for row in self.rows:
            table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row[:num]))
        left_out = [f"{len(self.columns) - num} more columns are in the report"] * (num < len(self.columns))
        yield from [Text(self.title, "bold")] * bool(self.title)
        yield table
        yield from (Text(note, "italic") for note in [*left_out, *self.notes])

    def _fitting(self, width: int) -> int:
        """How many columns fit into a terminal."""
        cells = zip(self.align, zip(self.columns, *self.rows, strict=True), strict=True)
        widths = (
            min(
                max(len(line) for cell in column for line in str(cell).split("\n")), _NARROW if letter == "l" else width
            )
            for letter, column in cells
        )
        return sum(end < width for end in accumulate(3 + one for one in widths))

    def markdown(self) -> str:
        """The table in Markdown, without its title and its notes."""
        rows = ([_in_markdown(cell) for cell in row] for row in self.rows)
        names = (markdown.escape(name.replace("/\n", "/").replace("\n_", "_")) for name in self.columns)
        return "\n".join(markdown.table([*names], rows, self.align.lower()))

    def record(self) -> dict[str, list[str]]:
        """The cells of each column as plain text, by its name."""
        columns = zip(self.columns, zip(*self.rows, strict=True), strict=True)
        return {name: [str(cell) for cell in cells] for name, cells in columns}


def _in_markdown(cell: Cell) -> str:
    if isinstance(cell, str):
        return markdown.escape(cell)
    text = cell.plain
    for span in reversed(cell.spans):
        if "bold" in str(span.style):
            text = f"{text[: span.start]}**{text[span.start : span.end]}**{text[span.end :]}"
    return markdown.escape(text)
