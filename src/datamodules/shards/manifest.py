"""The manifest of shards: what `prepare.py` wrote, and whether it is still whole."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from segue.atomic import write_record
from segue.datamodules.reading.files import digest_of_file
from segue.datamodules.reading.table import Reading
from segue.errors import InputError

MANIFEST = "manifest.json"
"""Its name; it is written last, therefore a folder that has it is whole."""
_REMEDY = "copy it again, or prepare the data again in another folder"


@dataclass(frozen=True, kw_only=True)
class File:
    """A file as it was written; `changed_ns` is when, in nanoseconds since 1970."""

    bytes: int
    sha256: str
    changed_ns: int

    @classmethod
    def of(cls, path: Path) -> "File":
        """Look at a file."""
        known = path.stat()
        return cls(bytes=known.st_size, sha256=digest_of_file(path), changed_ns=known.st_mtime_ns)

    def check(self, path: Path) -> None:
        """Refuse a file that is not as it was. Its bytes are read if it was written at another time, as a copy is.

        Raises:
            InputError: it is missing, or has another size or digest.
        """
        if not path.is_file():
            raise InputError(f"{path} is missing; {_REMEDY}")
        known = path.stat()
        if known.st_size != self.bytes:
            raise InputError(f"{path} has {known.st_size:,} bytes, and the manifest says {self.bytes:,}; {_REMEDY}")
        if known.st_mtime_ns != self.changed_ns and digest_of_file(path) != self.sha256:
            raise InputError(f"{path} has another digest than the manifest says; {_REMEDY}")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What is known of shards without opening a file.

    Args:
        recipe: name of the recipe that the source was prepared for.
        batch_size: number of pairs in a batch, unless the command line says another.
        source: the settings of the source.
        pairs: number of pairs of each split, in the order of the columns.
        shards: number of pairs of each shard, for training and of all splits: sessions that were made together.
        split: `time`, `order`, `session` or `pair`.
        num_interleaved: number of sessions that ran at the same time as another one of their user.
        dropped: number of events (of pairs) that each rule left out.
        files: those of the folder, by their name.
    """

    recipe: str
    batch_size: int
    engine: str
    source: Mapping[str, Any]
    pairs: Mapping[str, int]
    shards: Sequence[tuple[int, int]]
    split: str
    has_clock: bool
    num_interleaved: int
    dropped: Mapping[str, int]
    reading: Reading
    files: Mapping[str, File]
    provenance: Mapping[str, str]

    def write(self, folder: Path) -> None:
        """Write `manifest.json`."""
        write_record(asdict(self), folder / MANIFEST)

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Read what `write` wrote, and refuse files that are not as they were.

        Raises:
            InputError: there is none, it is damaged or of another version, or a file is not as it was.
        """
        path = folder / MANIFEST
        try:
            manifest: Manifest = TypeAdapter(cls).validate_python(json.loads(path.read_text(encoding="utf-8")))
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(
                f"datamodule.path={folder} has no {MANIFEST}, which prepare.py writes last; give the run folder of a "
                "prepare.py that has ended, or type its command again with hydra.run.dir=<this folder>"
            ) from None
        except (OSError, ValueError):  # pydantic's is one too
            raise InputError(f"{path} is damaged, or of another version; {_REMEDY}") from None
        for name, file in manifest.files.items():
            file.check(folder / name)
        return manifest
