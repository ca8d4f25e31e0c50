"""From event logs to a verdict: the effect of each treatment with its interval, and checks of the experiment."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from segue.errors import InputError
from segue.reports.console import console, show_lines
from segue.reports.writing import show, write_report
from segue.runs.folder import refuse_used_folder
from segue.runs.provenance import call_of, provenance
from segue.verbs.simulate import plain, play, words_of
from segue.verbs.sweeps.jobs import Sweep
from segue.verbs.terminal.entry import verb

if TYPE_CHECKING:
    from segue.reports.result_table import Table

# Settings that have no use beside another one.
_WITHOUT = {
    "releases": (
        *("candidate", "plan", "control", "treatment", "pre", "experiment_name", "arms", "interleaved", "unfinished"),
        "tracks",
    ),
    "candidate": ("plan", "control", "treatment", "pre", "experiment_name", "arms", "interleaved", "unfinished"),
    "plan": ("control", "treatment", "pre", "experiment_name", "arms"),
    "logs": ("control", "treatment"),
}
_USUAL = {"interleaved": "separate", "unfinished": "drop"}
_READING = ("max_rejected", "interleaved", "session_gap_minutes", "unfinished")


@verb("abtest", option_of="logs={}".format, rewrite=words_of, sweepers=[Sweep])
def abtest(config: DictConfig) -> None:
    """Read logs, or simulate two recommenders first; compare the arms; write, print and attach the result to MLflow."""
    others = {
        "candidate": (_estimate, "estimate.json"),
        "plan": (_plan, "plan.json"),
        "releases": (_releases, "releases.json"),
    }
    run, file = others.get(_asked(config) or "", (_compare, "abtest.json"))
    refuse_used_folder(Path(config.run_dir), file)
    run(config, Path(config.run_dir))


def _compare(config: DictConfig, run_dir: Path) -> None:
    from segue.runs.recommender_names import parse_name, recommender_name
    from segue.runs.tracking.named_runs import attach_abtest
    from segue.verdicts.abtest.analysis import analyse
    from segue.verdicts.abtest.log import read_users
    from segue.verdicts.abtest.picture import draw
    from segue.verdicts.abtest.report import FILES, sections

    reading = {name: config[name] for name in _READING}
    settings = instantiate(config.analysis, _convert_="all")
    experiment = None if config.experiment_name is None else str(config.experiment_name)
    given = {arm: plain(config[role]) for arm, role in (("C", "control"), ("T1", "treatment"))}
    names = {arm: recommender_name(one) for arm, one in given.items()}
    pre_period = None
    if config.pre:
        pre_period = read_users(Path(str(config.pre)), experiment=None, any_arms=True, called="pre", **reading)
    logs = Path(str(config.logs))
    if config.logs is None:
        settings.shares(list(given))
        logs, which = run_dir / "logs", f"control C is {names['C']}, treatment T1 is {names['T1']}"
        play(config, given, experiment or "ABTEST", says=f"simulating {config.sessions:,} sessions: {which}")
    with console.status("reading logs"):
        users = read_users(logs, experiment=experiment, arms=plain(config.arms), **reading)
    with console.status("comparing"):
        analysis = analyse(users, settings, pre_period)
        analysis = replace(analysis, recommenders={arm: name for arm, name in names.items() if name is not None})
        found, picture = sections(analysis), partial(draw, analysis)
        write_report(
            run_dir, "abtest", analysis.record(), provenance(), title=analysis.title, sections=found, draw=picture
        )
    attach_abtest(analysis.record(), run_dir, {"control": names["C"], "treatment": names["T1"]})
    console.print(analysis.title, "", sep="\n", markup=False)
    show(found)
    source = run_dir if config.logs is None else logs
    is_run = any(Path(name).is_dir() or parse_name(name).name.startswith("run:") for name in names.values() if name)
    lines = [("results", ", ".join(FILES)), ("run folder", str(run_dir)), *[("next", call_of("compare"))] * is_run]
    train = ("next", f"{call_of('train')} datamodule=botify datamodule.path={source}")
    show_lines([*lines, *[train] * (source / "tracks.json").exists()])


def _asked(config: DictConfig) -> str | None:
    """The setting that says what is asked for. Those that have no use for it, or are missing, are refused."""
    asked = next((name for name in _WITHOUT if config[name] is not None), None)
    if asked is None and None in (config.control, config.treatment):
        raise InputError("give either logs=<folder>, or both control= and treatment= to simulate them first")
    if asked is None:
        return None
    if config.logs is None:
        raise InputError(f"{asked}={config[asked]} needs the log of other recommenders: logs=<folder>")
    for name in _WITHOUT[asked]:
        if config[name] not in (None, _USUAL.get(name)):
            raise InputError(f"{asked}={config[asked]} has no use for {name.removesuffix('_name')}=; leave it out")
    return asked


def _plan(config: DictConfig, run_dir: Path) -> None:
    from segue.verdicts.abtest.log import read_users
    from segue.verdicts.abtest.plan import make_plan, plan_table

    settings = instantiate(config.analysis, _convert_="all")
    with console.status("reading logs"):
        reading = {name: config[name] for name in _READING}
        past = read_users(Path(str(config.logs)), experiment=None, any_arms=True, **reading)
    plan = make_plan(past, settings, plan=config.plan)
    _report("plan", plan_table(plan), asdict(plan), run_dir)


def _releases(config: DictConfig, run_dir: Path) -> None:
    from segue.verdicts.abtest.releases import compare_releases, releases_table

    if config.releases is not True:
        raise InputError(f"releases must be true, or left out, got {config.releases}")
    reading = {name: config[name] for name in ("max_rejected", "session_gap_minutes")}
    with console.status("reading logs"):
        rows = compare_releases(Path(str(config.logs)), **reading)
    _report("releases", releases_table(rows), {"releases": [asdict(row) for row in rows]}, run_dir)


def _report(name: str, table: "Table", record: dict[str, Any], run_dir: Path) -> None:
    write_report(run_dir, name, record, provenance(), title=table.title, sections={"": table})
    show({"": table})
    show_lines([("results", f"{name}.md, {name}.json"), ("run folder", str(run_dir))])


def _estimate(config: DictConfig, run_dir: Path) -> None:
    from segue.runs.tracking.named_runs import attach_estimate, locate_recommendations
    from segue.verdicts.offpolicy.candidate import candidate_of, catalog_of_logs
    from segue.verdicts.offpolicy.decisions import read_decisions
    from segue.verdicts.offpolicy.estimate import estimate, estimate_table, remarks

    given, logs = plain(config.candidate), Path(str(config.logs))
    catalog, popular, is_served = catalog_of_logs(logs, Path(str(config.tracks)) if config.tracks else None)
    defaults = {name: value for name, value in plain(config.arm.recommendations).items() if not name.startswith("_")}
    defaults |= {"fallback": "artist"} if is_served else {}
    candidate = candidate_of(given, locate=locate_recommendations, defaults=defaults, catalog=catalog, popular=popular)
    with console.status("reading logs"):
        reading = {name: config[name] for name in ("max_rejected", "session_gap_minutes")}
        log = read_decisions(logs, catalog, **reading)
    with console.status("estimating"):
        found = estimate(log, candidate, catalog.artist_of)
    report: dict[str, Table | Sequence[str]] = {"": estimate_table(found, candidate.name), "Remarks": remarks(found)}
    title, record = "Estimate of a recommender that never ran", {"candidate": given, **found.record()}
    write_report(run_dir, "estimate", record, provenance(), title=title, sections=report)
    show(report)
    lines = [("results", "estimate.md, estimate.json"), ("run folder", str(run_dir))]
    if attach_estimate(found.metrics(), run_dir, candidate.name, logs=logs, pick=candidate.picker.arm.pick):
        lines.append(("next", call_of("compare")))
    show_lines(lines)
