import json
from pathlib import Path
from typing import Any

from src.datamodules.formats import READERS
from src.models.contracts import SourceEvents


def read(reader: str, folder: Path, *, max_rejected: float = 0.5) -> SourceEvents:
    """Rejected lines go to `out/` of the folder."""
    return READERS[reader].read(folder, max_rejected=max_rejected, rejected_path=folder / "out" / "rejected.jsonl")


def rejected_lines(folder: Path) -> list[dict[str, Any]]:
    texts = (folder / "out" / "rejected.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(text) for text in texts]


def rows(source: SourceEvents) -> list[tuple[object, ...]]:
    return source.database.execute(
        "SELECT user_id, timestamp, track, played_ratio, is_last FROM events ORDER BY user_id, timestamp, position"
    ).fetchall()
