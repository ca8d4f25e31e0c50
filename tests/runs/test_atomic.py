"""Result files are whole or not there."""

import json
from pathlib import Path

import pytest

from src.runs.atomic import write_record, write_whole


def test_what_is_no_number_becomes_null(tmp_path: Path) -> None:
    write_record({"a": float("nan"), "b": [1.5, float("inf")], "c": {"d": 1}}, tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text()) == {"a": None, "b": [1.5, None], "c": {"d": 1}}


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "r.txt"
    path.write_text("old")

    def fail(partial: Path) -> None:
        partial.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(path, fail)
    assert [file.name for file in tmp_path.iterdir()] == ["r.txt"]
    assert path.read_text() == "old"
