"""Engines: where the parts of a preparation are computed. In this process, or on Spark.

DuckDB reads the source and divides its events by listeners. Then tasks run, each of which needs the memory of a part;
an engine decides where and when, and knows nothing of pairs.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar, runtime_checkable

Task = TypeVar("Task")
Result = TypeVar("Result")

_EVENTS_OF_PART = 4_000_000
"""Events that are in memory at once, unless one listener has more."""


@runtime_checkable
class Engine(Protocol):
    """Runs tasks that do not depend on each other.

    Attributes:
        name: its name in `conf/engine/`.
    """

    name: str

    def begin(self) -> None:
        """Get ready, before the source is read.

        Raises:
            InputError: the engine cannot be started.
        """
        ...

    def num_parts(self, num_events: int) -> int:
        """Into how many parts the listeners of so many events are divided."""
        ...

    def map(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        """Call a function for each task.

        Args:
            function: it and its result can be pickled; it reads and writes files of the run folder.
            tasks: the arguments.

        Yields:
            The result of each task, in their order.
        """
        ...

    def end(self) -> None:
        """Give back what the engine holds."""
        ...


class DuckDBEngine:
    """One task after the other, in this process, whose DuckDB has read the source."""

    name = "duckdb"

    def begin(self) -> None:
        """Do nothing."""

    def num_parts(self, num_events: int) -> int:
        """As many as keep a part small."""
        return -(-num_events // _EVENTS_OF_PART)

    def map(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        """Call a function for each task, when its result is asked for."""
        return map(function, tasks)

    def end(self) -> None:
        """Do nothing."""
