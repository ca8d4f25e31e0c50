"""The report of a comparison: what is printed, `comparison.csv`, `.md`, `.json` and `.png`."""

import shlex
from collections.abc import Mapping
from math import floor, isfinite, log10
from pathlib import Path

import numpy as np
import pandas as pd
from rich.text import Text

from segue.reports import writing
from segue.reports.markdown import bullets, escape
from segue.reports.numbers import interval, number, p_value, plain
from segue.reports.result_table import Cell, Table, styled
from segue.runs.atomic import write_whole
from segue.runs.folder import short_run_name
from segue.statistics.intervals import MeanInterval
from segue.statistics.online import TIME
from segue.verdicts.comparison.analysis import TESTED, Comparison, Difference, Setup
from segue.verdicts.comparison.picture import draw
from segue.verdicts.comparison.verdict import listed

_OFFLINE = "Offline ranking does not decide which set-up listeners prefer; an A/B test of the two best set-ups does"
_ONLINE = "An A/B test of the two best set-ups, in simulated traffic"

_FIRST = {"max": "highest", "min": "lowest"}


def write_report(comparison: Comparison, folder: Path, provenance: Mapping[str, str]) -> None:
    """Write `comparison.csv`, `.md`, `.json` and `.png`.

    Args:
        comparison: what is reported.
        folder: where to write; created if it does not exist.
        provenance: command, commit and versions, by name.
    """
    writing.write_report(
        folder,
        "comparison",
        comparison.record(),
        provenance,
        blocks=blocks(comparison),
        draw=lambda path: draw(comparison, path),
    )
    write_whole(
        folder / "comparison.csv", lambda path: long_table(comparison).to_csv(path, index=False, lineterminator="\n")
    )


def long_table(comparison: Comparison) -> pd.DataFrame:
    """One row for each set-up and metric, the best set-up first.

    Args:
        comparison: what is reported.

    Returns:
        A frame with the columns of `comparison.csv`. A difference is the value of the set-up minus the value of the
        best set-up; it is empty where nothing was tested.
    """
    lines = []
    for setup in comparison.setups:
        for metric, mean in setup.means.items():
            one = comparison.difference(setup.name, metric)
            lines.append(
                {
                    "setup": setup.name,
                    "metric": metric,
                    "num_runs": mean.num,
                    "mean": mean.mean,
                    "lower": mean.lower,
                    "upper": mean.upper,
                    "difference_to_best": np.nan if one is None else one.difference,
                    "difference_lower": np.nan if one is None else one.lower,
                    "difference_upper": np.nan if one is None else one.upper,
                    "p_value": np.nan if one is None else one.p_value,
                    "holm_p_value": np.nan if one is None else one.holm_p_value,
                }
            )
    return pd.DataFrame(lines)


def blocks(comparison: Comparison) -> list[str]:
    """The report in Markdown: verdict, means, differences from the best, notes.

    Args:
        comparison: what is reported.
    """
    metrics, text = comparison.metrics, ["# Comparison", f"**{escape(comparison.verdict)}.**"]
    rows = [
        [setup.name, str(len(setup.runs)), *(_mean(comparison, setup, metric) for metric in metrics)]
        for setup in comparison.setups
    ]
    text.append(Table(columns=["set-up", "runs", *metrics], rows=rows, align="lr" + "r" * len(metrics)).markdown())
    if comparison.differences:
        head = ["set-up", "metric", "difference", "interval", "p", "Holm p"]
        by_setup = [one for setup in comparison.setups for one in comparison.differences if one.setup == setup.name]
        text.append(f"Differences from {escape(comparison.best.name)}:")
        rows = [_row(comparison, one) for one in by_setup]
        text.append(Table(columns=head, rows=rows, align="llrrrr").markdown())
    notes = sentences(comparison)
    if any(mean.upper > mean.mean for setup in comparison.setups for mean in setup.means.values()):
        level = f"{100 * comparison.level:g} %"
        notes.insert(1, f"±: half the width of Student's {level} interval of the mean over runs (one run per seed).")
    notes = [escape(note) for note in notes]
    if command := listener_test(comparison):
        notes.append(f"{why_listener_test(comparison)}: `{command}`")
    alt = "Each metric of each set-up with its interval over runs, and the learning curves"
    return [*text, f"![{alt}](comparison.png)", bullets(notes)]


