"""Engines: where the parts of a preparation are computed. In this process, or on Spark.

DuckDB reads the source and divides its events by listeners. Then tasks run, each of which needs the memory of a part;
an engine decides where and when, and knows nothing of pairs.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

_EVENTS_OF_PART = 4_000_000
"""Events that are in memory at once, unless one listener has more."""


class DuckDBEngine:
    """Runs tasks that do not depend on each other: one after the other, in this process, whose DuckDB reads the source.

    Attributes:
        name: of the engine in `conf/engine/`.
    """

    name = "duckdb"

    def begin(self) -> None:
        """Get ready, before the source is read.

        Raises:
            InputError: the engine cannot be started.
        """

    def num_parts(self, num_events: int) -> int:
        """Into how many parts the listeners of so many events are divided."""
        return -(-num_events // _EVENTS_OF_PART)

    def map(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        """Call a function for each task.

        Args:
            function: it and its result can be pickled; it reads and writes files of the run folder.
            tasks: the arguments.

        Returns:
            The result of each task, in their order; computed when it is asked for.
        """
        return map(function, tasks)

    def end(self) -> None:
        """Give back what the engine holds."""
