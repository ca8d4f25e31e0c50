"""Does Spark give the pairs that DuckDB gives, and how long does each take?

    python experiments/scale/engines.py --plays 1000000 50000000     rows of engines.csv, and engines.md

Needs pyspark and Java. Both engines prepare the same generated plays on this machine, and the shards are compared row
by row. Cost: about half a minute for each million plays on two cores, and 0.4 GB of disk for it. A size that
engines.csv has is not measured again.
"""

import os
import shutil
import sys
import tempfile
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.scale.shards import watch
from experiments.studying import SkippedError, Study, append_rows, is_smoke, read_rows, run_python, sized
from segue.datamodules.shards.manifest import Manifest
from segue.reports.markdown import table

STUDY = Study(__file__, __doc__)
RESULTS = STUDY.folder / "engines.csv"
PLAYS = """
    COPY (SELECT hash(range // 1000, 3) % {users} AS user,
                 1100000000 + 86400 * (range // 1000 % 365) + 600 * (range % 1000 // 12) * 12
                     + 210 * (range % 12) * CAST(hash(range, 1) % 50 > 0 AS INT) AS timestamp,
                 CAST(floor({tracks} * power((hash(range) % 1000003) / 1000003.0, 3)) AS BIGINT) AS track,
                 CASE WHEN hash(range, 5) % 20 > 0 THEN hash(range, 7) % 101 / 100.0 END AS played_ratio
          FROM range({plays}) ORDER BY hash(range, 11)) TO '{file}' (FORMAT parquet)"""
"""Plays in no order. A twentieth has no share, a fiftieth begins with the first play of its session, and a listener may
have several sessions at once."""


def differences(ours: Path, theirs: Path) -> int:
    """Number of shards that differ in a row, a column or a type.

    Args:
        ours: folder of the shards of one engine.
        theirs: that of the other.
    """
    of_ours, of_theirs = Manifest.read(ours), Manifest.read(theirs)
    assert of_ours.counts == of_theirs.counts
    assert of_ours.pairs == of_theirs.pairs
    assert [shard.file for shard in of_ours.shards] == [shard.file for shard in of_theirs.shards]
    return sum(
        not pq.read_table(ours / shard.file).equals(pq.read_table(theirs / shard.file)) for shard in of_ours.shards
    )


def measure(plays: int, folder: Path) -> dict[str, Any]:
    """Prepare with both engines, and compare.

    Args:
        plays: number of generated plays.
        folder: an empty folder.
    """
    file = folder / "plays.parquet"
    duckdb.sql(PLAYS.format(plays=plays, users=plays // 2000, tracks=100_000, file=file))
    data = ["datamodule=table", f"datamodule.path={file}", "datamodule.units.timestamp=s", "recipe=shares"]
    found: dict[str, Any] = {"plays": plays}
    if is_smoke():
        os.environ["JAVA_TOOL_OPTIONS"] = "-XX:TieredStopAtLevel=1"  # Java takes less time to compile itself
    for engine in ("duckdb", "spark"):
        words = [*data, f"engine={engine}", f"hydra.run.dir={engine}"]
        if engine == "spark":
            words += [
                f"spark.partitions={max(sized(2, 1), plays // 2_000_000)}",
                f"+spark.conf={{spark.local.dir: {folder}}}",
            ]
        watched = watch(partial(run_python, ["prepare.py", *words], cwd=folder))
        found |= {f"{engine}_s": watched["seconds"], f"{engine}_GB": watched["anonymous"]}
        print(found, flush=True)
    manifest = Manifest.read(folder / "duckdb")
    found |= {"pairs": sum(manifest.pairs.values()), "shards": len(manifest.shards)}
    return found | {"different_shards": differences(folder / "duckdb", folder / "spark")}


def main() -> None:
    """Measure the sizes that are missing, and write the table."""
    parser = STUDY.parser()
    parser.add_argument("--plays", type=int, nargs="+", default=sized([1_000_000, 50_000_000], [4_000]))
    given = STUDY.parse(parser)
    if find_spec("pyspark") is None or shutil.which("java") is None:
        raise SkippedError("engines: it needs pyspark and Java; make spark installs pyspark")
    for plays in given.plays:
        if any(int(row["plays"]) == plays for row in read_rows(RESULTS)):
            continue
        with tempfile.TemporaryDirectory(prefix="engines-") as folder:
            append_rows(RESULTS, [measure(plays, Path(folder))])
        STUDY.write_provenance("engines_provenance.json")
    head = ["plays", "pairs", "shards", "shards that differ", "DuckDB, s", "Spark, s", "DuckDB, GB"]
    names = ("plays", "pairs", "shards", "different_shards", "duckdb_s", "spark_s", "duckdb_GB")
    body = [[f"{float(row[name]):,.10g}" for name in names] for row in read_rows(RESULTS)]
    STUDY.write_table("engines.md", table(head, body, "rrrrrrr"))


if __name__ == "__main__":
    STUDY.run(main)
