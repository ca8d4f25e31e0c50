"""Markdown: the blocks of every report."""

from collections.abc import Iterable, Sequence

_RULES = {"l": "---", "r": "--:"}


def table(head: Sequence[str], rows: Iterable[Sequence[str]], align: str) -> list[str]:
    """The lines of a table.

    Args:
        head: names of the columns.
        rows: cells of each row.
        align: a letter for each column: l for left, r for right; numbers go right.
    """
    lines = [_line(head), f"|{'|'.join(_RULES[letter] for letter in align)}|"]
    return [*lines, *(_line(row) for row in rows)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def escape(text: str) -> str:
    """Text that cannot end a cell of a table."""
    return text.replace("|", "\\|")


def bullets(lines: Iterable[str]) -> str:
    """A list."""
    return "\n".join(f"- {line}" for line in lines)


def document(blocks: Iterable[str]) -> str:
    """A text of blocks: headings, paragraphs, lists, tables and pictures; empty ones are left out."""
    return "\n\n".join(filter(None, blocks)) + "\n"
