"""The Python of the pages about the API runs, in its order, with one epoch of training and no pictures."""

import re
import shutil
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

import segue
from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(not hasattr(segue, "fit"), reason="segue.fit is not written yet")


def blocks_of(page: str) -> list[str]:
    """The blocks that call Segue; those of other libraries need environments of their own."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [block for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL) if "segue." in block]


def test_the_python_of_the_pages_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "examples").mkdir()
    shutil.copy(ROOT / "examples" / "plays.csv", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("segue.verbs.training.choosing._LEAST_SESSIONS", 10**9)  # see tests/verbs/api/conftest.py
    api: Any = segue
    quick = partial(api.fit, trainer__max_epochs=1, callbacks__plots=None)
    monkeypatch.setattr(api, "fit", cache(quick))  # pages begin with the same plays and the same model
    monkeypatch.setattr(api, "read_plays", cache(api.read_plays))
    for page, num_blocks in (("docs/coming_from.md", 5), ("docs/api/segue.md", 1)):
        names: dict[str, object] = {}
        blocks = blocks_of(page)
        assert len(blocks) == num_blocks
        for block in blocks:
            exec(compile(block, page, "exec"), names)
