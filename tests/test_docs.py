"""What the pages say of files is true: links lead somewhere, and rooms hold the files that they are said to hold."""

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "experiments").rglob("README.md")]
ROOMS = re.findall(
    r"^\| `([a-z]+)/` \| (.*) \|$", (ROOT / "docs/architecture.md").read_text(encoding="utf-8"), re.MULTILINE
)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_within_the_project_lead_to_a_file(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    here = [link for link in links if not link.startswith(("http://", "https://", "mailto:"))]
    assert [link for link in here if not (page.parent / link).exists()] == []


def test_every_room_is_described() -> None:
    assert {name for name, _ in ROOMS} == {path.parent.name for path in (ROOT / "src").glob("*/__init__.py")}


@pytest.mark.parametrize(("room", "text"), ROOMS, ids=[name for name, _ in ROOMS])
def test_a_room_holds_the_files_that_the_page_says_and_no_others(room: str, text: str) -> None:
    folder = ROOT / "src" / room
    named = {name.rpartition("/")[2] for name in re.findall(r"`([a-z_/]+\.py)`", text) if not name.startswith("runs/")}
    held = {path.name for path in folder.rglob("*.py")}
    assert named <= held
    listed_by_folder = {path.name for path in (folder / "formats").glob("*.py")}
    assert held - named - {"__init__.py"} - listed_by_folder == set()
