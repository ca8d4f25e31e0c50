"""Engines: where the parts of a preparation are computed. In this process, or on Spark.

DuckDB reads the files of the source, whatever they are, and divides its events by listeners. Then tasks run, each of
which needs the memory of a part; an engine decides where and when, and knows nothing of pairs.
"""

import os
import shutil
import socket
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


@settings("spark")
class SparkEngine(DuckDBEngine):
    """Tasks as Python functions on Spark: on the cores of this machine, or on a cluster.

    All machines must see the run folder, and have Python with Segue installed.

    Raises:
        InputError: pyspark or Java is missing, a setting is out of range, or nobody answers for `spark://…`.
    """

    name = "spark"

    def __init__(
        self,
        *,
        master: Annotated[str, Setting("local[*], spark://<host>:<port>, yarn or k8s://<address>")],
        driver_memory: Annotated[str, Setting("memory of this process for Spark, such as 4g")],
        executor_memory: Annotated[str, Setting("memory of the Python processes of each executor of a cluster")],
        partitions: Annotated[int, Setting("number of parts into which the listeners are divided", least=1)],
        conf: Mapping[str, Any],
    ) -> None:
        check_spark()
        if master.startswith("spark://"):
            _refuse_nobody(master)
        self._master, self._partitions = master, partitions
        self._conf = {
            "spark.driver.memory": driver_memory,
            "spark.executor.memoryOverhead": executor_memory,  # the memory that is not Java's
            "spark.executorEnv.PYTHONPATH": str(ROOT),
            "spark.ui.enabled": "false",
            "spark.ui.showConsoleProgress": "false",
            **conf,
        }
        self._session: Any = None

    def begin(self) -> None:
        """Start Spark.

        Raises:
            InputError: Spark does not start.
        """
        from pyspark.sql import SparkSession

        if self._master.startswith("local"):
            os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        builder = SparkSession.builder.master(self._master).appName("segue prepare")
        for name, value in self._conf.items():
            builder = builder.config(name, str(value))
        try:
            self._session = builder.getOrCreate()
        except Exception as error:  # Java's errors have no class of their own
            raise InputError(f"spark.master={self._master} cannot be used: {_cause(error)}") from None
        self._session.sparkContext.setLogLevel("ERROR")

    def num_parts(self, num_events: int) -> int:  # noqa: ARG002 - the user knows the cluster
        """As the settings say."""
        return self._partitions

    def map(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        """Call a function for all tasks, side by side."""
        return iter(self._session.sparkContext.parallelize(tasks, max(1, len(tasks))).map(function).collect())

    def end(self) -> None:
        """Stop Spark."""
        self._session.stop()


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


def _refuse_nobody(master: str) -> None:
    """Refuse a cluster that nobody answers for. Spark itself would try, and print what Java says, for minutes.

    Raises:
        InputError: no address of `spark://<host>:<port>,<host>:<port>` accepts a connection within ten seconds.
    """
    reason = ""
    for address in master.removeprefix("spark://").split(","):
        host, _, port = address.rpartition(":")
        try:
            return socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except (OSError, ValueError, OverflowError) as error:
            reason = f"{address}: {error}"
    raise InputError(
        f"spark.master={master}: no Spark answers there ({reason}); start its master, or use spark.master='local[*]'"
    )


def _cause(error: BaseException) -> str:
    """The line that says why. That of Java comes after a header of py4j, and begins with a colon."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    of_java = [line.removeprefix(":").strip() for line in lines if line.startswith(": ")]
    return next(iter([*of_java, *lines]), type(error).__name__)
