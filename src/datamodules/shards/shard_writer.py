"""From a source to Parquet shards with a manifest: what `prepare.py` does."""

import errno
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from segue.atomic import remove_partial_files
from segue.datamodules.pair_datamodule import PairDataModule
from segue.datamodules.shards.engines import DuckDBEngine
from segue.datamodules.shards.manifest import VERSION, Manifest
from segue.datamodules.shards.prepared_rows import prepare_rows
from segue.datamodules.shards.shard_vocabulary import write_vocabulary
from segue.datamodules.splits import SPLITS
from segue.errors import InputError
from segue.runs.folder import as_dict
from segue.runs.provenance import provenance
from segue.settings import Setting, settings

_STAGING = ".staging"  # files that are needed until the end


@settings()
def write_shards(
    datamodule: PairDataModule,
    engine: DuckDBEngine,
    folder: Path,
    *,
    recipe: str,
    batch_size: int,
    context: str,
    source: Mapping[str, Any],
    shard_rows: Annotated[int, Setting("number of rows of a shard, about", least=1)],
) -> Manifest:
    """Write the shards of a source. Those of a run that was killed are replaced.

    Args:
        datamodule: the source; its files exist.
        folder: where the shards are written; no other process writes there.

    Raises:
        InputError: the source cannot be read, has too few pairs, or the engine cannot be started.
        OSError: the disk is full, or must not be written to.
    """
    folder = folder.resolve()  # for other machines
    staging = folder / _STAGING
    shutil.rmtree(staging, ignore_errors=True)
    remove_partial_files(folder)
    try:
        rows = prepare_rows(datamodule, engine, staging, shard_rows)
        pairs = {name: rows.numbers[name] for name in SPLITS}
        if empty := [name for name, num in pairs.items() if not num]:
            raise InputError(
                f"no pairs left for {' and '.join(empty)}: {len(rows.remaining)} sessions with {sum(pairs.values())} "
                f"pairs in {datamodule.path} are too few for split={datamodule.rules.split}; see describe.py, or "
                "add more logs"
            )
        for old in folder.glob("*.parquet"):
            old.unlink()
        shards = list(engine.map(rows.maker.write, rows.shards(folder, shard_rows)))
        vocabulary = write_vocabulary(rows.catalog, rows.hidden, folder)
        manifest = Manifest(
            version=VERSION,
            digest=Manifest.digest_of(shards, vocabulary),
            recipe=recipe,
            batch_size=batch_size,
            context=context,
            engine=engine.name,
            source=source,
            counts={
                **{name: rows.numbers[name] for name in ("rows", "events")},
                "sessions": len(rows.remaining),
                "listeners": rows.num_listeners,
                "tracks": len(rows.catalog),
                "artists": rows.catalog.num_artists,
            },
            pairs=pairs,
            pairing=datamodule.rules.pairing,
            by_pair=datamodule.rules.split == "pair",
            has_clock="timestamp" in rows.maker.files.reading.columns,
            num_interleaved=rows.numbers["interleaved"],
            dropped=rows.dropped,
            reading=rows.maker.files.reading,
            vocabulary=vocabulary,
            shards=shards,
            provenance=provenance(),
        )
        engine.end()
    except Exception as error:  # DuckDB and Java have errors of their own
        is_full = "No space left" in str(error) or "failed to offload" in str(error)
        if is_full and not isinstance(error, OSError):
            raise OSError(errno.ENOSPC, "No space left on device", str(folder)) from None
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    manifest.write(folder)
    return manifest


def source_settings(config: Any) -> dict[str, Any]:
    """The settings of a source that are not those of a run, as plain values."""
    return {name: value for name, value in as_dict(config).items() if name not in _OF_THE_RUN}


_OF_THE_RUN = ("rejected_path", "batch_size", "history", "half_life", "whole_sessions", "seed")
