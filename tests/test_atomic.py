"""Result files are whole or not there."""

import ast
import json
from pathlib import Path

import pytest

from segue.atomic import write_record, write_whole
from tests.conftest import ROOT


def writes_by_hand(path: Path) -> bool:
    """Whether a file has a name for partial files, or replaces one file by another: `os.replace` or `path.replace`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and ".partial" in node.value:
            return True
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and not node.keywords:
            of_os = isinstance(node.func.value, ast.Name) and node.func.value.id == "os"
            if node.func.attr == "replace" and (of_os or len(node.args) == 1):
                return True
    return False


def test_files_appear_whole_through_one_module_alone() -> None:
    paths = [
        *ROOT.glob("*.py"),
        *(path for room in ("src", "experiments", "docs") for path in (ROOT / room).rglob("*.py")),
    ]
    by_hand = {str(path.relative_to(ROOT)) for path in paths if writes_by_hand(path)}
    renaming = {
        "src/serving/release_store.py",
        "src/serving/log_writer.py",
        "src/datamodules/shards/writer.py",
    }  # whole releases, logs that are rotated, and the columns of shards, all at once
    assert by_hand - renaming == {"src/atomic.py"}


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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here, which is a disk without space")
def test_a_full_disk_is_one_for_the_file_that_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "r.json"

    def to_full_disk(partial: Path) -> None:
        partial.symlink_to("/dev/full")
        partial.write_text("half")

    with pytest.raises(OSError, match="No space left on device") as raised:
        write_whole(path, to_full_disk)
    assert raised.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []
