"""A source as tests read it: everything that `read_table` gives, and the rows of its view `events`."""

import io
import json
import zipfile
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from segue.catalog import Catalog
from segue.datamodules.pairs.pair_rules import PairRules, Policies
from segue.datamodules.reading.rejected_rows import Rejections
from segue.datamodules.reading.table import LeftOut, Reading, SourceEvents, read_table
from segue.datamodules.reading.table_settings import TableSettings
from tests.conftest import settings_of

Row = tuple[Any, ...]
"""Of an event: user, timestamp, row of the track, share played, whether it is the last of a session."""


@dataclass(frozen=True, kw_only=True)
class Read:
    """What was read.

    Args:
        catalog: the catalogue.
        reading: counts and choices.
        rows: the events by user, time and position.
        positions: their positions, in the same order.
        sessions: their sessions in the source, in the same order.
        heard: for each user, by the first position: row of the track and share played of each event.
    """

    catalog: Catalog
    reading: Reading
    rows: list[Row]
    positions: list[int]
    sessions: list[int | None]
    heard: list[list[tuple[int, float | None]]]


@cache
def _usual(source: str) -> TableSettings:
    """The settings of a source, which takes half as long to compose as few rows to read."""
    return settings_of(source)


def rules_of(**changes: Any) -> PairRules:
    """Rules that leave out nothing, unless told otherwise."""
    return PairRules(**{"policies": Policies(), "pairing": "consecutive", "split": "auto", **changes})


def opened(
    source: str,
    path: Path | str,
    *,
    max_rejected: float = 0.0,
    changes: Mapping[str, Any] | None = None,
    **left_out: Any,
) -> AbstractContextManager[SourceEvents]:
    """The events of a source, in DuckDB. Rejected rows go to `out/` of the folder; `left_out` as for `LeftOut`."""
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    return read_table(
        str(path),
        settings_of(source, changes) if changes else _usual(source),
        left_out=LeftOut(**left_out),
        rejections=Rejections(path=folder / "out" / "rejected.jsonl", most=max_rejected),
    )


def read(source: str, path: Path | str, *, max_rejected: float = 0.5, **options: Any) -> Read:
    """Read a source; `options` as for `opened`."""
    with opened(source, path, max_rejected=max_rejected, **options) as events:
        rows = events.database.execute("""
            SELECT user_id, timestamp, track, played_ratio, is_last, position, source_session FROM events
            ORDER BY user_id, timestamp, position""").fetchall()
        of_user: dict[Any, list[tuple[int, float | None]]] = {}
        for user, _, track, share, *_ in sorted(rows, key=lambda row: row[5]):
            of_user.setdefault(user, []).append((track, share))
        names = events.user_names
        return Read(
            catalog=events.catalog,
            reading=events.reading,
            rows=[(user if names is None else names[user], *row[:4]) for user, *row in rows],
            positions=[row[5] for row in rows],
            sessions=[row[6] for row in rows],
            heard=list(of_user.values()),
        )


def rejected_lines(folder: Path) -> list[dict[str, Any]]:
    texts = (folder / "out" / "rejected.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(text) for text in texts]


def zipped(members: Mapping[str, str | bytes]) -> bytes:
    """An archive of files, by name."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for name, text in members.items():
            file.writestr(name, text)
    return content.getvalue()
