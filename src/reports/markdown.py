"""Markdown: the blocks of every report."""

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]], align: str) -> list[str]:
    """The lines of a table.

    Args:
        align: a letter for each column: l for left, r for right; numbers go right.
    """
    rule = "|".join({"l": "---", "r": "--:"}[letter] for letter in align)
    return [f"| {' | '.join(head)} |", f"|{rule}|", *(f"| {' | '.join(row)} |" for row in rows)]


def escape(text: str) -> str:
    """Text in one line that cannot end a cell of a table."""
    return text.replace("|", "\\|").replace("\n", " ")


def bullets(lines: Iterable[str]) -> str:
    """A list."""
    return "\n".join(f"- {line}" for line in lines)


def document(blocks: Iterable[str]) -> str:
    """A text of blocks: headings, paragraphs, lists, tables and pictures; empty ones are left out."""
    return "\n\n".join(filter(None, blocks)) + "\n"
