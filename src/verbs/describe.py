"""What data look like before training: numbers, warnings with remedies, `describe.json` and `describe.png`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from segue.datamodules.source_choice import RecipeChoice, check_source_choice, option_of, refuse_shards
from segue.errors import InputError
from segue.reports.console import console, show_lines
from segue.reports.writing import write_report
from segue.runs.folder import refuse_used_folder
from segue.runs.provenance import provenance
from segue.verbs.sweeps.jobs import Sweep
from segue.verbs.terminal.entry import verb

if TYPE_CHECKING:
    from segue.datamodules.pair_datamodule import PairDataModule


@verb("describe", option_of=option_of, choose=RecipeChoice, sweepers=[Sweep])
def describe(config: DictConfig) -> None:
    """Read a source as a training would, measure it, warn, write and print."""
    from segue.datamodules.describing.facts import first_sessions, measure, measure_splits
    from segue.datamodules.describing.picture import draw
    from segue.datamodules.describing.report import next_command, printed
    from segue.datamodules.describing.warnings import DataWarning, find_warnings
    from segue.datamodules.log_source import LogSource
    from segue.datamodules.remarks import remarks_on

    run_dir, hydra = Path(config.run_dir), HydraConfig.get()
    refuse_used_folder(run_dir, "describe.json")
    refuse_shards(hydra.runtime.choices["datamodule"])
    check_source_choice(hydra.runtime.choices["datamodule"], hydra.overrides.task)
    with console.status("reading events"):
        data, refusal = _read(config)
    assert isinstance(data.source, LogSource), "shards were refused above"
    reading, title = data.reading, str(data.path)
    with console.status("measuring"):
        facts = measure(data.data)
        if refusal is None:
            facts |= measure_splits(data.data)
        shown = {"num_sessions": config.shown_sessions, "num_plays": config.shown_plays}
        facts["first_sessions"] = first_sessions(data.data, **shown)
        warnings = find_warnings(reading, data.dropped, data.source.read_on, facts)
        if refusal is not None:
            remedy = "correct what is listed below, or add data" if warnings else "add data"
            warnings.insert(0, DataWarning(name="splits", says=refusal, remedy=remedy))
    remarks = list(remarks_on(data.data, data.source.rules.policies.interleaved))
    record = {
        "warnings": [asdict(warning) for warning in warnings],
        **facts,
        "reading": asdict(reading) | {"dropped": data.dropped},
        "remarks": remarks,
        "source": title,
        "data_digest": data.digest() if refusal is None else None,
    }
    gap = config.datamodule.session_gap_minutes
    write_report(run_dir, "describe", record, provenance(), draw=lambda path: draw(facts, gap, title, path))
    console.print(printed(facts, warnings, reading, remarks, title))
    following = next_command(hydra.overrides.task, reading, warnings, columns=config.datamodule.columns)
    show_lines([("results", "describe.json, describe.png"), ("run folder", str(run_dir)), ("next", following)])


def _read(config: DictConfig) -> "tuple[PairDataModule, str | None]":
    """The source, and why it cannot be split. Rejected rows are counted and shown, however many they are.

    Raises:
        InputError: nothing can be read.
    """
    data = _datamodule(config, max_rejected=1.0)
    try:
        data.setup()
    except InputError as error:
        if not hasattr(data, "data") or not len(data.sessions):
            _datamodule(config, max_rejected=config.datamodule.max_rejected).setup()  # names the rejected rows
            raise
        return data, str(error)
    return data, None


def _datamodule(config: DictConfig, *, max_rejected: float) -> "PairDataModule":
    datamodule: PairDataModule = instantiate(config.datamodule, max_rejected=max_rejected, _convert_="all")
    datamodule.prepare_data()
    return datamodule
