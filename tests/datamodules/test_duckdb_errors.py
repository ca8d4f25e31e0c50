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

OF_FILES = (
    *(duckdb.ConversionException, duckdb.FatalException, duckdb.InternalException, duckdb.InvalidInputException),
    *(duckdb.IOException, duckdb.SerializationException),
)
OF_QUERIES = (duckdb.BinderException, duckdb.CatalogException, duckdb.ParserException)


@pytest.mark.parametrize("kind", OF_FILES)
def test_what_files_can_cause_is_refused_in_one_line(kind: type[duckdb.Error]) -> None:
    message = r"^cannot read a.csv: DuckDB fails: Attempted to access index 4 within vector of size 3; correct"
    with pytest.raises(InputError, match=message) as refusal, _database(settings_of("table"), "a.csv"):
        raise kind("INTERNAL Error: Attempted to access index 4 within vector of size 3\n\nStack Trace:\n0x1")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("kind", OF_QUERIES)
def test_a_fault_of_a_query_keeps_its_traceback(kind: type[duckdb.Error], tmp_path: Path) -> None:
    with pytest.raises(kind), _database(settings_of("table"), "a.csv"):
        raise kind("absent")
    files = Files(paths=["a.csv"], shown=["a.csv"], format="csv", folder=tmp_path)
    with pytest.raises(duckdb.CatalogException), duckdb.connect() as database:
        files.run(database, "SELECT absent(1) WHERE len($files) > 0")


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
