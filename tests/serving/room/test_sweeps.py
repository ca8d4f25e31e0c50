"""The runs of the last comparison, and which of them may be served."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from segue.errors import InputError
from segue.serving.room.room_server import last_comparison, side_by_side


def comparison(folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True)
    mean = {"num_runs": 2, "mean": 0.5, "lower": 0.4, "upper": 0.6, "leads": True}
    record = {
        "verdict": "convex is best",
        "disagreement": None,
        "select": "val/mrr",
        "better": {"val/mrr": "max"},
        "metrics": ["val/mrr", "test/nothing"],
        "setups": [{"setup": "convex", "run_ids": ["ab" * 16, "cd" * 16], "metrics": {"val/mrr": mean}}],
    }
    (folder / "comparison.json").write_text(json.dumps(record | changes))
    return folder


def test_the_newest_comparison_is_shown(tmp_path: Path) -> None:
    assert last_comparison(tmp_path) is None
    for place, name in enumerate(("b", "a")):
        os.utime(comparison(tmp_path / name) / "comparison.json", (place, place))
    assert last_comparison(tmp_path) == tmp_path / "a"
    found = side_by_side(tmp_path / "a")
    assert found["metrics"] == ["val/mrr"]  # what no set-up has is left out
    assert (found["setups"][0]["run"], found["setups"][0]["num_runs"]) == ("ab" * 16, 2)
    assert not found["has_picture"]


def test_a_damaged_comparison_is_refused(tmp_path: Path) -> None:
    comparison(tmp_path / "a", setups=[{}])
    with pytest.raises(InputError, match=r"cannot be read .*; run python compare.py again"):
        side_by_side(tmp_path / "a")