def comparison_table(comparison: Comparison, title: str, width: int) -> Table:
    """Set-ups, best first: the metric that chose, the primary test metric with its difference, other means that fit.

    Bold is the best mean of a column. A significant difference is green where the set-up is worse than the best one by
    validation, red where it is better.

    Args:
        comparison: what is shown.
        title: title of the table.
        width: columns of the terminal.
    """
    primary, setups = comparison.primary, comparison.setups
    tested = primary is not None and any(one.metric == primary for one in comparison.differences)
    main = list(dict.fromkeys([comparison.select, *([primary] if primary is not None else [])]))
    others = [metric for metric in comparison.metrics if metric not in main]
    room = width - 30 - 19 * len(main) - 40 * tested  # set-up and runs; mean and interval; difference and p
    wide, shown = room >= 0, []
    for metric in others:
        room -= max(len(metric.rsplit("/")[-1]), 8) + 3
        if room < 0:
            break
        shown.append(metric)
    notes = [comparison.verdict]
    if wide and any(isfinite(setup.means[metric].upper) for setup in setups for metric in main):
        notes.append(
            f"±: half of the {100 * comparison.level:g} % interval of the mean over runs, which differ in seed"
        )
    if len(shown) < len(others):
        notes.append(f"{len(others) - len(shown)} more metrics are in comparison.md")
    heads = [metric.replace("/", "/\n").replace("_per_session", "\n_per_session") for metric in (*main, *shown)]
    if tested:
        heads[len(main) : len(main)] = ["difference\nfrom the first", "Holm's p"]
    rows = list[list[Cell]]()
    for setup in setups:
        cells = [_short_mean(comparison, setup, metric, with_interval=wide and metric in main) for metric in main]
        if tested:
            cells += _difference_cells(comparison, setup, with_interval=wide)
        cells += [_short_mean(comparison, setup, metric, with_interval=False) for metric in shown]
        rows.append([Text(setup.name, overflow="fold"), str(len(setup.runs)), *cells])
    align = "l" + "R" * (1 + len(heads))
    return Table(title=title, columns=["set-up", "runs", *heads], rows=rows, align=align, notes=notes)


def _short_mean(comparison: Comparison, setup: Setup, metric: str, *, with_interval: bool) -> Cell:
    mean = setup.means[metric]
    if not mean.num:
        return "–"
    cell = styled(plain(mean.mean), "bold" if comparison.leads(setup, metric) else "default")
    is_known = with_interval and isfinite(mean.upper)  # there is no interval of one run
    return cell.append(f" ±{plain(mean.upper - mean.mean, digits=2)}" if is_known else "")


def _difference_cells(comparison: Comparison, setup: Setup, *, with_interval: bool) -> list[Cell]:
    one = comparison.difference(setup.name, str(comparison.primary))
    if one is None:
        return ["", ""]
    colour = ("green" if one.difference < 0 else "red") if comparison.is_significant(one) else "default"
    cell = styled(f"{one.difference:+.3g}", colour)
    if not isfinite(one.p_value):  # one session, or the same difference in all
        return [cell, "–"]
    return [cell.append(f" {interval(one.lower, one.upper, '+.2g')}" * with_interval), p_value(one.holm_p_value)]


def _mean(comparison: Comparison, setup: Setup, metric: str) -> Cell:
    mean = setup.means[metric]
    few = f" ({mean.num} of {len(setup.runs)} runs)" if 0 < mean.num < len(setup.runs) else ""
    value, _, half_width = _with_half_width(mean).partition(" ")
    cell = styled(value, "bold" if comparison.leads(setup, metric) else "")
    return cell.append(f" {half_width}{few}".rstrip())


def _with_half_width(mean: MeanInterval) -> str:
    """`0.237 ± 0.039`: rounded to the second digit of the half width."""
    half_width = mean.upper - mean.mean
    if not half_width > 0:  # one run, or runs with equal values
        return number(mean.mean, ",.0f" if abs(mean.mean) >= 10_000 else ".4g")
    decimals = max(0, 1 - floor(log10(half_width)))
    return f"{mean.mean:,.{decimals}f} ± {half_width:,.{decimals}f}"


def _row(comparison: Comparison, one: Difference) -> list[Cell]:
    return [
        one.setup,
        one.metric,
        styled(f"{one.difference:+.3g}", "bold" if comparison.is_significant(one) else ""),
        interval(one.lower, one.upper, "+.3g"),
        number(one.p_value, ".2g"),
        number(one.holm_p_value, ".2g"),
    ]


def sentences(comparison: Comparison) -> list[str]:
    """What each number means, and what is missing.

    Args:
        comparison: what is reported.

    Returns:
        Notes of one or two sentences each.
    """
    setups = comparison.setups
    num_runs = sum(len(setup.runs) for setup in setups)
    notes = [
        f"Set-ups: {len(setups)}, runs: {num_runs}. Set-ups are sorted by their mean {comparison.select}, the "
        f"{_FIRST[comparison.mode]} first; test metrics do not choose."
    ]
    if comparison.disagreement is not None:
        notes.insert(0, comparison.disagreement)
    if len(setups) > 1:
        notes.append("Bold: the best mean of a metric. Metrics where neither higher nor lower is better have no bold.")
    notes += _about_runs(comparison)
    if comparison.differences:
        notes += _about_tests(comparison)
    elif comparison.primary is None:
        tests = ", ".join(f"test/{name}" for name in TESTED)
        notes.append(f"No difference was tested: a test needs one of the metrics {tests}.")
    elif len(setups) > 1:
        notes.append(
            f"No difference was tested: a test needs the test queries of {comparison.best.name} and of another set-up."
        )
    return notes


