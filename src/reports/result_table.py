"""A table of a result: it is built once, and shown in the terminal, in Markdown and as plain values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.box import HEAVY_HEAD, SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.table import Table as RichTable
from rich.text import Text

from segue.reports import markdown

Cell = str | Text


def styled(text: str, style: str) -> Text:
    """A cell, or a part of one, in bold, dim or a colour; Markdown has bold alone."""
    return Text.assemble((text, style))


@dataclass(frozen=True, kw_only=True)
class Table:
    """Columns, and a row of cells for each line.

    Args:
        columns: their names. A line break is one in the terminal.
        rows: the cells of each row. A `Text` has styles, or says how it is cut.
        align: a letter for each column: l for text, r for numbers; L and R are never broken over lines.
        title: above it, in the terminal.
        notes: below it, in the terminal.
        look: in the terminal: in a box, with lines between the rows too, or open.
        is_apart: whether title and notes may be wider than the table.
        ratios: widths of the columns to each other, of a table of a given width; empty: as wide as the cells are.
        width: columns of the terminal that it fills at most; None: as wide as the cells are.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    align: str
    title: str = ""
    notes: Sequence[str] = ()
    look: Literal["box", "lines", "open"] = "box"
    is_apart: bool = False
    ratios: Sequence[int] = ()
    width: int | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = RichTable(box=SIMPLE_HEAD if self.look == "open" else HEAVY_HEAD, show_lines=self.look == "lines")
        ratios: Sequence[int | None] = self.ratios or [None] * len(self.columns)
        for name, letter, ratio in zip(self.columns, self.align, ratios, strict=True):
            side: Literal["left", "right"] = "left" if letter in "lL" else "right"
            table.add_column(escape(name), justify=side, no_wrap=letter.isupper(), ratio=ratio)
        for row in self.rows:
            table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
        table.width = self.width and min(self.width, options.max_width)
        if not self.is_apart:
            table.title, table.caption = escape(self.title) or None, escape("\n".join(self.notes)) or None
            table.title_justify = table.caption_justify = "left"
        yield from [Text(self.title, "bold")] * self.is_apart
        yield table
        yield from (Text(note, "italic") for note in self.notes if self.is_apart)

    def markdown(self) -> str:
        """The table in Markdown, without its title and its notes."""
        rows = ([_in_markdown(cell) for cell in row] for row in self.rows)
        return "\n".join(markdown.table([*map(markdown.escape, self.columns)], rows, self.align.lower()))

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
