"""MkDocs sees the pages where they are in the repository, so a link works both there and on the site.

`README.md` is the first page; `CONTRIBUTING.md`, `CHANGELOG.md` and every Markdown file in `docs/` and `experiments/`
are the others.
Other files are on the site only if a page links to them. The page of all settings is written from the code.
"""

import html
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from pydoc import locate
from typing import Any

import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.nav import Navigation
from mkdocs.structure.pages import Page

LINK = re.compile(r"""(?:\]\(|\b(?:src|href)=["'])([^)#"'\s]+)""")
FENCED = re.compile(r"(^```.*?^```)", re.MULTILINE | re.DOTALL)
ITEM = re.compile(r"[-*] |\d+\. ")
LIST_AFTER_PARAGRAPH = re.compile(r"^((?![-*#|>] |\d+\. |\s).+\n)(?=[-*] |1\. )", re.MULTILINE)
NOTEBOOK = "examples/first_hour.ipynb"
OF_SITE = (
    NOTEBOOK,
    *("docs/site/site.css", "docs/site/iframe-worker.js"),
    *("src/serving/room/static/colours.css", "src/serving/room/static/icon.svg"),
)
"""What the pages load. Colours and mark are those of the listening room. The script lets the search work on a page that
a browser opens from the disk."""

SETTINGS = "docs/settings.md"
"""The page of all settings, which is no file: it is written when the site is built."""
SWEEPERS = {"Sweep": "segue.verbs.sweeps.jobs.Sweep", "Search": "segue.verbs.sweeps.search.Search"}
"""Where the sweepers are, which Hydra knows by names of its own."""


def settings_page(root: Path) -> str:
    """What the files of `conf/` build, with each setting: its value there, which values it may have, its meaning."""
    lines = [
        "# Settings",
        "",
        "What can be set on the command line, by the file of `conf/` that is chosen: `model.dim=64`, or",
        "`-m model.dim=32,64` in a sweep. A value `${…}` comes from another setting.",
    ]
    for path in sorted((root / "conf").rglob("*.yaml")):
        group = path.parent.relative_to(root / "conf").as_posix()
        bases = _bases(path) if group != "." else []
        shown = {row for base in bases for row in _rows(_config(base))}
        if rows := [row for row in _rows(_config(path)) if row not in shown]:
            about = re.match(r"(?:# .*\n)*", path.read_text(encoding="utf-8"))
            lines += ["", f"## {'' if group == '.' else f'{group}='}{path.stem}", ""]
            lines += [html.escape(re.sub(r"^# ", "", about[0], flags=re.MULTILINE), quote=False)] if about else []
            lines += [line for base in bases for line in (f"What differs from `{group}={base.stem}`:", "")]
            lines += ["| setting | value | must be | meaning |", "|---|---|---|---|", *rows]
    return "\n".join(lines) + "\n"


def _bases(path: Path) -> list[Path]:
    """The files of its folder on top of which a file of `conf/` is."""
    defaults = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("defaults", [])
    files = [path.with_name(f"{base}.yaml") for base in defaults if isinstance(base, str)]
    return [file for file in files if file.is_file()]


def _config(path: Path) -> Any:
    """A file of `conf/` with the defaults of what it builds and, where it is a variant, with what it varies."""
    from omegaconf import OmegaConf

    from segue.settings import with_defaults

    config: dict[str, Any] = with_defaults(yaml.safe_load(path.read_text(encoding="utf-8"))) or {}
    return OmegaConf.to_container(OmegaConf.merge(*map(_config, _bases(path)), config))


def _inner(node: Any, key: str) -> Any:
    """The value of a setting of a part, such as `datamodule.policies.repeats`, in the config of the whole."""
    for name in key.split(".")[1:]:
        node = node.get(name, "") if isinstance(node, dict) else ""
    return node


def _rows(node: Any) -> Iterator[str]:
    """A row of the table for each setting of what a node and the nodes in it build."""
    from segue.settings import described

    children = node if isinstance(node, list) else []
    if isinstance(node, dict):
        package, _, name = str(node.get("_target_", "")).rpartition(".")
        target = SWEEPERS[name] if package == "hydra_plugins.segue" else f"{package}.{name}"
        made: Any = locate(target) if target.startswith("segue.") else None
        for name, cells in (described(made) if made is not None else {}).items():
            value = node.get(name, _inner(node, cells[0]))
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            key, *words = (html.escape(cell, quote=False).replace("|", "\\|") for cell in cells)
            yield " | ".join([f"| `{key}`", shown and f"`{shown}`", *words]) + " |"
        children = [*node.values()]
    for child in children:
        yield from _rows(child)


def pages(root: Path) -> list[Path]:
    """The Markdown files that become pages."""
    return [
        root / "README.md",
        root / "CONTRIBUTING.md",
        root / "CHANGELOG.md",
        *sorted((root / "docs").rglob("*.md")),
        *sorted((root / "experiments").rglob("*.md")),
    ]


def linked(page: Path, root: Path) -> set[Path]:
    """The files in the repository that a page links to."""
    targets = {(page.parent / link).resolve() for link in LINK.findall(page.read_text(encoding="utf-8"))}
    return {target for target in targets if target.is_file() and target.is_relative_to(root)}


@event_priority(100)
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replace the files of `docs_dir` by those of the repository, named by their path, before the plugins see them."""
    root = Path(config.docs_dir).resolve().parent
    sys.path.insert(0, str(root))
    of_theme = [file for file in files if file.src_dir != config.docs_dir]
    markdown = pages(root)
    paths = {*markdown, *(root / name for name in OF_SITE)}.union(*(linked(page, root) for page in markdown))
    of_repository = [
        File(path.relative_to(root).as_posix(), str(root), config.site_dir, config.use_directory_urls)
        for path in sorted(paths)
    ]
    return Files([*of_theme, *of_repository, File.generated(config, SETTINGS, content=settings_page(root))])


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


def on_post_page(output: str, **_: object) -> str:
    """Name the search, which the theme leaves without a name, for people who hear the page."""
    return output.replace('role="dialog"', 'role="dialog" aria-label="Search"')
