"""Spark gives the pairs that one process gives. `make spark` alone runs these tests."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from segue.datamodules.pair_datamodule import PairDataModule
from segue.datamodules.shards.engines import SparkEngine, check_spark
from segue.datamodules.shards.manifest import Manifest
from segue.errors import InputError
from tests.datamodules.preparing import SETTINGS, why_no_spark, write_quirks
from tests.datamodules.sharding import check_shards, shards_of

Make = Callable[..., PairDataModule]


@pytest.fixture
def engine() -> SparkEngine:
    if why := why_no_spark():
        pytest.skip(why)
    conf = {"spark.driver.memory": "1g"}
    return SparkEngine(master="local[2]", partitions=2, conf=conf, more={"spark.ui.enabled": "false"})


@pytest.mark.parametrize("name", ["window", "by pair", "new tracks"])
def test_shards_of_spark_hold_what_the_source_has_as_those_of_duckdb_do(
    engine: SparkEngine, datamodule_of: Make, tmp_path: Path, name: str
) -> None:
    check_shards(datamodule_of(write_quirks(tmp_path / "logs"), **SETTINGS[name]), tmp_path / "spark", engine)
    manifest = shards_of(datamodule_of(tmp_path / "logs", **SETTINGS[name]), tmp_path / "duckdb", shard_rows=300)
    assert Manifest.read(tmp_path / "spark").engine == "spark"
    for file in manifest.files:
        assert (tmp_path / "spark" / file).read_bytes() == (tmp_path / "duckdb" / file).read_bytes()


def test_without_java_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyspark", ModuleType("pyspark"))
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(
        InputError, match="engine=spark needs Java 17 or newer, and there is no java; on Debian: apt-get"
    ):
        check_spark()
    monkeypatch.setenv("JAVA_HOME", "/nowhere")
    with pytest.raises(InputError, match="JAVA_HOME=/nowhere has none"):
        check_spark()
