"""Engines: where the parts of a preparation are computed. In this process, or on Spark.

DuckDB reads the files of the source, whatever they are, and divides its events by listeners. Then tasks run, each of
which needs the memory of a part; an engine decides where and when, and knows nothing of pairs.
"""

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from segue.errors import InputError
from segue.runs.provenance import ROOT
from segue.settings import Setting, settings

Task = TypeVar("Task")
Result = TypeVar("Result")

_EVENTS_OF_PART = 4_000_000  # events that are in memory at once, unless one listener has more


class DuckDBEngine:
    """Runs tasks that do not depend on each other one after the other, in the process whose DuckDB reads the source."""

    name = "duckdb"

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


@settings("spark")
class SparkEngine(DuckDBEngine):
    """Tasks as Python functions on Spark: on the cores of this machine, or on a cluster.

    All machines must see the run folder, and have Python with Segue installed.

    Args:
        conf: settings of Spark; `more` come after them.

    Raises:
        InputError: Java is missing, or Spark does not start.
    """

    name = "spark"

    def __init__(
        self,
        *,
        master: Annotated[str, Setting("local[*], spark://<host>:<port>, yarn or k8s://<address>")],
        partitions: Annotated[int, Setting("number of parts into which the listeners are divided", least=1)],
        conf: Mapping[str, Any],
        more: Mapping[str, Any],
    ) -> None:
        check_spark()
        from pyspark.sql import SparkSession

        self._partitions = partitions
        if master.startswith("local"):
            os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        builder = SparkSession.builder.master(master).appName("segue prepare")
        for name, value in {**conf, "spark.executorEnv.PYTHONPATH": str(ROOT), **more}.items():
            builder = builder.config(name, str(value))
        try:
            self._context = builder.getOrCreate().sparkContext
        except Exception as error:  # Java's errors have no class of their own; its line begins with a colon
            lines = [line.removeprefix(": ") for line in str(error).splitlines() if line.startswith(": ")]
            raise InputError(f"spark.master={master} cannot be used: {' '.join(lines[:1]) or error}") from None
        self._context.setLogLevel("ERROR")

    def num_parts(self, num_events: int) -> int:  # noqa: ARG002 - the user knows the cluster
        """As the settings say."""
        return self._partitions

    def map(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        """Call a function for all tasks, side by side. Spark keeps the results on disk until they are asked for."""
        from pyspark import StorageLevel

        results = self._context.parallelize(tasks, max(1, len(tasks))).map(function).persist(StorageLevel.DISK_ONLY)
        results.count()  # all side by side: toLocalIterator alone would compute one after another
        yield from results.toLocalIterator()
        results.unpersist()


def check_spark() -> None:
    """Refuse to begin without pyspark or Java.

    Raises:
        ModuleNotFoundError: pyspark is missing.
        InputError: Java is missing.
    """
    import pyspark  # noqa: F401

    home = os.environ.get("JAVA_HOME")
    if shutil.which(str(Path(home, "bin", "java")) if home else "java") is None:
        where = f"JAVA_HOME={home} has none" if home else "there is no java"
        raise InputError(
            f"engine=spark needs Java 17 or newer, and {where}; on Debian: apt-get install openjdk-17-jre-headless"
        )
