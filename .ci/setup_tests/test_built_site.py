"""The site that `make docs` has built: nothing from the network, and every page in the navigation."""

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

LOADED = re.compile(r"""<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href)=["']?(?:https?:)?//[^>]*>""")
LOADED_BY_STYLE = re.compile(r"""(?:@import|url\()\s*["']?(?:https?:)?//[^)"';]*""")


@pytest.fixture(scope="module")
def site() -> Path:
    return Path(os.environ.get("SITE", ROOT / "site"))


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def test_pages_load_nothing_from_the_network(site: Path) -> None:
    pages, styles = list(site.rglob("*.html")), list(site.rglob("*.css"))
    assert len(pages) > 20
    assert styles
    assert [match for page in pages for match in LOADED.findall(read(page))] == []
    assert [match for style in styles for match in LOADED_BY_STYLE.findall(read(style))] == []


@pytest.mark.parametrize(
    "text",
    ['<script src="https://a/b.js">', "<link rel=stylesheet href=//a/b.css>", "<img alt='' src='http://a/b.png'>"],
)
def test_a_page_that_loads_from_the_network_is_recognised(text: str) -> None:
    assert LOADED.search(text)


def test_the_first_page_is_the_readme(site: Path) -> None:
    title = re.findall(r"^# (.*)", read(ROOT / "README.md"), re.MULTILINE)[0]
    assert re.search(rf"<h1[^>]*>{title}<", read(site / "index.html"))


def test_every_page_is_in_the_navigation_but_the_tables_of_studies() -> None:
    navigation = read(ROOT / "mkdocs.yml").partition("\nnav:\n")[2].partition("\ntheme:\n")[0]
    listed = set(re.findall(r"\S+\.md", navigation))
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "experiments").glob("**/README.md")]
    assert listed == {"docs/settings.md", *(str(page.relative_to(ROOT)) for page in pages)}


def test_the_page_of_settings_has_those_of_each_file(site: Path) -> None:
    page = re.sub(r"<[^>]*>", " ", read(site / "docs/settings.html"))
    for words in (
        "model=rules",
        r"model\.window\s+10\s+a whole number of at least 1\s+largest distance in a session",
        r"model\.artist_weight\s+1\.0\s+a number of at least 0",  # of model=sticky
        r"world\.taste\.length\s+4\.3\s",  # of taste=small, which varies another
        r"workers\s+\$\{workers\}\s+a whole number of at least 1",
        r"search\.num_trials\s+20\s",
        r"an embedding v is divided by √\(\|v\|² \+ h²\)",
    ):
        assert re.search(words, page), words


def test_markdown_is_read_as_in_the_repository(site: Path) -> None:
    """A fence or a list that only one of the two readers of Markdown recognises stays in the text."""
    for page in site.rglob("*.html"):
        text = re.sub(r"<pre.*?</pre>|<code.*?</code>", "", read(page), flags=re.DOTALL)
        assert "```" not in text, page
        assert not re.search(r"<p>[^<]*(?:<(?!/p>)[^<]*)*\n(?:[-*]|\d+\.) ", text), page
        assert "<p>|" not in text, page


def test_a_module_of_each_page_of_the_api_is_described(site: Path) -> None:
    for source in (ROOT / "docs/api").glob("*.md"):
        modules = re.findall(r"^::: (\S+)", read(source), re.MULTILINE)
        page = read(site / "docs/api" / f"{source.stem}.html")
        assert modules
        assert [module for module in modules if f'id="{module}"' not in page] == [], source


def test_pages_have_the_mark_and_the_colours_of_the_listening_room(site: Path) -> None:
    for page in (site / "index.html", site / "docs/api/segue.html"):
        loaded = re.findall(r"""<(?:link|img)\b[^>]*?\b(?:href|src)=["']?([^"' >]+)""", read(page))
        files = {(page.parent / name).resolve().relative_to(site) for name in loaded if ":" not in name}
        assert {Path("src/serving/room/static/icon.svg"), Path("src/serving/room/static/colours.css")} <= files
        assert all((site / name).is_file() for name in files)


@pytest.mark.timing
@pytest.mark.parametrize("name", ["index.html", "docs/coming_from.html", "docs/api/segue.html"])
def test_nothing_serious_for_people_with_impairments(name: str, site: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; run make setup")
    axe = pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is not installed; run make setup")
    if (chromium := shutil.which("chromium")) is None:
        pytest.skip("Chromium is not installed; apt-get install chromium")
    problems: list[Any] = []
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for scheme, rules in (("light", None), ("dark", ["color-contrast"])):  # nothing but colours differs
            page = browser.new_page(color_scheme=scheme)
            page.goto((site / name).as_uri())
            page.locator(f"[data-md-color-scheme={'default' if scheme == 'light' else 'slate'}]").first.wait_for()
            page.evaluate(Path(axe.__file__).with_name("axe.min.js").read_text(encoding="utf-8"))
            found = page.evaluate(
                "(rules) => axe.run({resultTypes: ['violations'], runOnly: rules ?? undefined})", rules
            )
            problems += [one for one in found["violations"] if one["impact"] in ("serious", "critical")]
    assert [(one["id"], [node["html"][:100] for node in one["nodes"]][:3]) for one in problems] == []
