"""The files of a report: Markdown, JSON and a picture, from one document."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from segue.atomic import write_record, write_text, write_whole
from segue.reports.markdown import bullets, document


def write_report(
    folder: Path,
    name: str,
    record: Mapping[str, Any],
    provenance: Mapping[str, str],
    *,
    blocks: Sequence[str] = (),
    draw: Callable[[Path], None] | None = None,
) -> None:
    """Write `<name>.json`, and `.md` and `.png` where there is something for them.

    Args:
        folder: where the files go; created if missing.
        provenance: command, commit and versions, by name; the last lines of every file.
        blocks: the report in Markdown.
        draw: draws the picture, which the Markdown may show.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if draw is not None:
        write_whole(folder / f"{name}.png", draw)
    if blocks:
        text = document([*blocks, bullets(f"{key}: {value}" for key, value in provenance.items())])
        write_text(text, folder / f"{name}.md")
    write_record({**record, "provenance": dict(provenance)}, folder / f"{name}.json")
