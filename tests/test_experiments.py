"""Each command of a study names a script that exists: here if it is living, else at the commit it names."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

STUDIES = sorted(path for path in (ROOT / "experiments").glob("[!_]*") if path.is_dir())
FINISHED = re.compile(r"^\*\*Finished study\.\*\* Its scripts run at commit (\w+):$", re.MULTILINE)


def git(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)


def commands(study: Path) -> list[str]:
    """The scripts that the blocks of its README call."""
    blocks = re.findall(r"```bash\n(.*?)```", (study / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.findall(r"^python (experiments/\S+\.py)", "".join(blocks), flags=re.MULTILINE)


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_a_study_names_scripts_that_exist(study: Path) -> None:
    scripts = commands(study)
    assert scripts
    finished = FINISHED.search((study / "README.md").read_text(encoding="utf-8"))
    if finished is None:
        assert [script for script in scripts if not (ROOT / script).exists()] == []
        return
    assert list(study.rglob("*.py")) == []
    if git("rev-parse", "--is-shallow-repository").stdout.strip() != "false":
        pytest.skip("this is no checkout with its whole history")
    assert git("merge-base", "--is-ancestor", finished[1], "HEAD").returncode == 0
    assert [script for script in scripts if git("cat-file", "-e", f"{finished[1]}:{script}").returncode] == []


def test_the_table_has_every_study_with_its_commit() -> None:
    table = (ROOT / "experiments" / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| \[(\w+)\].*\| ([^|]+) \|$", table, flags=re.MULTILINE))
    assert sorted(rows) == [study.name for study in STUDIES]
    for study in STUDIES:
        finished = FINISHED.search((study / "README.md").read_text(encoding="utf-8"))
        assert rows[study.name] == (finished[1] if finished else "today's commit")
