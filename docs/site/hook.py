"""MkDocs sees the pages where they are in the repository, so a link works both there and on the site.

`README.md` is the first page; `CONTRIBUTING.md` and every Markdown file in `docs/` and `experiments/` are the others.
Other files are on the site only if a page links to them.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.nav import Navigation
from mkdocs.structure.pages import Page

LINK = re.compile(r"""(?:\]\(|\b(?:src|href)=["'])([^)#"'\s]+)""")
FENCED = re.compile(r"(^```.*?^```)", re.MULTILINE | re.DOTALL)
ITEM = re.compile(r"[-*] |\d+\. ")
LIST_AFTER_PARAGRAPH = re.compile(r"^((?![-*#|>] |\d+\. |\s).+\n)(?=[-*] |1\. )", re.MULTILINE)
OF_SITE = ("docs/site/site.css", "docs/site/iframe-worker.js")
"""What the pages load. The script lets the search work on a page that a browser opens from the disk."""


def pages(root: Path) -> list[Path]:
    """The Markdown files that become pages."""
    return [
        root / "README.md",
        root / "CONTRIBUTING.md",
        *sorted((root / "docs").rglob("*.md")),
        *sorted((root / "experiments").rglob("*.md")),
    ]


def linked(page: Path, root: Path) -> set[Path]:
    """The files in the repository that a page links to."""
    targets = {(page.parent / link).resolve() for link in LINK.findall(page.read_text(encoding="utf-8"))}
    return {target for target in targets if target.is_file() and target.is_relative_to(root)}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replace the files of `docs_dir` by those of the repository, named by their path in it."""
    root = Path(config.docs_dir).resolve().parent
    of_theme = [file for file in files if file.src_dir != config.docs_dir]
    markdown = pages(root)
    paths = {*markdown, *(root / name for name in OF_SITE)}.union(*(linked(page, root) for page in markdown))
    of_repository = [
        File(path.relative_to(root).as_posix(), str(root), config.site_dir, config.use_directory_urls)
        for path in sorted(paths)
    ]
    return Files([*of_theme, *of_repository])


def on_page_markdown(markdown: str, **_: object) -> str:
    """Write lists and code as MkDocs reads them: CommonMark needs no empty line around them and less space in items."""
    parts = FENCED.split(markdown)
    parts[::2] = [_with_deep_items(LIST_AFTER_PARAGRAPH.sub(r"\1\n", part)) for part in parts[::2]]
    parts[1::2] = [f"\n{fence}\n" for fence in parts[1::2]]
    return "".join(parts)


def _with_deep_items(markdown: str) -> str:
    """What belongs to an item, four spaces from the margin; an empty line below an item of several paragraphs."""
    lines: list[str] = []
    width, has_paragraphs = 0, False
    for line in markdown.split("\n"):
        if re.match(r"\S", line):
            item = ITEM.match(line)
            if item and has_paragraphs and lines[-1]:
                lines.append("")
            width, has_paragraphs = len(item[0]) if item else 0, False
        elif width and line.strip():
            line = " " * (4 - width) + line
            has_paragraphs = has_paragraphs or not lines[-1]
        lines.append(line)
    return "\n".join(lines)


def on_page_context(context: dict[str, Any], page: Page, nav: Navigation, **_: object) -> dict[str, Any]:
    """Leave out the list of pages beside a page that is alone in its group."""
    if page in nav.items:
        page.meta["hide"] = ["navigation"]
    return context
