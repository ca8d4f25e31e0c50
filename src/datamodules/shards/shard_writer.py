"""From a source to Parquet shards with a manifest: what `prepare.py` does."""

import contextlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb

from segue.datamodules.pair_datamodule import PairDataModule
from segue.datamodules.pairs.engines import Engine, disk_error, sha256
from segue.datamodules.pairs.row_steps import Rows, make_rows
from segue.datamodules.shards.manifest import VERSION, Manifest, Shard
from segue.datamodules.shards.shard_vocabulary import write_vocabulary
from segue.datamodules.splits import SPLITS
from segue.errors import InputError
from segue.runs.atomic import remove_partial_files, write_record
from segue.runs.folder import digest
from segue.runs.provenance import provenance

_PROGRESS = "progress.json"
"""The finished shards of a run that has not ended."""
_STAGING = ".staging"
"""Files that an engine needs until the end."""


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


def write_shards(datamodule: PairDataModule, engine: Engine, what: Preparation, folder: Path) -> tuple[Manifest, int]:
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
    staging = folder / _STAGING
    shutil.rmtree(staging, ignore_errors=True)
    remove_partial_files(folder)
    try:
        with datamodule.source() as source:
            rows = make_rows(engine, source, datamodule.rules, staging)
            pairs = _pairs_of(engine)
            _check_pairs(pairs, rows, str(datamodule.path), datamodule.rules.split)
            state = {
                "version": VERSION,
                "settings": digest({"source": dict(what.source), "recipe": what.recipe, "rows": what.shard_rows}),
                "rows": [rows.num_rows, rows.num_events, rows.num_sessions, *pairs.values()],
                "sum": _sum_of(engine),
            }
            shards, num_kept = _write_shards(engine, rows, what.shard_rows, folder, state)
            vocabulary = write_vocabulary(source.catalog, rows.hidden, folder)
            manifest = Manifest(
                version=VERSION,
                digest=Manifest.digest_of(shards, vocabulary),
                recipe=what.recipe,
                batch_size=what.batch_size,
                context=what.context,
                engine=engine.name,
                source=what.source,
                counts={
                    "rows": rows.num_rows,
                    "events": rows.num_events,
                    "sessions": rows.num_sessions,
                    "listeners": rows.num_listeners,
                    "tracks": len(source.catalog),
                    "artists": source.catalog.num_artists,
                },
                pairs=pairs,
                pairing=datamodule.rules.pairing,
                by_pair=rows.by_pair,
                has_clock=rows.has_clock,
                num_interleaved=rows.num_interleaved,
                num_tied=rows.num_tied,
                dropped=rows.dropped,
                reading=source.reading,
                vocabulary=vocabulary,
                shards=shards,
                provenance=provenance(),
            )
            engine.end()
    except (OSError, InputError):
        raise
    except Exception as error:  # DuckDB and Java have errors of their own
        if "No space left" in str(error) or "failed to offload" in str(error):
            raise disk_error(error, folder) from None
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


def _pairs_of(engine: Engine) -> dict[str, int]:
    found = engine.fetch("SELECT split, COUNT(*) AS num FROM rows WHERE previous IS NOT NULL GROUP BY split")
    counts = dict(zip(found["split"].tolist(), found["num"].tolist(), strict=True))
    return {name: int(counts.get(part, 0)) for part, name in enumerate(SPLITS)}


def _sum_of(engine: Engine) -> list[int]:
    """Sums over all columns that show whether the rows are those of an earlier run."""
    found = engine.fetch("""
        SELECT COALESCE(SUM(CAST(MOD(following * 31 + position * 17 + session, 1000003) AS BIGINT)), 0) AS tracks,
               COALESCE(SUM(MOD(timestamp + listener * 31, 1000003)), 0) AS times,
               COALESCE(SUM(MOD((CAST(ROUND(COALESCE(played_ratio, -1) * 1000000) AS BIGINT) + 2000000)
                                * (MOD(session, 1009) + position + 1), 1000003)), 0) AS shares,
               COALESCE(SUM(MOD((COALESCE(previous, -1) + 2) * 31 + (COALESCE(previous_position, -1) + 2) * 17
                                + (split + 2) * (MOD(session, 1009) + 1), 1000003)), 0) AS pairs FROM rows""")
    return [int(found[name][0]) for name in ("tracks", "times", "shares", "pairs")]


def _check_pairs(pairs: Mapping[str, int], rows: Rows, path: str, split: str) -> None:
    if empty := [name for name, num in pairs.items() if not num]:
        raise InputError(
            f"no pairs left for {' and '.join(empty)}: {rows.num_sessions} sessions with {sum(pairs.values())} pairs "
            f"in {path} are too few for split={split}; see python describe.py, or add more logs"
        )


def _write_shards(
    engine: Engine, rows: Rows, shard_rows: int, folder: Path, state: Mapping[str, Any]
) -> tuple[list[Shard], int]:
    num = max(1, -(-rows.num_rows // shard_rows))
    per_shard = -(-rows.num_sessions // num)
    ranges = {
        folder / f"pairs-{number:05d}.parquet": (first, min(first + per_shard, rows.num_sessions))
        for number, first in enumerate(range(0, rows.num_sessions, per_shard))
    }
    kept = _finished(folder, state)
    for stale in set(folder.glob("*.parquet")) - {folder / name for name in kept}:
        stale.unlink()
    missing = {path: between for path, between in ranges.items() if path.name not in kept}
    done = dict(kept)
    write_record({**state, "shards": [asdict(shard) for shard in done.values()]}, folder / _PROGRESS)
    for path in engine.write(missing):
        done[path.name] = _described(path)
        write_record({**state, "shards": [asdict(shard) for shard in done.values()]}, folder / _PROGRESS)
    return [done[path.name] for path in ranges], len(kept)


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


def _described(path: Path) -> Shard:
    """What the manifest says of a shard that was written."""
    with duckdb.connect() as database:
        quoted = str(path).replace("'", "''")
        found = database.execute(
            f"SELECT split, COUNT(*), COUNT(previous) FROM read_parquet('{quoted}') GROUP BY split"
        ).fetchall()
    pairs = {split: num for split, _, num in found}
    return Shard(
        file=path.name,
        rows=sum(num for _, num, _ in found),
        bytes=path.stat().st_size,
        sha256=sha256(path),
        pairs={name: int(pairs.get(part, 0)) for part, name in enumerate(SPLITS)},
    )
