"""Progress bars; they are drawn in a terminal and in a notebook, not in a file or a pipe."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from segue.terminal.console import console


def are_drawn() -> bool:
    """Whether progress bars can be drawn; a notebook needs ipywidgets for it."""
    return console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)


@contextmanager
def progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar for `total` steps; call what it yields with the number of steps done. It disappears when it is full."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    hidden = not are_drawn()
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=hidden) as bars:
        task = bars.add_task(label, total=total)
        yield lambda steps: bars.advance(task, steps)


@contextmanager
def arm_bars(planned: Mapping[str, int]) -> Iterator[Callable[[str, int, float], None]]:
    """A bar for each arm: sessions played of those planned, and their mean time so far. They disappear when full."""
    counted = TextColumn("{task.fields[text]}")
    hidden = not are_drawn()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), counted, TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=hidden) as bars:
        lines = {arm: bars.add_task(arm, total=sessions, text="") for arm, sessions in planned.items()}

        def report(arm: str, sessions: int, mean_time: float) -> None:
            bars.update(lines[arm], advance=sessions, text=f"{mean_time:.2f} a session")

        yield report
