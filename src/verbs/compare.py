"""From MLflow runs to an answer: which set-up is best, and is the difference real?"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from segue.errors import InputError
from segue.reports.console import console, show_lines
from segue.reports.progress import progress
from segue.runs.folder import refuse_used_folder, short_run_name
from segue.runs.provenance import call_of, provenance
from segue.verbs.simulate import plain
from segue.verbs.sweeps.jobs import Sweep
from segue.verbs.terminal.entry import verb
from segue.verbs.terminal.words import EXPERIMENT, as_plain_text, renamed

if TYPE_CHECKING:
    from segue.verdicts.comparison.analysis import Comparison, Run

say = partial(console.print, sep="\n", markup=False, highlight=False)


def _words(words: list[str]) -> list[str]:
    return renamed(as_plain_text(words, "filter"), EXPERIMENT)


@verb("compare", option_of="parent={}".format, rewrite=_words, sweepers=[Sweep])
def compare(config: DictConfig) -> None:
    """Find runs, compare their set-ups, write and print; register the winner where that is asked for."""
    from segue.runs.tracking.store import existing_store
    from segue.verdicts.comparison.runs import Found, attach, find, read, register, run_to_register

    refuse_used_folder(Path(config.run_dir), "comparison.json")
    if config.runs is not None:
        _compare_folders(config)
        return
    uri = existing_store(config.tracking_uri)
    with console.status("finding runs"):
        parent = None if config.parent is None else str(config.parent)
        found = find(uri, str(config.experiment_name), parent=parent, filter_string=str(config.filter or ""))
    say(*found.notes, end="\n" * bool(found.notes))
    with progress("reading runs", len(found.runs)) as advance:
        runs = read([Found.of_mlflow(run, uri) for run in found.runs], on_run=advance)
    where = found.parent.info.run_name if found.parent is not None else f"experiment {config.experiment_name}"
    result = _answer(config, runs, where=where)
    best = short_run_name(result.winner.run_id)
    if found.parent is not None:
        attach(Path(config.run_dir), found.parent, uri)
    if config.register is not None:
        chosen = run_to_register(str(config.register), found, result, uri)
        version = register(chosen, uri, name=str(config.name), alias=str(config.alias))
        registered = f"{config.name} version {version}, {config.alias}: {short_run_name(chosen.info.run_id)}"
        console.print(f"registered   {registered}", markup=False)
        best = f"model:{config.name}@{config.alias}"
    _show_next(config, best)


def _compare_folders(config: DictConfig) -> None:
    from segue.verdicts.comparison.runs import in_folders, read

    if used := [name for name in ("parent", "filter", "register") if config[name]]:
        raise InputError(f"{used[0]}={config[used[0]]} is about runs in MLflow, and runs= names folders; leave one out")
    given = plain(config.runs)
    names = list(map(str, given)) if isinstance(given, dict) else None
    folders = list(given.values()) if isinstance(given, dict) else given
    if not isinstance(folders, list) or len(folders) < 2:
        raise InputError(f"runs={config.runs} must name two run folders or more: runs=[<folder>,<folder>]")
    result = _answer(config, read(in_folders([Path(str(one)) for one in folders]), names), where="these folders")
    _show_next(config, result.winner.run_id)


def _show_next(config: DictConfig, best: str) -> None:
    show_lines([("run folder", config.run_dir), ("next", f"{call_of('serve')} recommendations={best}")])


def _answer(config: DictConfig, runs: "Sequence[Run]", *, where: str) -> "Comparison":
    """Compare runs, write the report and print it."""
    from segue.reports.writing import show, write_report
    from segue.verdicts.comparison.analysis import choose_metric
    from segue.verdicts.comparison.analysis import compare as compare_runs
    from segue.verdicts.comparison.report import draw, sections

    select, notes = choose_metric(_several(config.select), runs)
    say(*notes, end="\n" * bool(notes))
    with console.status("comparing"):
        metrics = _several(config.metrics)
        result = compare_runs(runs, select=select, mode=config.mode, metrics=metrics, level=config.level)
        title, record, into = f"{len(runs)} runs of {where}", result.record(), Path(config.run_dir)
        found, drawn = sections(result), partial(draw, result)
        write_report(into, "comparison", record, provenance(), title=title, sections=found, draw=drawn)
    show({title: found[""]})
    return result


def _several(given: Any) -> list[str]:
    return [given] if isinstance(given, str) else list(given)
