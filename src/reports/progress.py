"""Progress bars; they are drawn in a terminal and in a notebook, not in a file or a pipe."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from segue.reports.console import console

_DELAY_S = 0.5  # shorter work has no bar in a notebook


class NotebookBars:
    """The bars of rich's `Progress`, drawn by tqdm as lines of text: in a notebook, rich draws widgets."""

    def __init__(self) -> None:
        self._bars: list[Any] = []

    def __enter__(self) -> "NotebookBars":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def add_task(self, label: str, *, total: int, **_: Any) -> TaskID:
        """Add a bar."""
        from tqdm.std import tqdm

        self._bars.append(
            tqdm(total=total, desc=label, leave=False, file=sys.stdout, position=len(self._bars), delay=_DELAY_S)
        )
        return TaskID(len(self._bars) - 1)

    def update(
        self, task: TaskID, *, completed: int | None = None, advance: int = 0, description: str = "", **shown: str
    ) -> None:
        """Move a bar.

        Args:
            completed: number of steps done.
            advance: number of steps done since the last call.
            description: before the bar; by default as it was.
            shown: texts after the bar.
        """
        bar = self._bars[task]
        bar.update(advance if completed is None else completed - bar.n)
        if description:
            bar.set_description_str(description, refresh=False)
        for text in shown.values():
            bar.set_postfix_str(text)

    def advance(self, task: TaskID, steps: int) -> None:
        """Move a bar by some steps."""
        self.update(task, advance=steps)

    def start(self) -> None:
        """Nothing: bars are drawn when they are added."""

    def start_task(self, _: TaskID) -> None:
        """Nothing, likewise."""

    def stop(self) -> None:
        """Remove the bars."""
        for bar in self._bars:
            bar.close()


def bars(*columns: ProgressColumn) -> Progress | NotebookBars:
    """Bars that disappear when they are stopped; not drawn in a file or a pipe."""
    if console.is_jupyter:
        return NotebookBars()
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


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
