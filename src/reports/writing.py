"""The files of a report: Markdown, HTML, JSON and a picture, from one document."""

import base64
import html
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

from segue.reports.markdown import bullets, document
from segue.runs.atomic import write_record, write_text, write_whole

_STYLE = """
:root { color-scheme: light dark; --line: light-dark(#d9d9d9, #444); --shade: light-dark(#f4f6f8, #26292d); }
body { font: 16px/1.5 system-ui, sans-serif; color: light-dark(#222, #e4e4e4); background: light-dark(#fff, #16181b);
  max-width: 62rem; margin: 2rem auto; padding: 0 1rem; overflow-wrap: break-word; }
div { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; font-size: 0.9rem; }
th, td { padding: 0.3rem 0.7rem; border-bottom: 1px solid var(--line); text-align: left; }
th { background: var(--shade); }
th[style], td[style] { white-space: nowrap; }
td { font-variant-numeric: tabular-nums; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
img { max-width: 100%; background: #fff; } code { background: var(--shade); padding: 0 0.2rem; }
"""


def write_report(
    folder: Path,
    name: str,
    record: Mapping[str, Any],
    provenance: Mapping[str, str],
    *,
    blocks: Sequence[str] = (),
    draw: Callable[[Path], None] | None = None,
    title: str | None = None,
) -> None:
    """Write `<name>.json`, and `.md`, `.png` and `.html` where there is something for them.

    Args:
        folder: where the files go; created if missing.
        provenance: command, commit and versions, by name; the last lines of every file.
        blocks: the report in Markdown.
        draw: draws the picture, which the Markdown may show.
        title: of the page; None for no page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {}
    if draw is not None:
        write_whole(folder / f"{name}.png", draw)
        pictures[f"{name}.png"] = (folder / f"{name}.png").read_bytes()
    if blocks:
        text = document([*blocks, bullets(f"{key}: {value}" for key, value in provenance.items())])
        write_text(text, folder / f"{name}.md")
        if title is not None:
            write_text(html_page(text, title, pictures), folder / f"{name}.html")
    write_record({**record, "provenance": dict(provenance)}, folder / f"{name}.json")


def html_page(markdown: str, title: str, pictures: dict[str, bytes]) -> str:
    """A page that needs no other file.

    Args:
        markdown: the text of the page; tags in it are shown as text.
        pictures: content of each PNG file that the text shows, by its name.
    """
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    body = body.replace("<table>", "<div><table>").replace("</table>", "</table></div>")  # wide ones scroll on a phone
    for name, content in pictures.items():
        body = body.replace(f'src="{name}"', f'src="data:image/png;base64,{base64.b64encode(content).decode()}"')
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{html.escape(title)}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )
