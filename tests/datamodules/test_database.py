"""DuckDB's databases: their threads, and that none draws a progress bar of its own."""

import re
import subprocess
import sys

import duckdb
import pytest

from segue.datamodules.reading.database import connect
from tests.conftest import ROOT


@pytest.mark.parametrize(("given", "threads"), [("3", 3), ("", None), ("0", None), ("4,2", None)])
def test_duckdb_takes_as_many_threads_as_it_is_given(
    monkeypatch: pytest.MonkeyPatch, given: str, threads: int | None
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    query = "SELECT current_setting('threads')"
    with connect() as database, duckdb.connect() as usual:
        [(found,)], [(all_cores,)] = database.execute(query).fetchall(), usual.execute(query).fetchall()
    assert found == (threads or all_cores)


SETTING = "execute(\"SELECT current_setting('enable_progress_bar')\").fetchall()"


def test_no_database_draws_a_progress_bar_where_python_has_no_script() -> None:
    code = f"""
import duckdb
from segue.datamodules.reading.database import connect, open_database
with open_database() as (database, _):
    print(duckdb.connect().{SETTING}, connect(threads=1).{SETTING}, database.{SETTING})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "[(True,)] [(False,)] [(False,)]\n", "the first one is DuckDB's own"


def test_databases_are_opened_in_one_place() -> None:
    opened = re.compile(r"duckdb\.(connect|execute|sql|query|from_\w+|read_\w+)\(")
    files = [path for path in (ROOT / "src").rglob("*.py") if opened.search(path.read_text(encoding="utf-8"))]
    assert {path.name for path in files} == {"database.py", "raw_rows.py"}, "the second one is a line for the user"
