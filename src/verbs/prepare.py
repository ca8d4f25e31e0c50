"""From event logs or playlists to pairs on disk with a manifest, on one machine or on Spark."""

from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from segue.datamodules.source_choice import (
    RecipeChoice,
    check_source_choice,
    option_of,
    refuse_open_recipe,
    refuse_shards,
)
from segue.reports.console import console, show_lines
from segue.runs.folder import as_dict, lock_folder, refuse_used_folder
from segue.runs.provenance import call_of
from segue.verbs.sweeps.jobs import Sweep
from segue.verbs.terminal.entry import verb

if TYPE_CHECKING:
    from segue.datamodules.pair_datamodule import PairDataModule


@verb("prepare", option_of=option_of, choose=RecipeChoice, sweepers=[Sweep])
def prepare(config: DictConfig) -> None:
    """Read a source, build its pairs with an engine, write shards and manifest."""
    from segue.datamodules.describing.warnings import find_warnings
    from segue.datamodules.log_source import LogSource
    from segue.datamodules.shards.manifest import MANIFEST
    from segue.datamodules.shards.writer import write_shards
    from segue.datamodules.sources import source_settings

    run_dir, hydra = Path(config.run_dir), HydraConfig.get()
    refuse_shards(hydra.runtime.choices["datamodule"])
    refuse_open_recipe(hydra.runtime.choices["recipe"])
    check_source_choice(hydra.runtime.choices["datamodule"], hydra.overrides.task)
    engine = instantiate(config.engine, _convert_="all")
    with lock_folder(run_dir), console.status("preparing"):
        refuse_used_folder(run_dir, MANIFEST)
        datamodule: PairDataModule = instantiate(config.datamodule, _convert_="all")
        datamodule.prepare_data()
        assert isinstance(datamodule.source, LogSource), "shards were refused above"
        manifest = write_shards(
            datamodule.source,
            engine,
            run_dir,
            recipe=config.recipe.name,
            batch_size=config.datamodule.batch_size,
            source=source_settings(as_dict(config.datamodule)),
            shard_rows=config.shard_rows,
        )
    context = "" if hydra.runtime.choices["context"] == "last" else f" context={hydra.runtime.choices['context']}"
    lines = {
        "pairs": ", ".join(f"{num:,} {name}" for name, num in manifest.pairs.items()),
        "left out": ", ".join(f"{num:,} by {name}" for name, num in manifest.dropped.items() if num),
        "shards": f"{len(manifest.shards)}, {sum(file.bytes for file in manifest.files.values()) / 1e6:,.1f} MB",
        "results": "manifest.json, vocabulary.json, *.npy",
        "run folder": str(run_dir),
        "next": f"{call_of('train')} datamodule=shards datamodule.path={run_dir}{context}",
    }
    for warning in find_warnings(manifest.reading, manifest.dropped, datamodule.source.read_on, None):
        console.print(f"warning      {warning.says}; {warning.remedy}", soft_wrap=True, markup=False)
    show_lines((name, line) for name, line in lines.items() if line)
