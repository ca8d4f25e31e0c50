"""From a source to shards with a manifest: what `prepare.py` does.

DuckDB divides the events by listeners, and an engine cuts each part into sessions. These are numbered and split. Then
the engine pairs them range by range, and each range is written to the end of the columns. S sessions.
"""

import errno
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
from jaxtyping import Int8

from segue.datamodules.pairs.pairs_in_splits import Paired, paired, track_facts, training_plays
from segue.datamodules.pairs.sessions import session_keys
from segue.datamodules.shards.columns import PAIR, TABLES, GrowingColumn, mapped
from segue.datamodules.shards.cut_parts import CutParts, write_events
from segue.datamodules.shards.engines import DuckDBEngine
from segue.datamodules.shards.manifest import MANIFEST, File, Manifest
from segue.datamodules.shards.tracks import write_tracks
from segue.datamodules.splits import SPLITS, split
from segue.errors import InputError
from segue.runs.provenance import provenance
from segue.settings import Setting, settings

if TYPE_CHECKING:
    from segue.datamodules.log_source import LogSource  # needs torch, which other machines may not have

_FULL = ("No space left", "failed to offload")  # what DuckDB and Java say of a full disk


class SessionRange(NamedTuple):
    """Sessions that follow each other: the first one, the one after the last, and the splits of them (or of pairs)."""

    first: int
    end: int
    parts: Int8[np.ndarray, "_"]


@settings()
def write_shards(
    logs: "LogSource",
    engine: DuckDBEngine,
    folder: Path,
    *,
    shard_rows: Annotated[int, Setting("number of rows of a shard, about", least=1)],
    **of_run: Any,
) -> Manifest:
    """Write the shards of logs. Those of a run that was killed are replaced.

    Args:
        logs: their files exist.
        folder: where the shards are written; no other process writes there.
        of_run: `recipe`, `batch_size`, `context` and `source` of the manifest.

    Raises:
        InputError: the logs cannot be read, have too few pairs, or the engine cannot be started.
        OSError: the disk is full, or must not be written to.
    """
    folder = folder.resolve()  # for other machines
    (folder / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(staging := folder / ".staging", ignore_errors=True)
    try:
        manifest = _written(logs, engine, folder, staging, shard_rows, of_run)
    except Exception as error:
        if not isinstance(error, OSError) and any(one in str(error) for one in _FULL):
            raise OSError(errno.ENOSPC, "No space left on device", str(folder)) from None
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    manifest.write(folder)
    return manifest


def _written(
    logs: "LogSource", engine: DuckDBEngine, folder: Path, staging: Path, shard_rows: int, of_run: Mapping[str, Any]
) -> Manifest:
    rules = logs.rules
    with logs.events() as events:
        catalog, reading, names = events.catalog, events.reading, events.user_names
        kind = rules.split_of(has_clock=(has_clock := "timestamp" in reading.columns))
        write_events(events, staging, engine.num_parts(reading.num_events))
    parts = CutParts(folder=staging, reading=reading, rules=rules)
    cut = list(engine.map(parts.cut, parts.parts))
    sessions = parts.number(cut)
    begins = np.append(0, sessions["num_pairs"].cumsum())
    num, num_pairs, users = len(sessions), int(begins[-1]), sessions["user"].to_numpy()
    users = users if names is None else names[users]
    in_splits = split(kind, num, num_pairs, lambda: session_keys(users, sessions["number"].to_numpy()))
    at_once = max(1, -(-num // max(1, -(-(num + num_pairs) // shard_rows))))  # rows: first events, and pairs
    begins = begins if kind == "pair" else np.arange(num + 1)
    ends = [(first, min(first + at_once, num)) for first in range(0, num, at_once)]
    ranges = [SessionRange(first, end, in_splits[begins[first] : begins[end]]) for first, end in ends]
    plays = engine.map(partial(_of_range, parts, training_plays, len(catalog)), ranges)
    facts = track_facts(plays, catalog, rules, is_longest=reading.share == "longest")
    made = engine.map(partial(_of_range, parts, paired, facts), ranges)
    num_sessions, dropped, shards = _write_columns(made, staging, is_mixed=kind == "session")
    for one in cut:
        dropped.update(one.counts)
    pairs = {name: sum(shard[part] for shard in shards) for part, name in enumerate(SPLITS)}
    if empty := [name for name, num_of_split in pairs.items() if not num_of_split]:
        raise InputError(
            f"no pairs left for {' and '.join(empty)}: {num_sessions} sessions with {sum(pairs.values())} pairs in "
            f"{logs.path} are too few for split={rules.split}; see describe.py, or add more logs"
        )
    files = [f"{table}-{name}.npy" for table, of_table in TABLES.items() for name in of_table]
    for name in files:
        (staging / name).replace(folder / name)
    files += write_tracks(catalog, facts.hidden, folder)
    return Manifest(
        engine=engine.name,
        pairs=pairs,
        shards=[(shard[0], sum(shard)) for shard in shards],
        split=kind,
        has_clock=has_clock,
        num_interleaved=dropped.pop(""),
        dropped=dict(dropped),
        reading=reading,
        files={name: File.of(folder / name) for name in files},
        provenance=provenance(),
        **of_run,
    )


def _of_range(parts: CutParts, function: Any, known: Any, given: SessionRange) -> Any:
    return function(parts.load(given.first, given.end), given.parts, parts.rules, known)


def _write_columns(
    ranges: Iterable[Paired], folder: Path, *, is_mixed: bool
) -> tuple[int, Counter[str], list[list[int]]]:
    """Write all ranges in their order, with the numbers that their sessions and events have among all.

    Args:
        is_mixed: whether sessions of every split follow each other, and those of training get columns of their own.

    Returns:
        Number of sessions; what each rule left out; number of pairs of each shard, by split.
    """
    before, dropped, shards = Counter[str](), Counter[str](), list[list[int]]()
    with ExitStack() as stack:
        files = {
            (table, name): stack.enter_context(closing(GrowingColumn(folder / f"{table}-{name}.npy")))
            for table, names in {**TABLES, "val": PAIR, "test": PAIR}.items()
            for name in names
        }
        for sessions, part, pairs, of_range in ranges:
            listens, whole = vars(sessions.listens), np.zeros(len(sessions), np.int8) if part is None else part
            is_heard = (whole == 0)[listens["session"]] if is_mixed else slice(0)
            columns: dict[str, Mapping[str, np.ndarray]] = {
                "event": {**listens, "timestamp": sessions.timestamp, "place": sessions.place},
                "heard": {name: column[is_heard] for name, column in listens.items()},
                "session": {"listener": sessions.listener, "part": whole},
                **{"pair" if name == "train" else name: vars(of_split) for name, of_split in pairs.items()},
            }
            for (table, name), file in files.items():
                column = columns[table][name]
                file.append(column + before[name] if name in before else column)
            before.update({"session": len(sessions), "last": len(sessions.place)})
            dropped.update(of_range)
            shards.append([len(of_split) for of_split in pairs.values()])
        for of in SPLITS[1:]:
            for name in PAIR:
                files[of, name].close()
                files["pair", name].append(mapped(folder, of, name))
    return before["session"], dropped, shards
