"""The engine that runs the SQL of shards on Spark: on the cores of this machine, or on a cluster.

DuckDB reads the files of the source, whatever they are, and hands the events over as Parquet. All that needs events of
more than one row, sessions, pairs and splits, is Spark's. The run folder must be one that all machines see.
"""

import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from segue.datamodules.pairs.engines import ROW, events_query
from segue.datamodules.reading.table import SourceEvents
from segue.errors import InputError, check_number
from segue.runs.atomic import write_whole

_ANSWER_S = 10
"""Seconds within which the master of a cluster must accept a connection."""


class SparkEngine:
    """Spark SQL. Tables are Parquet files in the run folder until the end.

    Args:
        master: `local[*]`, `spark://<host>:<port>`, `yarn` or `k8s://<address>`.
        driver_memory: memory of this process for Spark, such as `4g`.
        executor_memory: memory of each executor of a cluster.
        partitions: number of parts of a shuffle, at least 1.
        conf: other settings of Spark, by their names.

    Raises:
        InputError: pyspark or Java is missing, a setting is out of range, or nobody answers for `spark://…`.
    """

    name = "spark"

    def __init__(
        self,
        *,
        master: str,
        driver_memory: str,
        executor_memory: str,
        partitions: int,
        conf: Mapping[str, Any],
    ) -> None:
        check_number("spark.partitions", partitions, whole=True, least=1)
        check_spark()
        _refuse_nobody(master)
        self._master = master
        self._conf = {
            "spark.driver.memory": driver_memory,
            "spark.executor.memory": executor_memory,
            "spark.sql.shuffle.partitions": partitions,
            "spark.ui.enabled": "false",
            "spark.ui.showConsoleProgress": "false",
            "spark.sql.parquet.compression.codec": "zstd",
            **conf,
        }
        self._num_tables = 0
        self._session: Any = None
        self._folder = Path()

    def begin(self, source: SourceEvents, folder: Path) -> None:
        """Start Spark, and hand the events over.

        Raises:
            InputError: Spark does not start.
        """
        from pyspark.sql import SparkSession

        self._folder = folder.resolve()
        self._folder.mkdir(parents=True, exist_ok=True)
        builder = SparkSession.builder.master(self._master).appName("segue prepare")
        for name, value in self._conf.items():
            builder = builder.config(name, str(value))
        try:
            self._session = builder.getOrCreate()
        except Exception as error:  # Java's errors have no class of their own
            raise InputError(f"spark.master={self._master} cannot be used: {_cause(error)}") from None
        self._session.sparkContext.setLogLevel("ERROR")
        events = str(self._folder / "events").replace("'", "''")
        query = f"COPY ({events_query(source)}) TO '{events}' (FORMAT parquet, PER_THREAD_OUTPUT)"
        source.database.execute(query)
        self._read("events", self._folder / "events")

    def _read(self, name: str, path: Path) -> None:
        self._session.read.parquet(str(path)).createOrReplaceTempView(name)

    def _next(self, name: str) -> Path:
        self._num_tables += 1
        return self._folder / f"{name}-{self._num_tables}"

    def view(self, name: str, query: str) -> None:
        """Give a query a name."""
        self._session.sql(query).createOrReplaceTempView(name)

    def table(self, name: str, query: str) -> None:
        """Compute a query and keep its result."""
        path = self._next(name)
        self._session.sql(query).write.parquet(str(path))
        self._read(name, path)

    def upload(self, name: str, columns: Mapping[str, np.ndarray]) -> None:
        """Make a table of arrays."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self._next(name)
        path.mkdir()
        pq.write_table(pa.table(dict(columns)), path / "uploaded.parquet")
        self._read(name, path)

    def fetch(self, query: str) -> dict[str, np.ndarray]:
        """Compute a query; its result comes into this process."""
        found = self._session.sql(query).toArrow()
        return {name: found[name].to_numpy() for name in found.column_names}

    def write(self, shards: Mapping[Path, tuple[int, int]]) -> Iterator[Path]:
        """Write all shards side by side, then give them their names."""
        if not shards:
            return
        first, end = np.array(list(shards.values()), np.int64).T
        self.upload("shards", {"shard": np.arange(len(shards)), "first_session": first, "end_session": end})
        rows = self._session.sql(f"""
            SELECT {", ".join(ROW)}, shard FROM rows
            INNER JOIN shards ON session >= first_session AND session < end_session""")
        ordered = rows.repartition(len(shards), "shard").sortWithinPartitions(
            "shard", "session", "position", rows.previous_position.asc_nulls_first()
        )
        path = self._next("written")
        ordered.write.partitionBy("shard").parquet(str(path))
        for number, shard in enumerate(shards):
            [file] = (path / f"shard={number}").glob("part-*")
            write_whole(shard, partial(shutil.move, file))
            yield shard

    def end(self) -> None:
        """Stop Spark."""
        self._session.stop()


def check_spark() -> None:
    """Refuse to begin without pyspark or Java.

    Raises:
        InputError: one is missing.
    """
    from importlib.util import find_spec

    if find_spec("pyspark") is None:
        raise InputError('engine=spark needs pyspark, which is not installed: pip install "pyspark>=4,<5" (450 MB)')
    home = os.environ.get("JAVA_HOME")
    if shutil.which(str(Path(home, "bin", "java")) if home else "java") is None:
        where = f"JAVA_HOME={home} has none" if home else "there is no java"
        raise InputError(
            f"engine=spark needs Java 17 or newer, and {where}; on Debian: apt-get install openjdk-17-jre-headless"
        )


def _refuse_nobody(master: str) -> None:
    """Refuse a standalone cluster that nobody answers for. Spark itself would try for more than a minute.

    Raises:
        InputError: no address of `spark://<host>:<port>,<host>:<port>` accepts a connection.
    """
    if not master.startswith("spark://"):
        return
    reason = ""
    for address in master.removeprefix("spark://").split(","):
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
        except (OSError, ValueError, OverflowError) as error:
            reason = f"{address}: {error}"
        else:
            return
    raise InputError(
        f"spark.master={master}: no Spark answers there ({reason}); start its master, or use spark.master='local[*]'"
    )


def _cause(error: BaseException) -> str:
    """The line that says why. That of Java comes after a header of py4j, and begins with a colon."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    of_java = [line.removeprefix(":").strip() for line in lines if line.startswith(": ")]
    return next(iter([*of_java, *lines]), type(error).__name__)
