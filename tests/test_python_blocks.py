"""The Python of the pages about the API runs, in its order, with one epoch of training and no pictures."""

import re
import shutil
from functools import partial
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


@pytest.mark.parametrize(("page", "num_blocks"), [("docs/coming_from.md", 5), ("docs/api/segue.md", 1)])
def test_the_python_of_a_page_runs(page: str, num_blocks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "examples").mkdir()
    shutil.copy(ROOT / "examples" / "plays.csv", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("segue.training.choosing._LEAST_QUERIES", 10**9)  # see tests/api/conftest.py
    api: Any = segue
    monkeypatch.setattr(api, "fit", partial(api.fit, trainer__max_epochs=1, callbacks__plots=None))
    names: dict[str, object] = {}
    blocks = blocks_of(page)
    assert len(blocks) == num_blocks
    for block in blocks:
        exec(compile(block, page, "exec"), names)
