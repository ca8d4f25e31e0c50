"""Damaged exports, drawn with a seed: text of every line end, quote and encoding, cut, mixed, packed."""

import csv
import gzip
import io
import json
import random
import sys
import tempfile
import zipfile
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Literal

from segue.datamodules.reading.rejected_rows import Rejections
from segue.datamodules.reading.table import read_table
from segue.datamodules.reading.table_settings import TableSettings
from segue.errors import InputError
from tests.conftest import settings_of

_NAMES = ["user", "timestamp", "track", "title"]
_ENDS = ("\n", "\r", "\r\n")
_QUOTING: tuple[Literal[0, 1, 2], ...] = (csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC)
_BYTES = (b'"', b"\r", b"\n", b"\0", b",", b'""', b"\xff", b"\xc3", b'"\r', b"'", b"\\", b"\xef\xbb\xbf", b"{", b"[")


def damaged_export(seed: int) -> tuple[str, bytes]:
    """Name and content of a file of plays.

    Args:
        seed: the same seed gives the same file.
    """
    rng = random.Random(seed)
    text = io.StringIO(newline="")
    kind = rng.choice(["csv", "csv", "csv", "txt", "tsv", "csv.gz", "zip", "json", "jsonl"])
    delimiter, quoting, own = rng.choice(",;\t|"), rng.choice(_QUOTING), rng.choice(_ENDS)
    for row in range(rng.choice([2, 20, 60, 200])):
        end = own if rng.random() < 0.9 else rng.choice(_ENDS)
        title = f"Song {row % 9}"
        if rng.random() < 0.1:
            title += rng.choice([*_ENDS, '"', delimiter, "'", "\\", "\u00e9\u2013", ""]) * rng.randint(1, 3) + "x"
        cells = [f"u{row % 5}", 1_700_000_000 + row, row, title] if row else _NAMES
        if rng.random() < 0.02 and row:
            cells = cells[: rng.randint(0, 3)] or [""]
        if "json" not in kind:
            csv.writer(text, delimiter=delimiter, quoting=quoting, lineterminator=end).writerow(cells)
        elif row:
            text.write(json.dumps(dict(zip(_NAMES, cells, strict=False)), ensure_ascii=False) + end)
    encoding = rng.choice(["utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-be", "windows-1252"])
    content = text.getvalue().encode(encoding)
    for _ in range(rng.choice([0, 0, 1, 3])):
        place = rng.randrange(len(content) + 1)
        content = content[:place] + rng.choice(_BYTES) + content[place + rng.randint(0, 2) :]
    content = content[: rng.randrange(len(content) + 1)] if rng.random() < 0.1 else content
    if kind == "csv.gz":
        content = gzip.compress(content, 1)
    elif kind == "zip":
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as file:
            file.writestr("deep/plays.csv", content)
            file.writestr("README.md", "x")
        content = packed.getvalue()
    if rng.random() < 0.05 and kind in ("csv.gz", "zip"):
        content = content[: rng.randrange(len(content) + 1)]
    return f"plays.{kind}", content


@cache
def _table() -> TableSettings:
    return settings_of("table")


def outcome(seed: int, folder: Path) -> str:
    """What reading a damaged export ends in: `read`, or the message of the refusal. Other exceptions are faults.

    Args:
        seed: of the export.
        folder: where it is written.
    """
    name, content = damaged_export(seed)
    (folder / name).write_bytes(content)
    rejections = Rejections(path=folder / "rejected.jsonl", most=1.0)
    try:
        with read_table(str(folder / name), _table(), rejections=rejections) as events:
            events.database.execute("FROM events").fetchall()
    except InputError as error:
        return str(error)
    finally:
        (folder / name).unlink()
    return "read"


def main() -> None:
    """Read the exports with the seeds from the first to the second argument, and print how often each outcome is."""
    first, last = map(int, sys.argv[1:3] or ["0", "10000"])
    counts = Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(first, last):
            try:
                text = outcome(seed, Path(folder))
            except Exception as error:
                text = f"FAULT {seed} {type(error).__name__}: {error}"
            is_odd = "\n" in text or "DuckDB fails" in text or text.startswith("FAULT")
            counts[f"{seed}: {text}" if is_odd else "read" if text == "read" else "refused"] += 1
    for text, count in counts.most_common():
        print(count, text)


if __name__ == "__main__":
    main()
