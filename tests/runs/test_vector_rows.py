"""Rows for vector databases: what they hold, and that a database ranks as the run does."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

import segue
from segue.runs.vector_rows import TABLE, write_vector_rows
from tests.conftest import ROOT, make_catalog, make_vectors
from tests.exported import ExportedRun, assert_are_the_lists, exported_run
from tests.odd_ids import with_texts


@pytest.fixture
def run(tmp_path: Path) -> ExportedRun:
    made = exported_run(tmp_path, model="convex", context="session")
    write_vector_rows(made.vectors, made.catalog, tmp_path / "rows")
    return made


def test_each_track_is_a_row_whose_inner_product_with_a_query_is_the_score(run: ExportedRun, tmp_path: Path) -> None:
    table = parquet.read_table(tmp_path / "rows" / TABLE)
    assert table.column_names == ["id", "title", "artist", "vector", "query"]
    assert table.slice(5, 1).drop_columns(["vector", "query"]).to_pylist() == [
        {"id": 105, "title": "Title 5", "artist": "Artist 1"}
    ]
    vectors, queries = (np.stack(table[name].to_numpy()) for name in ("vector", "query"))
    assert vectors.dtype == np.float32
    assert_are_the_lists(run, queries @ vectors.T)


def test_ids_that_are_texts_and_unknown_names_are_kept(tmp_path: Path) -> None:
    catalog = with_texts(make_catalog(range(30)))
    catalog.titles[3] = ""
    write_vector_rows(make_vectors(30), catalog, tmp_path)
    table = parquet.read_table(tmp_path / TABLE)
    assert table["id"].to_pylist() == catalog.track_ids.tolist()
    assert table["title"].to_pylist() == [title or None for title in catalog.titles.tolist()]


def test_the_file_for_pgvector_is_sql_of_postgresql_and_loads_the_columns(tmp_path: Path) -> None:
    """Real PostgreSQL checks more: docs/exporting.md shows what it printed."""
    from pglast import parse_sql

    text = (ROOT / "examples" / "pgvector.sql").read_text(encoding="utf-8")
    commands = re.findall(r"^\\(.*)", text, re.MULTILINE)
    assert commands == ["copy tracks FROM 'vectors.csv' WITH (FORMAT csv, HEADER)"]
    sql = re.sub(r"^\\.*", "", text, flags=re.MULTILINE).replace(":width", "6").replace(":'track'", "'100'")
    statements: list[Any] = [statement.stmt for statement in parse_sql(sql)]
    _, table, index, query = statements
    assert [type(statement).__name__ for statement in statements] == [
        *("CreateExtensionStmt", "CreateStmt", "IndexStmt", "SelectStmt")
    ]
    write_vector_rows(make_vectors(9), make_catalog(range(9)), tmp_path)
    columns = [column.colname for column in table.tableElts]
    assert columns == parquet.read_table(tmp_path / TABLE).column_names
    assert index.indexParams[0].opclass[0].sval == "vector_ip_ops"
    assert [order.node.name[0].sval for order in query.sortClause] == ["<#>"]


def test_the_programs_of_the_page_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("segue.verbs.training.choosing._LEAST_SESSIONS", 10**9)  # see tests/verbs/api/conftest.py
    plays = ROOT / "examples" / "plays.csv"
    segue.fit(plays, context="session", folder=tmp_path / "run", trainer__max_epochs=1, callbacks__plots=None)
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "exporting.md").read_text(encoding="utf-8")
    programs = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(programs) == 3
    for program in programs:
        exec(program, {})
    files, *tracks = capsys.readouterr().out.splitlines()
    assert files == "item.onnx query.onnx tracks.json vectors.parquet"
    assert len(tracks) >= 3 + 3
    assert all(re.fullmatch(r"-?\d\.\d{4} .+, .+", line) for line in tracks), tracks
