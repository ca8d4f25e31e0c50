"""The rows of shards as columns in files that are mapped into memory: as many pairs as the disk holds.

P pairs of a split, S sessions, R rows.
"""

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from jaxtyping import Bool, Int8

from segue.atomic import write_record, write_whole
from segue.catalog import Listens
from segue.datamodules.pairs.pairs import Pairs, newest_before
from segue.datamodules.pairs.sessions import Sessions
from segue.datamodules.shards.manifest import Manifest, check_digest
from segue.datamodules.shards.session_files import column_file, kind_of, map_column
from segue.datamodules.splits import SPLITS
from segue.errors import InputError

_AT_ONCE = 1 << 18  # rows that are in memory at once
_RECORD = "columns.json"
_TRAIN = ("session", "track", "played_ratio")
_PAIR = ("session", "listener", "previous", "following", "played_ratio", "last", "length")
# The columns of each table; a file has one.
_TABLES: Mapping[str, tuple[str, ...]] = {
    "event": ("session", "track", "played_ratio", "timestamp", "place"),
    "session": ("listener", "part"),
    "heard": _TRAIN,
    **dict.fromkeys(SPLITS, _PAIR),
}
_COLUMNS = [(table, name) for table, names in _TABLES.items() for name in names]


def map_columns(
    folder: Path, manifest: Manifest, cache: Path, *, is_all_training: bool = False
) -> tuple[Sessions, Int8[np.ndarray, "S"] | None, Listens | None, dict[str, Pairs]]:
    """Map the columns of shards; the first time, read the shards, check their digests and write the columns.

    Args:
        cache: folder for the columns; one that is there and has other files is left alone. Several processes may ask
            for them at once.
        is_all_training: whether all sessions, or all pairs, are for training, whatever their split is.

    Returns:
        Mapped files, in the order of sessions: the sessions (their users are numbers: shards have no ids of users); the
        place in `SPLITS` of each session, and the events of the training sessions (None where single pairs are split);
        and the pairs of each split.

    Raises:
        InputError: a shard is missing or was changed; or the columns cannot be written, or would replace other files.
    """
    manifest.check_files(folder)
    times = [(folder / shard.file).stat().st_mtime_ns for shard in manifest.shards]
    stamp = {"digest": manifest.digest, "times": times}  # changes when a shard is written again
    if not _are_whole(cache, stamp):
        try:
            if cache.exists() and not (cache / _RECORD).exists() and any(cache.iterdir()):
                raise InputError(
                    f"the columns of the shards would replace {cache}, which has other files; choose a new folder with "
                    "datamodule.cache=<folder>"
                )
            cache.parent.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=cache.parent).close()  # where no file can be, the lock would be waited for
            with FileLock(cache.with_name(f".{cache.name}.lock")):
                if not _are_whole(cache, stamp):
                    write_whole(
                        cache, lambda partial: _write(folder, manifest, partial, stamp, is_all_training), is_folder=True
                    )
        except OSError as error:
            raise InputError(
                f"the columns of the shards cannot be written into {cache}: {error.strerror}; choose another folder "
                "with datamodule.cache=<folder>"
            ) from None
    mapped = partial(map_column, cache)
    listener = mapped("session", "listener")
    sessions = Sessions(
        user=listener,
        number=np.arange(1, len(listener) + 1),
        listener=listener,
        listens=Listens(**{name: mapped("event", name) for name in _TRAIN}),
        timestamp=mapped("event", "timestamp"),
        place=mapped("event", "place"),
        **{name: getattr(manifest, name) for name in ("has_clock", "num_interleaved", "dropped")},
    )
    pairs = {split: Pairs(**{name: mapped(split, name) for name in _PAIR}) for split in SPLITS}
    if manifest.by_pair:
        return sessions, None, None, pairs
    return sessions, mapped("session", "part"), Listens(**{name: mapped("heard", name) for name in _TRAIN}), pairs


def _are_whole(cache: Path, stamp: Mapping[str, Any]) -> bool:
    """Whether the folder has all columns of these shards."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        record = json.loads((cache / _RECORD).read_text(encoding="utf-8"))
        return {name: record[name] for name in stamp} == stamp and all(
            column_file(cache, table, name).stat().st_size == record["sizes"][table] * kind_of(name).itemsize
            for table, name in _COLUMNS
        )
    return False


def _write(folder: Path, manifest: Manifest, cache: Path, stamp: Mapping[str, Any], is_all_training: bool) -> None:
    """Write the columns of all shards into a folder."""
    sizes, before = dict.fromkeys(_TABLES, 0), (-1, -1)
    with contextlib.ExitStack() as stack:
        files = {column: stack.enter_context(column_file(cache, *column).open("wb")) for column in _COLUMNS}
        for shard in manifest.shards:
            check_digest(folder / shard.file, shard.sha256)
            for rows in _batches(folder / shard.file):
                if is_all_training:
                    rows["split"] = np.minimum(rows["split"], 0)  # -1: no pair
                for table, (columns, chosen) in _tables_of(rows, manifest, sizes["event"], before).items():
                    sizes[table] += int(chosen.sum())
                    for name in _TABLES[table]:
                        files[table, name].write(np.ascontiguousarray(columns[name][chosen], kind_of(name)).data)
                before = int(rows["session"][-1]), int(rows["position"][-1])
    write_record({**stamp, "sizes": sizes}, cache / _RECORD)


def _tables_of(
    rows: dict[str, np.ndarray], manifest: Manifest, num_events: int, before: tuple[int, int]
) -> dict[str, tuple[Mapping[str, np.ndarray], Bool[np.ndarray, "R"]]]:
    """For each of `_TABLES` its columns, and which of some rows (R) it gets.

    Args:
        num_events: number of events in the rows before them.
        before: session and position of the row before them.
    """
    session, position, split = rows["session"], rows["position"].astype(np.int64), rows["split"]
    is_event = (np.diff(session, prepend=before[0]) != 0) | (np.diff(position, prepend=before[1]) != 0)
    start = num_events + is_event.cumsum() - 1 - position
    near = newest_before(position, rows["previous_position"], manifest.pairing)
    events = {**rows, "track": rows["following"], "place": position}
    is_pair, pairs = rows["previous"] >= 0, {**rows, "last": start + near, "length": near + 1}
    tables: dict[str, tuple[Mapping[str, np.ndarray], Bool[np.ndarray, R]]] = {
        "event": (events, is_event),
        "session": ({**rows, "part": split}, is_event & (position == 0)),
        **{name: (pairs, is_pair & (split == part)) for part, name in enumerate(SPLITS)},
    }
    return tables if manifest.by_pair else {**tables, "heard": (events, is_event & (split == 0))}


def _batches(path: Path) -> Iterator[dict[str, np.ndarray]]:
    """The rows of a shard, some at a time. A previous track that there is not is -1, an unknown share NaN."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_AT_ONCE):
            columns = dict(zip(batch.schema.names, batch.columns, strict=True))
            for name in ("previous", "previous_position"):
                columns[name] = columns[name].fill_null(-1)
            yield {name: column.to_numpy(zero_copy_only=False) for name, column in columns.items()}
