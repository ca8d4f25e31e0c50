"""A study is living, with its scripts here, or finished, with its scripts at the commit that its commands name."""

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.pages import FINISHED, PAGES, finished_at, lines_of

STUDIES = sorted(path for path in (ROOT / "experiments").glob("[!_]*") if path.is_dir())


def readme(study: Path) -> str:
    return (study / "README.md").read_text(encoding="utf-8")


def is_finished(study: Path) -> bool:
    return FINISHED in readme(study)


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_a_study_has_its_scripts_here_or_names_their_commit(study: Path) -> None:
    scripts = [line for line in lines_of(readme(study)) if line.text.startswith("python experiments/")]
    assert scripts
    assert bool(list(study.rglob("*.py"))) != is_finished(study)
    assert not is_finished(study) or all(line.commit for line in scripts)


def test_the_table_has_every_study_with_its_commit() -> None:
    table = (ROOT / "experiments" / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| \[(\w+)\].*\| ([^|]+) \|$", table, flags=re.MULTILINE))
    assert sorted(rows) == [study.name for study in STUDIES]
    for study in STUDIES:
        assert rows[study.name] == (finished_at(readme(study)) if is_finished(study) else "today's commit")


def test_a_link_to_a_finished_study_says_so() -> None:
    finished = "|".join(study.name for study in STUDIES if is_finished(study))
    link = re.compile(rf"\[([^\]]*)\]\((?:\.\./)?experiments/(?:{finished})/README\.md[^)]*\)")
    pages = [page for page in PAGES if "experiments" not in page.parts]
    texts = [text for page in pages for text in link.findall(page.read_text(encoding="utf-8"))]
    assert texts
    assert [text for text in texts if "finished" not in text] == []
