"""From MLflow runs to an answer: which set-up is best, and is the difference real?"""

from pathlib import Path

from omegaconf import DictConfig

from src.terminal.console import ROOT, console, progress, verb
from src.terminal.tables import comparison_table


@verb("compare")
def compare(config: DictConfig) -> None:
    """Find runs, compare their set-ups, write and print; register the winner where that is asked for."""
    from src.comparison import analysis as comparison
    from src.comparison.report import sentences, write_report
    from src.comparison.runs import find, read, register, winner
    from src.errors import InputError
    from src.runs.folder import refuse_used_folder
    from src.runs.provenance import provenance
    from src.tracking.store import describe, log_to_run, store_that_is_there

    run_dir = Path(config.run_dir)
    refuse_used_folder(run_dir, "comparison.json")
    uri = store_that_is_there(config.tracking_uri)
    with console.status("finding runs"):
        parent = None if config.parent is None else str(config.parent)
        found = find(uri, str(config.experiment_name), parent=parent, filter_string=str(config.filter or ""))
    for note in found.notes:
        console.print(note, markup=False, highlight=False)
    with progress("reading runs", len(found.runs)) as advance:
        runs = read(found.runs, uri, select=config.select, on_run=advance)
    metrics = [config.metrics] if isinstance(config.metrics, str) else list(config.metrics)
    with console.status("comparing"):
        result = comparison.compare(runs, select=config.select, mode=config.mode, metrics=metrics, level=config.level)
        write_report(result, run_dir, provenance(ROOT))
    if found.parent is not None:
        files = [run_dir / f"comparison.{ending}" for ending in ("png", "md", "csv", "json")]
        log_to_run(uri, found.parent.info.run_id, files)
        describe(uri, found.parent.info.run_id, (run_dir / "comparison.md").read_text(encoding="utf-8"))
    where = found.parent.info.run_name if found.parent is not None else f"experiment {config.experiment_name}"
    console.print(comparison_table(result.record(), title=f"{len(runs)} runs of {where}"))
    for sentence in sentences(result):
        console.print(sentence, markup=False, highlight=False)
    chosen = winner(result) if config.register == "best" else config.register
    if chosen is not None:
        of_id = {run.info.run_id: run for run in found.runs}
        if chosen not in of_id:
            raise InputError(
                f"register={chosen} is none of the runs compared; use register=best, or the id of one of them"
            )
        version = register(of_id[chosen], uri, name=str(config.name), alias=str(config.alias))
        console.print(f"registered   {config.name} version {version}, {config.alias}: run {chosen}", markup=False)
    console.print(f"run folder   {run_dir}", soft_wrap=True, markup=False)
    best = f"model:{config.name}@{config.alias}" if chosen else f"run:{winner(result)}"
    console.print(f"next         python serve.py recommendations={best}", soft_wrap=True, markup=False)


if __name__ == "__main__":
    compare()
