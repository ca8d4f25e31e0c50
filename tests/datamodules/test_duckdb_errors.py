"""Which errors of DuckDB are refusals of files in one line, and which are faults of Segue with a traceback."""

from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from segue.datamodules.reading.files import Files
from segue.datamodules.reading.table import _database
from segue.errors import InputError
from tests.conftest import settings_of
from tests.datamodules.reading import read

OF_FILES: dict[type[duckdb.Error], str] = {
    duckdb.ConversionException: "SELECT CAST('x' AS INTEGER)",
    duckdb.InvalidInputException: "FROM read_json_objects('{path}')",
    duckdb.IOException: "FROM read_parquet('{path}.absent')",
    duckdb.OutOfMemoryException: "SET memory_limit = '1MB'; SELECT list(range) FROM range(999999)",
    duckdb.OutOfRangeException: "SELECT CAST(9223372036854775807 AS BIGINT) + 1",
}
OF_QUERIES: dict[type[duckdb.Error], str] = {
    duckdb.BinderException: "SELECT absent FROM range(1)",
    duckdb.CatalogException: "SELECT absent(1)",
    duckdb.ParserException: "SELEC 1",
}


def fail(path: Path, query: str) -> None:
    """Execute a query while the source of a file is open."""
    path.write_text("[1, }")
    with _database(settings_of("table"), str(path)) as (database, _):
        database.execute(query.format(path=path))


@pytest.mark.parametrize("kind", OF_FILES, ids=lambda kind: kind.__name__)
def test_what_files_can_cause_is_refused_in_one_line(tmp_path: Path, kind: type[duckdb.Error]) -> None:
    with pytest.raises(
        InputError, match=r"^cannot read .*plays.json: DuckDB fails: .*; correct the files, or"
    ) as refusal:
        fail(tmp_path / "plays.json", OF_FILES[kind])
    assert isinstance(refusal.value.__cause__, kind)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("kind", [duckdb.FatalException, duckdb.InternalException, duckdb.SerializationException])
def test_what_duckdb_itself_cannot_do_is_refused_in_one_line(kind: type[duckdb.Error]) -> None:
    message = r"^cannot read a.csv: DuckDB fails: Attempted to access index 4 within vector of size 3; correct"
    with pytest.raises(InputError, match=message), _database(settings_of("table"), "a.csv"):
        raise kind("INTERNAL Error: Attempted to access index 4 within vector of size 3\n\nStack Trace:\n0x1")


@pytest.mark.parametrize("kind", OF_QUERIES, ids=lambda kind: kind.__name__)
def test_a_fault_of_a_query_keeps_its_traceback(tmp_path: Path, kind: type[duckdb.Error]) -> None:
    with pytest.raises(kind):
        fail(tmp_path / "plays.json", OF_QUERIES[kind])
    with pytest.raises(kind), duckdb.connect() as database:
        Files(paths=["a.csv"], shown=["a.csv"], format="csv", folder=tmp_path).run(
            database, f"{OF_QUERIES[kind]} WHERE len($files) > 0"
        )


def test_damaged_parquet_is_refused_in_one_line(tmp_path: Path) -> None:
    """DuckDB raises an error without a kind."""
    path = tmp_path / "plays.parquet"
    plays = {"user": ["u"] * 99, "timestamp": [1_700_000_000 + 60 * n for n in range(99)], "track": list(range(99))}
    pq.write_table(pa.table(plays), path)
    content = bytearray(path.read_bytes())
    content[4:24] = b"\xff" * 20
    path.write_bytes(content)
    with pytest.raises(duckdb.Error) as error:
        duckdb.sql(f"FROM '{path}'").fetchall()
    assert error.type is duckdb.Error
    with pytest.raises(InputError, match=r"^cannot read .*plays.parquet: .*; correct the file, or give") as refusal:
        read("table", path)
    assert "\n" not in str(refusal.value)
