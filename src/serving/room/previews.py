"""Audio previews: which tracks can be heard, and from where.

The column `audio` of a `tracks.json` has the address of a preview, or a file. Only what lies in the folders and on the
hosts that the operator allows is played.
"""

import mimetypes
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from segue.catalog import id_problem, key_of
from segue.errors import InputError
from segue.runs.catalog_files import read_lines

_HOST = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?")

LOCAL = "local"
"""Instead of an address, for a preview that the room sends itself."""

_MAX_BYTES = 20_000_000  # of the largest preview that the room sends


def is_host(given: str) -> bool:
    """Whether a text is a scheme and a host, with or without a port, and nothing else."""
    return _HOST.fullmatch(given) is not None


class Previews:
    """The previews of a catalogue.

    Args:
        file: a `tracks.json` with the column `audio`; files are relative to its folder.
        allowed: folders of this machine, and hosts such as `https://previews.example.com`.

    Raises:
        InputError: the file cannot be read, or has no preview that is allowed.
    """

    def __init__(self, file: Path, allowed: Sequence[str]) -> None:
        self._hosts = {one for one in allowed if is_host(one)}
        self._folders = [Path(one).resolve() for one in allowed if not is_host(one)]
        self._of: dict[int, str | Path] = {}  # by `key_of`
        num_given = 0
        for _, record in read_lines(file):
            track: Any
            track, audio = record.get("track"), record.get("audio")
            if isinstance(track, int | str) and not id_problem(track) and isinstance(audio, str) and audio:
                num_given += 1
                if (found := self._allowed(audio, file.parent)) is not None:
                    self._of[key_of(track)] = found
        if not self._of:
            how = f"none of {num_given:,} previews is in room.audio_from={list(allowed)}; allow a folder or a host"
            none = 'no track has a preview; a line of it is {"track": 1, …, "audio": "1.mp3"}'
            raise InputError(f"room.audio={file}: {how if num_given else none}")
        self.num_refused = num_given - len(self._of)

    def of(self, key: int) -> str | None:
        """Address of the preview of a track, or `LOCAL`; None where it has none.

        Args:
            key: key of the track (`catalog.key_of`).
        """
        found = self._of.get(key)
        return LOCAL if isinstance(found, Path) else found

    def read(self, key: int) -> tuple[str, bytes] | None:
        """Media type and content of a local preview; None where there is none, or where it is too large.

        Args:
            key: key of the track (`catalog.key_of`).
        """
        found = self._of.get(key)
        if not isinstance(found, Path) or not self._is_inside(found) or found.stat().st_size > _MAX_BYTES:
            return None
        return _kind(found) or "", found.read_bytes()

    def _allowed(self, audio: str, folder: Path) -> str | Path | None:
        if "://" in audio:
            parts = urlsplit(audio)
            return audio if f"{parts.scheme}://{parts.netloc}" in self._hosts else None
        path = folder / audio
        return path if self._folders and _kind(path) and self._is_inside(path) else None

    def _is_inside(self, path: Path) -> bool:
        """Whether a file is there and lies in an allowed folder, links followed."""
        real = path.resolve()
        return real.is_file() and any(real.is_relative_to(folder) for folder in self._folders)


def _kind(path: Path) -> str | None:
    kind, _ = mimetypes.guess_type(path.name)
    return kind if kind is not None and kind.startswith("audio/") else None
