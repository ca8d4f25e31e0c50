"""The files of a report: Markdown, HTML, JSON and a picture, from one document."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from segue.reports.markdown import bullets, document
from segue.reports.page import html_page
from segue.runs.atomic import write_record, write_whole


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
        name: of the report.
        record: the result as plain values.
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
        _write(text, folder / f"{name}.md")
        if title is not None:
            _write(html_page(text, title, pictures), folder / f"{name}.html")
    write_record({**record, "provenance": dict(provenance)}, folder / f"{name}.json")


def _write(text: str, path: Path) -> None:
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))
