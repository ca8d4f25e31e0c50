"""Result files that appear under their name only when they are whole."""

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def write_record(record: Mapping[str, Any], path: Path) -> None:
    """Write JSON; what is no finite number becomes null."""
    text = json.dumps(_finite(record), indent=1, ensure_ascii=False) + "\n"
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a file of another name, then give it its own."""
    partial = path.with_name(f".{os.getpid()}.partial.{path.name}")  # keeps its ending, which tells writers the format
    try:
        write(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
