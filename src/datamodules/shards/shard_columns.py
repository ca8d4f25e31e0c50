"""The rows of shards as columns in files that are mapped into memory: as many pairs as the disk holds.

P pairs of a split, S sessions, E events.
"""

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock
from jaxtyping import Int8

from segue.catalog import Listens
from segue.datamodules.pairs.pairs import Pairs
from segue.datamodules.pairs.sessions import Sessions
from segue.datamodules.shards.column_files import column_file, kind_of, map_column
from segue.datamodules.shards.manifest import ROW, Manifest, Shard
from segue.datamodules.splits import SPLITS
from segue.errors import InputError
from segue.runs.atomic import write_record, write_whole

_AT_ONCE = 1 << 18
"""Rows that are in memory at once."""
_RECORD = "columns.json"
_EVENT = ("session", "track", "played_ratio", "timestamp", "place")
_SESSION = ("listener", "part")
_TRAIN = ("session", "track", "played_ratio")
_PAIR = ("session", "listener", "previous", "following", "played_ratio", "last", "length")
_TABLES: Mapping[str, tuple[str, ...]] = {
    "event": _EVENT,
    "session": _SESSION,
    "heard": _TRAIN,
    **dict.fromkeys(SPLITS, _PAIR),
}
"""The columns of each table; a file has one."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Columns:
    """What the shards hold, in the order of sessions. All arrays are mapped files.

    Args:
        sessions: the sessions. Their users are numbers: shards have no ids of users.
        part: place of the split of each session in SPLITS; -1 where single pairs are split.
        train: the events of the training sessions; None where single pairs are split.
        pairs: of each split.
        shards: number of training pairs of each shard.
    """

    sessions: Sessions
    part: Int8[np.ndarray, "S"]
    train: Listens | None
    pairs: Mapping[str, Pairs]
    shards: list[int]


def map_columns(folder: Path, manifest: Manifest, cache: Path) -> Columns:
    """Map the columns of shards; the first time, read the shards, check their digests and write the columns.

    Args:
        folder: of the shards.
        manifest: of the shards.
        cache: folder for the columns; one that is there and has other files is left alone. Several processes may ask
            for them at once.

    Returns:
        The columns.

    Raises:
        InputError: a shard is missing, was changed, or is no file of the columns of a shard; or the columns cannot be
            written, or would replace other files.
    """
    manifest.check_files(folder)
    stamp = _stamp(folder, manifest)
    if not _are_whole(cache, stamp):
        try:
            _refuse_other_files(cache)
            cache.parent.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=cache.parent).close()  # where no file can be, the lock would be waited for
            with FileLock(cache.with_name(f".{cache.name}.lock")):
                if not _are_whole(cache, stamp):
                    _write(folder, manifest, cache, stamp)
        except OSError as error:
            raise InputError(
                f"the columns of the shards, {_num_bytes(manifest) / 1e6:,.1f} MB, cannot be written into {cache}: "
                f"{error.strerror}; choose another folder with datamodule.cache=<folder>"
            ) from None

    mapped = partial(map_column, cache)
    listener = mapped("session", "listener")
    sessions = Sessions(
        user=listener,
        number=np.arange(1, len(listener) + 1),
        listener=listener,
        has_clock=manifest.has_clock,
        listens=Listens(**{name: mapped("event", name) for name in _TRAIN}),
        timestamp=mapped("event", "timestamp"),
        place=mapped("event", "place"),
        num_interleaved=manifest.num_interleaved,
        num_tied=manifest.num_tied,
        dropped=manifest.dropped,
    )
    return Columns(
        sessions=sessions,
        part=mapped("session", "part"),
        train=None if manifest.by_pair else Listens(**{name: mapped("heard", name) for name in _TRAIN}),
        pairs={split: Pairs(**{name: mapped(split, name) for name in _PAIR}) for split in SPLITS},
        shards=[shard.pairs["train"] for shard in manifest.shards],
    )


def _num_bytes(manifest: Manifest) -> int:
    """Size of all columns, at most: an event may not be one of training."""

    def of_row(columns: tuple[str, ...]) -> int:
        return sum(kind_of(name).itemsize for name in columns)

    counts = manifest.counts
    of_events = counts["events"] * (of_row(_EVENT) + of_row(_TRAIN))
    return of_events + counts["sessions"] * of_row(_SESSION) + sum(manifest.pairs.values()) * of_row(_PAIR)


def _stamp(folder: Path, manifest: Manifest) -> dict[str, Any]:
    """What changes when a shard is written again."""
    times = [(folder / shard.file).stat().st_mtime_ns for shard in manifest.shards]
    return {"digest": manifest.digest, "times": times}


def _are_whole(cache: Path, stamp: Mapping[str, Any]) -> bool:
    """Whether the folder has all columns of these shards."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        record = json.loads((cache / _RECORD).read_text(encoding="utf-8"))
        sizes: dict[str, int] = record["sizes"]
        files = [(column_file(cache, table, name), table, name) for table, names in _TABLES.items() for name in names]
        is_whole = all(path.stat().st_size == sizes[table] * kind_of(name).itemsize for path, table, name in files)
        return is_whole and {name: record[name] for name in stamp} == stamp
    return False


