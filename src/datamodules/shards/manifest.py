"""The manifest of shards: what `prepare.py` wrote, and whether it is still whole."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from segue.atomic import write_record
from segue.datamodules.reading.files import digest_of_file
from segue.datamodules.reading.table import Reading
from segue.datamodules.splits import SPLITS
from segue.errors import InputError

MANIFEST = "manifest.json"
"""Its name; it is written last, therefore a folder that has it is whole."""
VERSION = 1
"""Of the columns of a shard and the keys of the manifest."""

ROW = {
    "session": "int64",
    "listener": "int64",
    "position": "int32",
    "timestamp": "int64",
    "following": "int64",
    "played_ratio": "float",
    "previous_position": "int32",
    "previous": "int64",
    "split": "int8",
}
"""The columns of a shard with their Arrow types.

`session` is the number of the session in the order of starts, `position` the place 0, 1, … of the event in it,
`timestamp` when it was played (ms since 1970; 0 without a clock), `following` the row of its track, `played_ratio` the
share played (NULL where unknown), `previous` the row of the track it is paired with, at `previous_position` in the
session (NULL without a pair), and `split` the place in `SPLITS` (with split=pair, -1 where there is no pair). The rows
of a session are together, by position and then by previous position, NULL first; all events of a session have a row.
"""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One file of rows."""

    file: str
    rows: int
    bytes: int
    sha256: str
    pairs: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What is known of shards without opening one.

    Args:
        version: `VERSION` when they were written.
        digest: of all shards and the vocabulary, sixteen hexadecimal digits.
        recipe: name of the recipe that the source was prepared for.
        batch_size: number of pairs in a batch, unless the command line says another.
        context: name of the context that the source has unless the command line names another.
        counts: numbers of rows, events, sessions, listeners, tracks, artists, and of events in training sessions.
        pairs: number of pairs of each split.
        pairing: which tracks of a session are paired.
        by_pair: whether single pairs were split, not sessions.
        num_interleaved: number of sessions that ran at the same time as another one of their user.
        dropped: number of events (of pairs) that each rule left out.
        vocabulary: the files of the vocabulary with their digests; the first is JSON.
        shards: the files of rows, in the order of sessions.
    """

    version: int
    digest: str
    recipe: str
    batch_size: int
    context: str
    engine: str
    source: Mapping[str, Any]
    counts: Mapping[str, int]
    pairs: Mapping[str, int]
    pairing: str
    by_pair: bool
    has_clock: bool
    num_interleaved: int
    dropped: Mapping[str, int]
    reading: Reading
    vocabulary: Mapping[str, str]
    shards: Sequence[Shard]
    provenance: Mapping[str, str]

    def write(self, folder: Path) -> None:
        """Write `manifest.json`."""
        write_record(asdict(self), folder / MANIFEST)

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Read what `write` wrote.

        Raises:
            InputError: there is none, it is damaged, or another version wrote it.
        """
        path = folder / MANIFEST
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(
                f"datamodule.path={folder} has no {MANIFEST}, which prepare.py writes last; give the run folder of a "
                "prepare.py that has ended, or type its command again with hydra.run.dir=<this folder>"
            ) from None
        except (OSError, ValueError):
            raise _damaged(path) from None
        if (found := record.get("version") if isinstance(record, dict) else None) != VERSION:
            raise InputError(f"{path} has version {found} of shards, not {VERSION}; run prepare.py again")
        try:
            manifest: Manifest = TypeAdapter(cls).validate_python(record)
            pairs = {name: sum(shard.pairs[name] for shard in manifest.shards) for name in SPLITS}
            if manifest.pairs != pairs or manifest.counts.keys() != _COUNTS or manifest.batch_size < 1:
                raise _damaged(path)
        except (ValidationError, KeyError):
            raise _damaged(path) from None
        return manifest

    @staticmethod
    def digest_of(shards: Sequence[Shard], vocabulary: Mapping[str, str]) -> str:
        """The digest of the whole from those of its files."""
        parts = [shard.sha256 for shard in shards] + list(vocabulary.values())
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def check_files(self, folder: Path) -> None:
        """Refuse shards that are missing or have another size. It opens no file.

        Raises:
            InputError: a file is missing or has another size, or the manifest does not fit itself.
        """
        if self.digest != self.digest_of(self.shards, self.vocabulary):
            raise _damaged(folder / MANIFEST)
        for shard in self.shards:
            path = folder / shard.file
            if not path.is_file():
                raise InputError(f"shard {path} is missing; {_REMEDY}")
            if (size := path.stat().st_size) != shard.bytes:
                raise InputError(f"shard {path} has {size:,} bytes, and the manifest says {shard.bytes:,}; {_REMEDY}")

    def check_vocabulary(self, folder: Path) -> None:
        """Refuse a vocabulary whose bytes have changed.

        Raises:
            InputError: a file is missing or the digest is another one.
        """
        for name, digest in self.vocabulary.items():
            if not (folder / name).is_file():
                raise InputError(f"{folder / name} is missing; {_REMEDY}")
            check_digest(folder / name, digest)


def check_digest(path: Path, digest: str) -> None:
    """Refuse a file whose bytes have changed.

    Raises:
        InputError: the digest is another one.
    """
    if digest_of_file(path) != digest:
        raise InputError(f"{path} has another digest than the manifest says; {_REMEDY}")


_COUNTS = {"rows", "events", "sessions", "listeners", "tracks", "artists"}
_REMEDY = "copy it again, or prepare the data again in another folder"


def _damaged(path: Path) -> InputError:
    return InputError(f"{path} is damaged; {_REMEDY}")
