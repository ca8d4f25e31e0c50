"""Spark gives the pairs that one process gives. `make spark` alone runs these tests."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from segue.datamodules.pair_datamodule import PairDataModule
from segue.datamodules.shards.engines import SparkEngine, check_spark
from segue.datamodules.shards.manifest import Manifest
from segue.errors import InputError
from tests.datamodules.preparing import SETTINGS, why_no_spark, write_quirks
from tests.datamodules.sharding import check_shards, shards_of

Make = Callable[..., PairDataModule]
GIVEN: dict[str, Any] = {
    "master": "local[2]",
    "partitions": 2,
    "conf": {"spark.driver.memory": "1g"},
    "more": {"spark.ui.enabled": "false"},
}


@pytest.fixture
def engine() -> SparkEngine:
    if why := why_no_spark():
        pytest.skip(why)
    return SparkEngine(**GIVEN)


@pytest.mark.parametrize("name", ["window", "by pair", "new tracks"])
def test_shards_of_spark_hold_what_the_source_has_as_those_of_duckdb_do(
    engine: SparkEngine,
    datamodule_of: Make,
    tmp_path: Path,
    name: str,
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


def test_the_reason_of_java_is_said_and_not_the_header_of_py4j(monkeypatch: pytest.MonkeyPatch) -> None:
    class Builder:
        def __getattr__(self, _: str) -> Callable[..., "Builder"]:
            return lambda *_: self

        def getOrCreate(self) -> None:  # noqa: N802 - the name of pyspark
            raise RuntimeError(
                "An error occurred while calling None.org.apache.spark.api.java.JavaSparkContext.\n"
                ": java.lang.IllegalArgumentException: System memory 67108864 must be at least 471859200.\n\tat org.x"
            )

    session = SimpleNamespace(builder=Builder())
    monkeypatch.setitem(sys.modules, "pyspark", ModuleType("pyspark"))
    monkeypatch.setitem(sys.modules, "pyspark.sql", SimpleNamespace(SparkSession=session))
    monkeypatch.setattr("segue.datamodules.shards.engines.check_spark", lambda: None)
    message = r"spark.master=local\[2\] cannot be used: java.lang.IllegalArgumentException: System memory 67108864 must"
    with pytest.raises(InputError, match=message) as refused:
        SparkEngine(**GIVEN)
    assert "\n" not in str(refused.value)
