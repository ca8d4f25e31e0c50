"""Progress bars; they are drawn in a terminal, not in a file, a pipe or a notebook."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from segue.reports.console import console


def bars(*columns: ProgressColumn) -> Progress:
    """Bars that disappear when they are stopped; rich would draw widgets in a notebook."""
    is_shown = console.is_terminal and not console.is_jupyter
    return Progress(*columns, console=console, transient=True, disable=not is_shown)


@contextmanager
def progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar for `total` steps; call what it yields with the number of steps done. It disappears when it is full."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with bars(*columns, TimeRemainingColumn()) as drawn:
        task = drawn.add_task(label, total=total)
        yield lambda steps: drawn.advance(task, steps)


@contextmanager
def arm_bars(planned: Mapping[str, int]) -> Iterator[Callable[[str, int, float], None]]:
    """A bar for each arm: sessions played of those planned, and their mean time so far. They disappear when full."""
    counted = TextColumn("{task.fields[text]}")
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), counted, TimeRemainingColumn()
    with bars(*columns) as drawn:
        lines = {arm: drawn.add_task(arm, total=sessions, text="") for arm, sessions in planned.items()}

        def report(arm: str, sessions: int, mean_time: float) -> None:
            drawn.update(lines[arm], advance=sessions, text=f"{mean_time:.2f} a session")

        yield report
