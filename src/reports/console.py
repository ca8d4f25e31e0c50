"""The two streams that a person reads: `console` for results, `errors` for what went wrong."""

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from rich.console import Console
from rich.control import Control
from rich.markup import escape


class Printed(Console):
    """What was printed, to be shown later: as text or as HTML, in lines of 120 columns."""

    def __init__(self) -> None:
        super().__init__(file=io.StringIO(), record=True, width=120, highlight=False, emoji=False, force_jupyter=False)

    def text(self) -> str:
        """All of it as text."""
        return self.export_text(clear=False).rstrip("\n")

    def html(self) -> str:
        """All of it as an HTML element, with colours that are readable on light and dark pages."""
        style = "white-space:pre;overflow-x:auto;font:0.85em/1.3 monospace;background:none"
        form = f'<pre style="{style}">{{code}}</pre>'
        page = self.export_html(clear=False, inline_styles=True, code_format=form)
        return page.replace("color: #000000; text-decoration-color: #000000;", "").replace("#7f7f7f", "#808080")


class _Results(Console):
    """A console whose results can be kept instead of printed. Progress bars are always drawn."""

    kept: Printed | None = None

    def print(self, *objects: Any, **how: Any) -> None:
        """Print, or keep."""
        if self.kept is None or any(isinstance(one, Control) for one in objects):
            super().print(*objects, **how)
        else:
            self.kept.print(*objects, **how)

    def status(self, *words: Any, **how: Any) -> Any:
        """Show what is being done; not in a notebook, where it would leave lines."""
        return nullcontext() if self.is_jupyter else super().status(*words, **how)


console = _Results(highlight=False, emoji=False)
errors = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def show_lines(lines: Iterable[tuple[str, str]]) -> None:
    """Print where the results are and what to type next, each line after its name; not where results are kept."""
    for name, line in lines if console.kept is None else ():
        console.print(f"{name:12} {line}", soft_wrap=True, markup=False)


def warn(line: str) -> None:
    """Print a warning."""
    errors.print(f"[bold yellow]warning:[/] {escape(line)}")


@contextmanager
def keeping() -> Iterator[Printed]:
    """Keep results instead of printing them."""
    before, console.kept = console.kept, Printed()
    try:
        yield console.kept
    finally:
        console.kept = before
