"""Result files that appear under their name only when they are whole."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def write_record(record: Mapping[str, Any], path: Path) -> None:
    """Write JSON; what is no finite number becomes null."""
    finite = json.loads(json.dumps(record), parse_constant=lambda _: None)
    write_text(json.dumps(finite, indent=1, ensure_ascii=False) + "\n", path)


def write_text(text: str, path: Path) -> None:
    """Write a text."""
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def write_whole(path: Path, write: Callable[[Path], Any], *, is_folder: bool = False) -> None:
    """Let `write` fill a file of another name, then give it its own. An error of the disk names `path`.

    Args:
        path: the file, or the folder; a folder that was there is deleted.
        is_folder: whether it is a folder, which `write` gets empty.
    """
    partial = path.with_name(f".{os.getpid()}.partial.{path.name}")  # keeps its ending, which tells writers the format
    try:
        if is_folder:
            _remove(partial)
            partial.mkdir()
        write(partial)
        if is_folder:
            shutil.rmtree(path, ignore_errors=True)
        partial.replace(path)
    except OSError as error:
        if error.errno and error.filename in (None, str(partial)):
            error.filename = str(path)
        raise
    finally:
        _remove(partial)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
