"""What data look like before training: numbers, warnings with remedies, `describe.json` and `describe.png`."""

from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from segue.datamodules.source_choice import RecipeChoice, check_source_choice, option_of, refuse_shards
from segue.errors import InputError
from segue.runs.folder import refuse_used_folder
from segue.runs.provenance import provenance
from segue.sweeps.jobs import Sweep
from segue.terminal.console import console, show_lines
from segue.terminal.entry import verb

if TYPE_CHECKING:
    from segue.datamodules.describing.measures import Material
    from segue.datamodules.pair_datamodule import PairDataModule


@verb("describe", option_of=option_of, choose=RecipeChoice, sweepers=[Sweep])
def describe(config: DictConfig) -> None:
    """Read a source as a training would, measure it, warn, write and print."""
    from segue.datamodules.describing.measures import measure
    from segue.datamodules.describing.report import next_command, printed, write_report
    from segue.datamodules.describing.warnings import find_warnings

    run_dir, hydra = Path(config.run_dir), HydraConfig.get()
    refuse_used_folder(run_dir, "describe.json")
    refuse_shards(hydra.runtime.choices["datamodule"])
    check_source_choice(hydra.runtime.choices["datamodule"], hydra.overrides.task)
    thresholds = instantiate(config.warnings, _convert_="all")
    material, title, digest = _read(config)
    with console.status("measuring"):
        facts = measure(
            material,
            max_test_queries=config.max_test_queries,
            num_sessions=config.shown_sessions,
            num_plays=config.shown_plays,
        )
        warnings = find_warnings(facts, material, thresholds)
    with console.status("drawing"):
        write_report(
            facts,
            warnings,
            material,
            gap_minutes=config.datamodule.session_gap_minutes,
            folder=run_dir,
            title=title,
            data_digest=digest,
            provenance=provenance(),
        )
    console.print(printed(facts, warnings, material, title))
    following = next_command(hydra.overrides.task, material.reading, warnings, columns=config.datamodule.columns)
    show_lines([("results", "describe.json, describe.png"), ("run folder", str(run_dir)), ("next", following)])


def _read(config: DictConfig) -> "tuple[Material, str, str | None]":
    """The source, its name and its digest. Rejected rows are counted and shown, however many they are.

    Raises:
        InputError: nothing can be read.
    """
    from segue.datamodules.describing.measures import material_of

    refusal = None
    with console.status("reading events"):
        datamodule = _datamodule(config, max_rejected=1.0)
        try:
            datamodule.setup()
        except InputError as error:
            if not hasattr(datamodule, "sessions") or not len(datamodule.sessions):
                _datamodule(config, max_rejected=config.datamodule.max_rejected).setup()  # names the rejected rows
                raise
            refusal = str(error)
    return material_of(datamodule, refusal=refusal), str(datamodule.path), None if refusal else datamodule.digest()


def _datamodule(config: DictConfig, *, max_rejected: float) -> "PairDataModule":
    datamodule: PairDataModule = instantiate(config.datamodule, max_rejected=max_rejected, _convert_="all")
    datamodule.prepare_data()
    return datamodule
