"""From a source to Parquet shards with a manifest: what `prepare.py` does."""

import contextlib
import errno
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from segue.datamodules.pair_datamodule import PairDataModule
from segue.datamodules.shards.engines import DuckDBEngine
from segue.datamodules.shards.manifest import VERSION, Manifest, Shard, sha256
from segue.datamodules.shards.prepared_rows import PreparedRows, prepare_rows
from segue.datamodules.shards.shard_vocabulary import write_vocabulary
from segue.datamodules.splits import SPLITS
from segue.errors import InputError
from segue.runs.atomic import remove_partial_files, write_record
from segue.runs.folder import digest
from segue.runs.provenance import provenance

_PROGRESS = "progress.json"
"""The finished shards of a run that has not ended."""
_STAGING = ".staging"
"""Files that are needed until the end."""


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What is prepared, besides the source.

    Args:
        recipe: name of the recipe.
        batch_size: number of pairs in a batch.
        context: name of the context.
        source: the settings of the source, for the manifest.
        shard_rows: number of rows of a shard, about; at least 1.
    """

    recipe: str
    batch_size: int
    context: str
    source: Mapping[str, Any]
    shard_rows: int


def write_shards(
    datamodule: PairDataModule, engine: DuckDBEngine, what: Preparation, folder: Path
) -> tuple[Manifest, int]:
    """Write the shards of a source. Finished shards of a run that was killed are kept.

    Args:
        datamodule: the source; its files exist.
        engine: makes the rows.
        what: recipe and sizes.
        folder: where the shards are written; no other process writes there.

    Returns:
        The manifest, and the number of shards that an earlier run had finished.

    Raises:
        InputError: the source cannot be read, has too few pairs, or the engine cannot be started; or the folder has
            shards of another source.
        OSError: the disk is full, or must not be written to.
    """
    folder = folder.resolve()  # for other machines
    staging = folder / _STAGING
    shutil.rmtree(staging, ignore_errors=True)
    remove_partial_files(folder)
    try:
        rows = prepare_rows(datamodule, engine, staging, what.shard_rows)
        pairs = {name: rows.numbers[name] for name in SPLITS}
        num_sessions = len(rows.remaining)
        if empty := [name for name, num in pairs.items() if not num]:
            raise InputError(
                f"no pairs left for {' and '.join(empty)}: {num_sessions} sessions with {sum(pairs.values())} pairs in "
                f"{datamodule.path} are too few for split={datamodule.rules.split}; see python describe.py, or add "
                "more logs"
            )
        settings = {"source": dict(what.source), "recipe": what.recipe, "rows": what.shard_rows}
        state = {"version": VERSION, "settings": digest(settings), "rows": rows.digests}
        shards, num_kept = _write_shards(engine, rows, what.shard_rows, folder, state)
        vocabulary = write_vocabulary(rows.catalog, rows.hidden, folder)
        manifest = Manifest(
            version=VERSION,
            digest=Manifest.digest_of(shards, vocabulary),
            recipe=what.recipe,
            batch_size=what.batch_size,
            context=what.context,
            engine=engine.name,
            source=what.source,
            counts={
                **{name: rows.numbers[name] for name in ("rows", "events")},
                "sessions": num_sessions,
                "listeners": rows.num_listeners,
                "tracks": len(rows.catalog),
                "artists": rows.catalog.num_artists,
            },
            pairs=pairs,
            pairing=datamodule.rules.pairing,
            by_pair=datamodule.rules.split == "pair",
            has_clock="timestamp" in rows.reading.columns,
            num_interleaved=rows.numbers["interleaved"],
            num_tied=rows.numbers["tied"],
            dropped=rows.dropped,
            reading=rows.reading,
            vocabulary=vocabulary,
            shards=shards,
            provenance=provenance(),
        )
        engine.end()
    except (OSError, InputError):
        raise
    except Exception as error:  # DuckDB and Java have errors of their own
        if "No space left" in str(error) or "failed to offload" in str(error):
            raise OSError(errno.ENOSPC, "No space left on device", str(folder)) from None
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    manifest.write(folder)
    (folder / _PROGRESS).unlink(missing_ok=True)
    return manifest, num_kept


def source_settings(config: Any) -> dict[str, Any]:
    """The settings of a source that decide its rows, as plain values.

    Args:
        config: `datamodule` of a config.
    """
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return {str(name): value for name, value in plain.items() if name not in _OF_THE_RUN}


_OF_THE_RUN = ("rejected_path", "rejected_text", "max_rejected", "batch_size", "history", "seed")


def _write_shards(
    engine: DuckDBEngine, rows: PreparedRows, shard_rows: int, folder: Path, state: Mapping[str, Any]
) -> tuple[list[Shard], int]:
    tasks, kept = rows.shards(folder, shard_rows), _finished(folder, state)
    for stale in set(folder.glob("*.parquet")) - {folder / name for name in kept}:
        stale.unlink()
    done = dict(kept)
    for shard in engine.map(rows.maker.write, [task for task in tasks if task.path.name not in kept]):
        done[shard.file] = shard
        write_record({**state, "shards": [asdict(one) for one in done.values()]}, folder / _PROGRESS)
    return [done[task.path.name] for task in tasks], len(kept)


def _finished(folder: Path, state: Mapping[str, Any]) -> dict[str, Shard]:
    """The whole shards of an earlier run with the same rows."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        record = json.loads((folder / _PROGRESS).read_text(encoding="utf-8"))
        shards = [Shard(**shard) for shard in record.pop("shards")]
        if record == state:
            return {one.file: one for one in shards if _is_whole(folder / one.file, one)}
    return {}


def _is_whole(path: Path, shard: Shard) -> bool:
    return path.is_file() and path.stat().st_size == shard.bytes and sha256(path) == shard.sha256
