"""One report writer: its sections are printed, and are the Markdown beside the JSON and the picture."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from segue.atomic import write_record, write_text, write_whole
from segue.reports.console import console
from segue.reports.markdown import bullets, document
from segue.reports.result_table import Table

Sections = Mapping[str, Table | Sequence[str]]
"""The parts of a report by their headings: a table with its notes, or sentences. The first may have no heading."""


def show(sections: Sections) -> None:
    """Print sections."""
    for heading, part in sections.items():
        lines = [part] if isinstance(part, Table) else [Text(f"- {line}") for line in part]
        console.print(*[Text(heading)] * bool(heading), *lines, "", sep="\n")


def write_report(
    folder: Path,
    name: str,
    record: Mapping[str, Any],
    provenance: Mapping[str, str],
    *,
    title: str = "",
    sections: Sections | None = None,
    draw: Callable[[Path], None] | None = None,
) -> None:
    """Write `<name>.json`, and `.md` and `.png` where there is something for them.

    Args:
        folder: where the files go; created if missing.
        provenance: command, commit and versions, by name; the last lines of every file.
        draw: draws the picture, which the Markdown shows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if draw is not None:
        write_whole(folder / f"{name}.png", draw)
    if sections:
        blocks = [f"# {title}"]
        for heading, part in sections.items():
            blocks += [f"## {heading}" * bool(heading), *in_markdown(part)]
        blocks += [f"![{title} as a picture]({name}.png)"] * (draw is not None)
        write_text(
            document([*blocks, bullets(f"{key}: {value}" for key, value in provenance.items())]), folder / f"{name}.md"
        )
    write_record({**record, "provenance": dict(provenance)}, folder / f"{name}.json")


def in_markdown(part: Table | Sequence[str]) -> list[str]:
    """The blocks of a section: a table and its notes, or sentences."""
    return [part.markdown(), bullets(part.notes)] if isinstance(part, Table) else [bullets(part)]
