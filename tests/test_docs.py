"""Pages are correct and readable: links and anchors exist, rooms hold the files that are named, words are plain."""

import ast
import re
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from tests.conftest import ROOT
from tests.pages import PAGES
from tests.test_imports import syntax_of

DOCS = [page for page in PAGES if "experiments" not in page.parts]
MODULES = [*ROOT.glob("*.py"), *(ROOT / "src").rglob("*.py")]
LONGEST = 120
"""Characters of a line of Markdown that is no row of a table and has no link."""

NOT_PLAIN = re.compile(
    r"\b(foretell\w*|foretold|anew|once more|told|tells|hardly|surely|by chance|luck|a hair|stands|"
    r"(?:is|was|are) wanted|falls? short|mends?|mended|breaks? (?:its|the) law|thanks? for)\b"
)
"""Words that were replaced by plain ones; a reader whose first language is not English stumbles over them."""


def faults(of: Callable[[Path], Any], paths: Iterable[Path]) -> dict[str, Any]:
    """What is wrong with each file, where something is."""
    return {str(path.relative_to(ROOT)): wrong for path in paths if (wrong := of(path))}


def without_code(text: str) -> str:
    """A page without its blocks and spans of code."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE))


@cache
def anchors(page: Path) -> set[str]:
    """Anchors of the headings of a page, as GitHub and the site (`slugify` in mkdocs.yml) make them."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ +(.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def lost_links(path: Path) -> list[str]:
    links = re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?[^)]*\)", without_code(path.read_text(encoding="utf-8")))
    here = [link for link in links if not link[0].startswith(("http://", "https://", "mailto:"))]
    to_headings = [(path.parent / link if link else path, anchor) for link, anchor in here if anchor]
    lost = [f"{page.name}#{anchor}" for page, anchor in to_headings if anchor not in anchors(page.resolve())]
    return [link for link, _ in here if not (path.parent / link).exists()] + lost


def test_links_within_the_project_lead_to_a_file_and_to_a_heading() -> None:
    assert faults(lost_links, PAGES) == {}


def pictures_without_text(path: Path) -> list[str]:
    pictures = re.findall(r"!\[([^\]]*)\]\(([^)\s]+)\)", path.read_text(encoding="utf-8"))
    return [name for text, name in pictures if len(text) < len("a picture")]


def test_a_picture_has_an_alternative_text() -> None:
    assert faults(pictures_without_text, PAGES) == {}


def test_the_readme_begins_with_a_picture() -> None:
    first = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:40]
    assert any(re.match(r"!\[.+\]\(.+\)", line) for line in first)


def long_lines(path: Path) -> list[int]:
    lines = path.read_text(encoding="utf-8").splitlines()
    long = [number for number, line in enumerate(lines, start=1) if len(line) > LONGEST]
    return [number for number in long if not re.match(r"\s*\||.*\]\(|.*https?://", lines[number - 1])]


def test_lines_are_short() -> None:
    assert faults(long_lines, PAGES) == {}


def cells_with_several_numbers(path: Path) -> list[str]:
    text = re.sub(r"^ *```.*?^ *```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    cells = [cell.strip() for row in re.findall(r"^\|(.*)\|$", text, flags=re.MULTILINE) for cell in row.split("|")]
    return [cell for cell in cells if len(re.findall(r"\d[\d,.]*", cell)) > 1 and not re.search("[a-zA-Z]", cell)]


def test_a_cell_of_a_table_has_one_number() -> None:
    assert faults(cells_with_several_numbers, DOCS) == {}


def test_a_page_has_plain_words() -> None:
    assert faults(lambda path: NOT_PLAIN.findall(without_code(path.read_text(encoding="utf-8"))), PAGES) == {}


def words_in_texts(path: Path) -> list[str]:
    nodes = ast.walk(syntax_of(path))
    texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [word for text in texts for word in NOT_PLAIN.findall(text)]


def test_docstrings_and_messages_have_plain_words() -> None:
    assert faults(words_in_texts, MODULES) == {}


ARCHITECTURE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")


def test_every_room_is_in_the_drawing() -> None:
    drawing = ARCHITECTURE.partition("## The rooms")[2].split("```")[1]
    rooms = {path.parent.name for path in (ROOT / "src").glob("*/__init__.py")}
    assert len(rooms) == 11
    assert {word for word in re.findall(r"[a-z]+", drawing) if word in rooms} == rooms


def test_the_page_of_the_rooms_names_files_that_exist_and_is_short() -> None:
    named = re.findall(r"`(?:src/)?([a-z_/]+(?:\.py|/))`", re.sub(r"```.*?```", "", ARCHITECTURE, flags=re.DOTALL))
    places = (ROOT / "src", ROOT)
    assert [name for name in named if not any((place / name).exists() for place in places)] == []
    assert len(re.sub(r"```.*?```", "", ARCHITECTURE, flags=re.DOTALL).split()) <= 900