def _refuse_other_files(cache: Path) -> None:
    if cache.exists() and not (cache / _RECORD).exists() and any(cache.iterdir()):
        raise InputError(
            f"the columns of the shards would replace {cache}, which has other files; choose a new folder with "
            "datamodule.cache=<folder>"
        )


def _write(folder: Path, manifest: Manifest, cache: Path, stamp: Mapping[str, Any]) -> None:
    """Write the columns of all shards into a folder."""

    def write(partial: Path) -> None:
        with contextlib.ExitStack() as stack:
            writer = _Writer(partial, stack, manifest)
            for shard in manifest.shards:
                manifest.check_digest(folder, shard)
                for rows in _batches(folder / shard.file, shard):
                    writer.add(rows)
        writer.check()
        write_record({**stamp, "sizes": writer.sizes}, partial / _RECORD)

    write_whole(cache, write, is_folder=True)


def _batches(path: Path, shard: Shard) -> Iterator[dict[str, np.ndarray]]:
    """The rows of a shard, some at a time. A previous track that there is not is -1, an unknown share NaN."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except pa.ArrowException as error:
        raise InputError(f"shard {path} is no Parquet file: {error}; prepare the data again") from None
    with file:
        found = {field.name: str(field.type) for field in file.schema_arrow}
        if found != ROW:
            wrong = sorted(name for name in {*found, *ROW} if found.get(name) != ROW.get(name))
            shown = ", ".join(f"{name} is {found.get(name, 'missing')}" for name in wrong)
            raise InputError(f"shard {path} has another schema: {shown}; prepare the data again with this version")
        if file.metadata.num_rows != shard.rows:
            raise InputError(f"shard {path} has {file.metadata.num_rows} rows, and the manifest says {shard.rows}")
        for batch in file.iter_batches(_AT_ONCE):
            columns = dict(zip(batch.schema.names, batch.columns, strict=True))
            for name in ("previous", "previous_position"):
                columns[name] = columns[name].fill_null(-1)
            yield {name: column.to_numpy(zero_copy_only=False) for name, column in columns.items()}


class _Writer:
    """Appends rows to the files of columns.

    Args:
        folder: for the files.
        stack: closes them.
        manifest: of the shards.
    """

    def __init__(self, folder: Path, stack: contextlib.ExitStack, manifest: Manifest) -> None:
        self._manifest = manifest
        self._files: dict[tuple[str, str], BinaryIO] = {
            (table, name): stack.enter_context(column_file(folder, table, name).open("wb"))
            for table, names in _TABLES.items()
            for name in names
        }
        self.sizes = dict.fromkeys(_TABLES, 0)
        self._before = (-1, -1)

    def add(self, rows: Mapping[str, np.ndarray]) -> None:
        """Add rows, which follow those that were added before."""
        session, position, split = rows["session"], rows["position"].astype(np.int64), rows["split"]
        first_session, first_position = self._before
        is_event = np.concatenate([[True], (session[1:] != session[:-1]) | (position[1:] != position[:-1])])
        is_event[0] = (session[0], position[0]) != (first_session, first_position)
        self._before = int(session[-1]), int(position[-1])
        event = self.sizes["event"] + is_event.cumsum() - 1
        begins = is_event & (position == 0)
        events = {
            "session": session,
            "track": rows["following"],
            "played_ratio": rows["played_ratio"],
            "timestamp": rows["timestamp"],
            "place": position,
        }
        start = event - position
        near = rows["previous_position"] if self._manifest.pairing == "window" else position - 1
        last = start + near
        pairs = {**rows, "last": last, "length": near + 1}
        self._append("event", events, is_event)
        self._append("session", {"listener": rows["listener"], "part": split}, begins)
        if not self._manifest.by_pair:
            self._append("heard", events, is_event & (split == 0))
        is_pair = rows["previous"] >= 0
        for part, name in enumerate(SPLITS):
            self._append(name, pairs, is_pair & (split == part))

    def _append(self, table: str, columns: Mapping[str, np.ndarray], chosen: np.ndarray) -> None:
        self.sizes[table] += int(chosen.sum())
        for (of, name), file in self._files.items():
            if of == table:
                file.write(np.ascontiguousarray(columns[name][chosen], kind_of(name)).data)

    def check(self) -> None:
        """Refuse rows whose numbers are not those of the manifest.

        Raises:
            InputError: they differ.
        """
        counts, pairs = self._manifest.counts, self._manifest.pairs
        expected = {"event": counts["events"], "session": counts["sessions"], **pairs}
        for table, num in expected.items():
            if self.sizes[table] != num:
                raise InputError(
                    f"the shards have {self.sizes[table]:,} rows of {table}, and the manifest says {num:,}; prepare "
                    "the data again"
                )
