"""From event logs to a verdict: the effect of each treatment with its interval, and checks of the experiment."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from segue.errors import check_flag
from segue.runs.folder import refuse_used_folder
from segue.runs.provenance import provenance
from segue.sweeps.jobs import Sweep
from segue.terminal.console import console, show_lines
from segue.terminal.entry import verb
from segue.verbs.simulate import plain, play, words_of

_USUAL = {"interleaved": "separate", "unfinished": "drop"}
"""How an estimate reads sessions; other values of these settings are refused beside `candidate`."""


@verb("abtest", option_of="logs={}".format, rewrite=words_of, sweepers=[Sweep])
def abtest(config: DictConfig) -> None:
    """Read logs, or simulate two recommenders first; compare the arms; write, print and attach the result to MLflow."""
    from segue.runs.recommender_names import parse_name, recommender_name
    from segue.tracking.named_runs import attach_abtest
    from segue.verdicts.abtest.analysis import analyse
    from segue.verdicts.abtest.doubts import doubts, split_sentence, users_table
    from segue.verdicts.abtest.log import check_arms, read_users
    from segue.verdicts.abtest.report import FILES, details, effects_table, explain_columns, methods_table, write_report
    from segue.verdicts.abtest.sources import arms_to_play, check_effect

    run_dir = Path(config.run_dir)
    check_flag("plan", config.plan)
    if config.candidate is not None:
        _estimate(config, run_dir)
        return
    check_effect(config.effect, is_plan=config.plan)
    if config.plan:
        _plan(config, run_dir)
        return
    refuse_used_folder(run_dir, "abtest.json")
    settings = instantiate(config.analysis, _convert_="all")
    experiment = None if config.experiment_name is None else str(config.experiment_name)
    given = {role: plain(config[role]) for role in ("control", "treatment")}
    names = {role: recommender_name(arm) for role, arm in given.items()}
    reading = _reading(config)
    compared = plain(config.arms)
    check_arms(compared)
    arms = arms_to_play(config.logs, given)
    pre_period = None
    if config.pre:
        pre_period = read_users(Path(str(config.pre)), experiment=None, any_arms=True, called="pre", **reading)
    logs = Path(str(config.logs)) if arms is None else run_dir / "logs"
    if arms is not None:
        settings.shares(list(arms))
        which = f"control C is {names['control']}, treatment T1 is {names['treatment']}"
        play(config, arms, experiment or "ABTEST", says=f"simulating {config.sessions:,} sessions: {which}")
    with console.status("reading logs"):
        users = read_users(logs, experiment=experiment, arms=compared, **reading)
    with console.status("comparing"):
        analysis = analyse(users, settings, pre_period)
        if arms is not None:
            names_of_arms = {arm: names[role] or "" for arm, role in (("C", "control"), ("T1", "treatment"))}
            analysis = replace(analysis, recommenders=names_of_arms)
        write_report(analysis, run_dir, provenance())
    attach_abtest(analysis.record(), run_dir, names)
    console.print(users_table(analysis))
    console.print(split_sentence(analysis), "", markup=False)
    console.print(effects_table(analysis, in_colour=console.color_system is not None), "")
    console.print("What could be wrong", *(f"- {line}" for line in doubts(analysis)), "", sep="\n", markup=False)
    console.print(methods_table(analysis, "+.1f"), "")
    meanings = [f"- {column}: {meaning}" for column, meaning in explain_columns(analysis).items()]
    console.print("Columns of the effects", *meanings, "", sep="\n", markup=False)
    console.print(*details(analysis), "", sep="\n", markup=False)
    source = logs if arms is None else run_dir
    is_run = any(Path(name).is_dir() or parse_name(name).name.startswith("run:") for name in names.values() if name)
    following = ["python compare.py"] * is_run
    following += [f"python train.py datamodule=botify datamodule.path={source}"] * (source / "tracks.json").exists()
    lines = [("results", ", ".join(FILES)), ("run folder", str(run_dir))]
    show_lines([*lines, *(("next", command) for command in following)])


def _reading(config: DictConfig) -> dict[str, Any]:
    """The settings of `read_users` that the command line has."""
    return {name: config[name] for name in ("max_rejected", "interleaved", "session_gap_minutes", "unfinished")}


def _plan(config: DictConfig, run_dir: Path) -> None:
    """Read a log of the past; write and print how many users and days a test needs."""
    from segue.verdicts.abtest.log import read_users
    from segue.verdicts.abtest.plan import explain, make_plan, plan_table, sentence, write_plan
    from segue.verdicts.abtest.sources import check_plan

    refuse_used_folder(run_dir, "plan.json")
    check_plan(config.logs, {role: config[role] for role in ("control", "treatment")}, config.arms)
    settings = instantiate(config.analysis, _convert_="all")
    with console.status("reading logs"):
        past = read_users(Path(str(config.logs)), experiment=None, any_arms=True, **_reading(config))
    plan = make_plan(past, settings, config.effect)
    write_plan(plan, run_dir, provenance())
    console.print(sentence(plan), "", plan_table(plan))
    console.print(*(f"- {line}" for line in explain(plan)), "", sep="\n", markup=False)
    show_lines([("results", "plan.md, plan.json"), ("run folder", str(run_dir))])


def _estimate(config: DictConfig, run_dir: Path) -> None:
    """Estimate a recommender that never ran from the logs of others; write and print the result."""
    from segue.tracking.named_runs import attach_estimate, locate_recommendations
    from segue.verdicts.offpolicy.behaviours import LogFolder
    from segue.verdicts.offpolicy.candidate import candidate_of
    from segue.verdicts.offpolicy.decisions import read_decisions
    from segue.verdicts.offpolicy.estimate_report import estimate_table, remarks, write_estimate
    from segue.verdicts.offpolicy.estimates import OffPolicyLog

    refuse_used_folder(run_dir, "estimate.json")
    given = plain(config.candidate)
    others = {name: config[name] for name in ("control", "treatment", "pre")}
    others |= {
        "experiment": config.experiment_name,
        "arms": config.arms,
        "plan": True if config.plan else None,
        "effect": config.effect,
    }
    others |= {name: None if config[name] == usual else config[name] for name, usual in _USUAL.items()}
    candidate = candidate_of(
        given,
        logs=config.logs,
        others=others,
        locate=locate_recommendations,
        exploration_plays=config.arm.recommendations.exploration_plays,
    )
    settings = instantiate(config.estimate, _convert_="all")
    reading = {name: config[name] for name in ("max_rejected", "session_gap_minutes")}
    with console.status("reading logs"):
        folder = LogFolder.open(Path(str(config.logs)), Path(str(config.tracks)) if config.tracks else None)
        decisions = read_decisions(folder.logs, folder.catalog, **reading)
        log = OffPolicyLog(decisions, folder)
    with console.status("estimating"):
        found = log.estimate(folder.candidate(candidate), settings)
        table = estimate_table(found, log, candidate.name)
        write_estimate(found, table, run_dir, given, provenance())
    console.print(table, "")
    console.print(*(f"- {line}" for line in remarks(found)), "", sep="\n", markup=False)
    lines = [("results", "estimate.md, estimate.json"), ("run folder", str(run_dir))]
    if attach_estimate(found.metrics(), run_dir, candidate.name, logs=folder.logs, pick=candidate.pick):
        lines.append(("next", "python compare.py"))
    show_lines(lines)
