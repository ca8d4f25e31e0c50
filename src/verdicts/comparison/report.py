"""The report of a comparison: what is printed, `comparison.md`, `.json` and `.png`."""

import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.text import Text

from segue.reports import writing
from segue.reports.markdown import bullets, escape
from segue.reports.numbers import interval, number, p_value, plain
from segue.reports.result_table import Cell, Table, styled
from segue.runs.folder import short_run_name
from segue.runs.provenance import call_of
from segue.statistics.online import TIME
from segue.verdicts.comparison.analysis import TESTED, Comparison, Setup, disagreement, listed, verdict
from segue.verdicts.comparison.picture import draw


def write_report(comparison: Comparison, folder: Path, provenance: Mapping[str, str]) -> None:
    """Write `comparison.md`, `.json` and `.png`.

    Args:
        comparison: what is reported.
        folder: where to write; created if it does not exist.
        provenance: command, commit and versions, by name.
    """
    text, drawn = blocks(comparison), partial(draw, comparison)
    writing.write_report(folder, "comparison", record(comparison), provenance, blocks=text, draw=drawn)


def record(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain values, for `comparison.json`."""
    setups = [
        {
            "setup": setup.name,
            "alpha": setup.alpha,
            "seeds": [run.seed for run in setup.runs],
            "run_ids": [run.run_id for run in setup.runs],
            "metrics": {
                metric: {"num_runs": mean.num, "mean": mean.mean, "lower": mean.lower, "upper": mean.upper}
                | {"leads": comparison.leads(setup, metric)}
                for metric, mean in setup.means.items()
            },
            "differences": {
                one.metric: asdict(one) | {"sure": comparison.is_significant(one)}
                for one in comparison.differences
                if one.setup == setup.name
            },
        }
        for setup in comparison.setups
    ]
    return {
        **{name: value for name, value in vars(comparison).items() if name != "differences"},
        "verdict": verdict(comparison),
        "disagreement": disagreement(comparison),
        "better": {metric: comparison.better(metric) for metric in comparison.metrics},
        "setups": setups,
    }


def blocks(comparison: Comparison) -> list[str]:
    """The report in Markdown: verdict, means, differences from the best, notes."""
    metrics = comparison.metrics
    means: list[list[Cell]] = [
        [setup.name, str(len(setup.runs)), *(_mean(comparison, setup, metric) for metric in metrics)]
        for setup in comparison.setups
    ]
    rows: list[list[Cell]] = [
        [
            *(one.setup, one.metric),
            styled(f"{one.difference:+.3g}", "bold" * comparison.is_significant(one)),
            interval(one.lower, one.upper, "+.3g"),
            *(number(one.p_value, ".2g"), number(one.holm_p_value, ".2g")),
        ]
        for setup in comparison.setups
        for one in comparison.differences
        if one.setup == setup.name
    ]
    head = ["set-up", "metric", "difference", "interval", "p", "Holm p"]
    differences = Table(columns=head, rows=rows, align="llrrrr").markdown()
    first, *others = sentences(comparison)
    has_interval = any(mean.upper > mean.mean for setup in comparison.setups for mean in setup.means.values())
    of_interval = (
        f"±: half the width of Student's {100 * comparison.level:g} % interval of the mean over runs (one run per "
        "seed)."
    )
    notes = [escape(note) for note in [first, *[of_interval] * has_interval, *others]]
    return [
        "# Comparison",
        f"**{escape(verdict(comparison))}.**",
        Table(columns=["set-up", "runs", *metrics], rows=means, align="lr" + "r" * len(metrics)).markdown(),
        *([f"Differences from {escape(comparison.best.name)}:", differences] if rows else ()),
        "![Each metric of each set-up with its interval over runs, and the learning curves](comparison.png)",
        bullets([*notes, *[f"{why}: `{command}`" for why, command in filter(None, [listener_test(comparison)])]]),
    ]


def comparison_table(comparison: Comparison, title: str, width: int) -> Table:
    """Set-ups, best first: the metric that chose, the primary test metric with its difference, other means that fit.

    Bold is the best mean of a column. A significant difference is green where the set-up is worse than the best one by
    validation, red where it is better.

    Args:
        comparison: what is shown.
        title: of the table.
        width: of the terminal, in columns.
    """
    primary, setups = comparison.primary, comparison.setups
    tested = any(one.metric == primary for one in comparison.differences)
    main = list(dict.fromkeys([comparison.select, *([primary] if primary is not None else [])]))
    others = [metric for metric in comparison.metrics if metric not in main]
    room = width - 30 - 19 * len(main) - 40 * tested  # set-up and runs; mean and interval; difference and p
    ends = np.cumsum([max(len(metric.rsplit("/")[-1]), 8) + 3 for metric in others])
    wide, shown = room >= 0, others[: int((ends <= room).sum())]
    has_interval = wide and any(np.isfinite(setup.means[metric].upper) for setup in setups for metric in main)
    level = f"{100 * comparison.level:g} %"
    notes = {
        verdict(comparison): True,
        f"±: half of the {level} interval of the mean over runs, which differ in seed": has_interval,
        f"{len(others) - len(shown)} more metrics are in comparison.md": len(shown) < len(others),
    }
    names = [metric.replace("/", "/\n").replace("_per_session", "\n_per_session") for metric in (*main, *shown)]
    heads = [*names[: len(main)], *["difference\nfrom the first", "Holm's p"] * tested, *names[len(main) :]]
    rows: list[list[Cell]] = [
        [
            Text(setup.name, overflow="fold"),
            str(len(setup.runs)),
            *(_mean(comparison, setup, metric, with_interval=wide) for metric in main),
            *(_difference_cells(comparison, setup, with_interval=wide) if tested else ()),
            *(_mean(comparison, setup, metric, with_interval=False) for metric in shown),
        ]
        for setup in setups
    ]
    return Table(
        title=title,
        columns=["set-up", "runs", *heads],
        rows=rows,
        align="l" + "R" * (1 + len(heads)),
        notes=[note for note, is_said in notes.items() if is_said],
    )


def _mean(comparison: Comparison, setup: Setup, metric: str, *, with_interval: bool = True) -> Text:
    mean = setup.means[metric]
    cell = styled(plain(mean.mean), "bold" if comparison.leads(setup, metric) else "default")
    is_known = with_interval and np.isfinite(mean.upper)  # there is no interval of one run
    return cell.append(f" ±{plain(mean.upper - mean.mean, digits=2)}" if is_known else "")


def _difference_cells(comparison: Comparison, setup: Setup, *, with_interval: bool) -> list[Cell]:
    if (one := comparison.difference(setup.name, comparison.primary)) is None:
        return ["", ""]
    colour = ("green" if one.difference < 0 else "red") if comparison.is_significant(one) else "default"
    cell = styled(f"{one.difference:+.3g}", colour)
    if not np.isfinite(one.p_value):  # one session, or the same difference in all
        return [cell, "–"]
    return [cell.append(f" {interval(one.lower, one.upper, '+.2g')}" * with_interval), p_value(one.holm_p_value)]


def sentences(comparison: Comparison) -> list[str]:
    """What each number means, and what is missing.

    Returns:
        Notes of one or two sentences each.
    """
    setups, best = comparison.setups, comparison.best.name
    first = {"max": "highest", "min": "lowest"}[comparison.mode]
    tests = f"the metrics {', '.join(f'test/{name}' for name in TESTED)}"
    missing = f"one of {tests}" if comparison.primary is None else f"the test queries of {best} and of another set-up"
    is_untested = not comparison.differences and (comparison.primary is None or len(setups) > 1)
    notes = {
        disagreement(comparison) or "": True,
        f"Set-ups: {len(setups)}, runs: {sum(len(setup.runs) for setup in setups)}. Set-ups are sorted by their mean "
        f"{comparison.select}, the {first} first; test metrics do not choose.": True,
        "Bold: the best mean of a metric. Metrics where neither higher nor lower is better have no bold.": setups[1:],
        **_about_runs(comparison),
        **(_about_tests(comparison) if comparison.differences else {}),
        f"No difference was tested: a test needs {missing}.": is_untested,
    }
    return [note for note, is_said in notes.items() if note and is_said]


def _about_runs(comparison: Comparison) -> dict[str, object]:
    """Notes, and whether each is needed."""
    setups = comparison.setups
    single = [setup.name for setup in setups if len(setup.runs) == 1]
    repeated = [
        f"{setup.name} (seed {', '.join(str(seed) for seed, count in counts.items() if count > 1)})"
        for setup in setups
        if (counts := Counter(run.seed for run in setup.runs)).total() > len(counts)
    ]
    few = {
        metric: [
            f"{one.name} {num} of {len(one.runs)}" for one in setups if (num := one.means[metric].num) < len(one.runs)
        ]
        for metric in comparison.metrics
        if not metric.startswith(("ab/", "estimate/"))
    }
    without = [
        f"{one.name} {num} of {len(one.runs)}" for one in setups if (num := len(one.runs) - len(one.with_queries))
    ]
    refitted = [
        run.run_id[:8] if len(run.run_id) == 32 else run.run_id for one in setups for run in one.runs if run.is_refitted
    ]
    is_played = any(name.startswith("online/") for name in comparison.metrics)
    return {
        "online/… is of the model that a run exports, and the other metrics are of the one that it tested. These runs "
        f"export another one, which was refitted on all sessions: {listed(refitted)}.": refitted and is_played,
        f"One run only, therefore no interval over seeds: {listed(single)}.": single,
        f"The same seed occurs more than once in {listed(repeated)}. All these runs count; if one run repeats another, "
        "the intervals are too narrow.": repeated,
        **{f"{metric} is the mean over the runs that have it: {listed(own)}.": own for metric, own in few.items()},
        f"No run has {', '.join(comparison.missing)}.": comparison.missing,
        f"Runs without test queries are left out of the tests: {listed(without)}.": without,
    }


def _about_tests(comparison: Comparison) -> dict[str, object]:
    """Notes, and whether each is needed."""
    best, tested = comparison.best.name, {one.setup for one in comparison.differences}
    by_query = f"by query: {comparison.num_queries:,} test queries of {comparison.num_sessions:,} sessions"
    by_listener = (
        f"for {TIME} by listener: {comparison.num_listeners:,} simulated listeners, who had the same sessions with "
        "the same random numbers in every run"
    )
    pairs = {"sessions": by_query} if comparison.num_queries else {}
    pairs |= {"listeners": by_listener} if comparison.num_listeners else {}
    single = [one.name for one in comparison.setups if one.name in {best, *tested} and len(one.with_queries) == 1]
    is_one, has_no_p = comparison.num_sessions == 1, any(not np.isfinite(one.p_value) for one in comparison.differences)
    return {
        f"A difference is the value of a set-up minus the value of {best}, paired {', '.join(pairs.values())}. Its "
        f"{100 * comparison.level:g} % interval and p account for variation across test {' or '.join(pairs)} and, "
        "where a set-up has two runs or more, across seeds.": True,
        f"Holm's p keeps the probability of a false alarm of a metric at {1 - comparison.level:.2g} over all pairs of "
        "set-ups, whichever of them validation chose as the best.": True,
        f"The tests of {listed(single)} do not include variation across seeds (one run): other seeds may give another "
        "result.": single,
        "All test queries are of one session, therefore nothing can be concluded about other sessions.": is_one,
        "p is – where the difference is the same in every session: its variance cannot be estimated.": has_no_p
        and not is_one,
    }


def listener_test(comparison: Comparison) -> tuple[str, str] | None:
    """The A/B test with simulated listeners between the two best set-ups.

    Returns:
        What it is for, and a command; None for a single set-up, and for runs that did not learn from the simulated logs
        of one world.
    """
    best, *others = (comparison.best_run(setup) for setup in comparison.setups[:2])
    if not others or best.world is None or best.world != others[0].world:
        return None
    why = "Offline ranking does not decide which set-up listeners prefer; an A/B test of the two best set-ups does"
    if comparison.select.startswith("online/"):
        why = "An A/B test of the two best set-ups, in simulated traffic"
    control, treatment = short_run_name(others[0].run_id), short_run_name(best.run_id)
    return why, f"{call_of('abtest')} {shlex.join([f'control={control}', f'treatment={treatment}', *best.world])}"
