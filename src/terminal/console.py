"""The two streams that a person reads: `console` for results, `errors` for what went wrong."""

from collections.abc import Iterable

from rich.console import Console
from rich.markup import escape

console = Console(highlight=False, emoji=False)
errors = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def show_lines(lines: Iterable[tuple[str, str]]) -> None:
    """Print lines such as the run folder, each after its name."""
    for name, line in lines:
        console.print(f"{name:12} {line}", soft_wrap=True, markup=False)


def warn(line: str) -> None:
    """Print a warning.

    Args:
        line: what is wrong, and the remedy.
    """
    errors.print(f"[bold yellow]warning:[/] {escape(line)}")