def _about_runs(comparison: Comparison) -> list[str]:
    setups, notes = comparison.setups, []
    single = [setup.name for setup in setups if len(setup.runs) == 1]
    if single:
        notes.append(f"One run only, therefore no interval over seeds: {listed(single)}.")
    repeated = [
        f"{setup.name} (seed {', '.join(map(str, setup.repeated_seeds))})" for setup in setups if setup.repeated_seeds
    ]
    if repeated:
        notes.append(
            f"The same seed occurs more than once in {listed(repeated)}. All these runs count; if one run repeats "
            "another, the intervals are too narrow."
        )
    for metric in comparison.metrics:
        few = [
            f"{setup.name} {setup.means[metric].num} of {len(setup.runs)}"
            for setup in setups
            if setup.means[metric].num < len(setup.runs) and not metric.startswith(("ab/", "estimate/", "offline/"))
        ]
        if few:
            notes.append(f"{metric} is the mean over the runs that have it: {listed(few)}.")
    if comparison.missing:
        notes.append(f"No run has {', '.join(comparison.missing)}.")
    if any(metric.startswith("ab/") for metric in comparison.metrics):
        notes.append("ab/ is the A/B test of each run against the control of that test; controls may differ.")
    if any(metric.startswith("offline/") for metric in comparison.metrics):
        notes.append(
            "offline/ is estimated from the test logs; the interval of each run, which ± does not include, is in its "
            "offline/…_lower and offline/…_upper."
        )
    if any(metric.startswith("estimate/") for metric in comparison.metrics):
        notes.append("estimate/ is what abtest.py candidate= estimated of each run; its logs may differ.")
    without = [
        f"{setup.name} {len(setup.runs) - len(setup.runs_with_queries)} of {len(setup.runs)}"
        for setup in setups
        if len(setup.runs_with_queries) < len(setup.runs)
    ]
    if without:
        notes.append(f"Runs without test queries are left out of the tests: {listed(without)}.")
    return notes


def _about_tests(comparison: Comparison) -> list[str]:
    tested = {comparison.best.name, *(one.setup for one in comparison.differences)}
    pairs = [f"by query: {comparison.num_queries:,} test queries of {comparison.num_sessions:,} sessions"] * bool(
        comparison.num_queries
    )
    if comparison.num_listeners:
        pairs.append(
            f"for {TIME} by listener: {comparison.num_listeners:,} simulated listeners, who had the same sessions with "
            "the same random numbers in every run"
        )
    units = " or ".join(["sessions"] * bool(comparison.num_queries) + ["listeners"] * bool(comparison.num_listeners))
    notes = [
        f"A difference is the value of a set-up minus the value of {comparison.best.name}, paired {', '.join(pairs)}. "
        f"Its {100 * comparison.level:g} % interval and p account for variation across test {units} and, where a "
        "set-up has two runs or more, across seeds.",
        f"Holm's p keeps the probability of a false alarm of a metric at {1 - comparison.level:.2g} over all pairs of "
        "set-ups, whichever of them validation chose as the best.",
    ]
    single = [setup.name for setup in comparison.setups if setup.name in tested and len(setup.runs_with_queries) == 1]
    if single:
        notes.append(
            f"The tests of {listed(single)} do not include variation across seeds (one run): other seeds may give "
            "another result."
        )
    if comparison.num_sessions == 1:
        notes.append("All test queries are of one session, therefore nothing can be concluded about other sessions.")
    elif any(np.isnan(one.p_value) for one in comparison.differences):
        notes.append("p is – where the difference is the same in every session: its variance cannot be estimated.")
    return notes


def why_listener_test(comparison: Comparison) -> str:
    """What the command of `listener_test` is for; precedes it."""
    return _ONLINE if comparison.is_online else _OFFLINE


def listener_test(comparison: Comparison) -> str | None:
    """The A/B test with simulated listeners between the two best set-ups.

    Args:
        comparison: what is reported.

    Returns:
        A command; None for a single set-up, and for runs that did not learn from the simulated logs of one world.
    """
    if len(comparison.setups) < 2:
        return None
    best, second = (comparison.best_run(setup) for setup in comparison.setups[:2])
    if best.world is None or best.world != second.world:
        return None
    words = [f"control={short_run_name(second.run_id)}", f"treatment={short_run_name(best.run_id)}", *best.world]
    return shlex.join(["python", "abtest.py", *words])
