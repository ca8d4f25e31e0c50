"""Result files that appear under their name only when they are whole."""

import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def write_record(record: Mapping[str, Any], path: Path) -> None:
    """Write JSON; what is no finite number becomes null."""
    text = json.dumps(_finite(record), indent=1, ensure_ascii=False) + "\n"
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a file of another name, then give it its own. An error of the disk names `path`."""
    partial = path.with_name(f".{os.getpid()}.partial.{path.name}")  # keeps its ending, which tells writers the format
    try:
        write(partial)
        partial.replace(path)
    except OSError as error:
        if error.errno and error.filename in (None, str(partial)):
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def write_whole_folder(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a folder of another name, then give it its own. A folder that was there is deleted."""
    partial = path.with_name(f".{os.getpid()}.partial.{path.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        write(partial)
        shutil.rmtree(path, ignore_errors=True)
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_partial_files(folder: Path) -> None:
    """Delete what a process that was killed has not written to the end. Nobody may be writing into the folder."""
    for partial in folder.glob(".*.partial.*"):
        if partial.is_dir():
            shutil.rmtree(partial)
        else:
            partial.unlink()


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
