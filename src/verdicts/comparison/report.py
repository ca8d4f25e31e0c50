"""The report of a comparison: what is printed, `comparison.md` and the picture."""

from collections import Counter
from math import ceil, isfinite
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np
from rich.text import Text

from segue.reports import palette
from segue.reports.axes import interval as draw_interval
from segue.reports.axes import plain as escaped
from segue.reports.axes import tidy
from segue.reports.numbers import interval, p_value, plain
from segue.reports.result_table import Cell, Table, styled
from segue.reports.writing import Sections
from segue.statistics.online import TIME
from segue.verdicts.comparison.analysis import TESTED, Comparison, Difference, Setup, disagreement, listed, verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MANY = 12  # set-ups. With more, they are drawn nearer to each other


def sections(comparison: Comparison) -> Sections:
    """The report: the set-ups, best first, with verdict and notes; and the differences in all metrics."""
    primary, setups = comparison.primary, comparison.setups
    main = list(dict.fromkeys([comparison.select, *([primary] if primary is not None else [])]))
    others = [metric for metric in comparison.metrics if metric not in main]
    of_primary = {one.setup: one for one in comparison.differences if one.metric == primary}
    tested = ["difference\nfrom the first", "Holm's p"] * bool(of_primary)
    names = [metric.replace("/", "/\n").replace("_per_session", "\n_per_session") for metric in (*main, *others)]
    columns = ["set-up", "runs", *names[: len(main)], *tested, *names[len(main) :]]
    rows = list[list[Cell]]()
    for setup in setups:
        cells = {metric: _mean(comparison, setup, metric) for metric in (*main, *others)}
        beside = _difference(comparison, of_primary.get(setup.name)) if tested else []
        of_main, rest = [cells[metric] for metric in main], [cells[metric] for metric in others]
        rows.append([Text(setup.name, overflow="fold"), str(len(setup.runs)), *of_main, *beside, *rest])
    notes = [f"{verdict(comparison)}.", *filter(None, [disagreement(comparison)]), *sentences(comparison)]
    kept, align = 2 + len(main) + len(tested), "l" + "R" * (len(columns) - 1)
    found = {"": Table(columns=columns, rows=rows, align=align, notes=notes, keeps=kept)}
    differences = [
        [one.setup, one.metric, *_difference(comparison, one)]
        for setup in setups
        for one in comparison.differences
        if one.setup == setup.name
    ]
    if differences:
        head = ["set-up", "metric", "difference", "Holm's p"]
        found["Differences from the first set-up"] = Table(columns=head, rows=differences, align="llrr")
    return found


def _mean(comparison: Comparison, setup: Setup, metric: str) -> Text:
    """Bold if it leads; with its interval if there is one, and the number of runs if some lack the metric."""
    mean = setup.means[metric]
    cell = styled(plain(mean.mean), "bold" if comparison.leads(setup, metric) else "default")
    cell.append(f"\n±{plain(mean.upper - mean.mean, digits=2)}" * isfinite(mean.upper))
    return cell.append(f"\n({mean.num} runs)" * (0 < mean.num < len(setup.runs)))


def _difference(comparison: Comparison, one: Difference | None) -> list[Cell]:
    """With its interval: green if the set-up is worse than the best one by validation, red if it is better."""
    if one is None:
        return ["", ""]
    colour = ("green" if one.difference < 0 else "red") if comparison.is_significant(one) else "default"
    cell = styled(f"{one.difference:+.3g}", colour)
    return [cell.append(f"\n{interval(one.lower, one.upper, '+.2g')}" * isfinite(one.lower)), p_value(one.holm_p_value)]


def sentences(comparison: Comparison) -> list[str]:
    """What the numbers are of, and what is missing."""
    setups, best, level = comparison.setups, comparison.best.name, f"{100 * comparison.level:g} %"
    pairs = [f"by query ({comparison.num_queries:,} of {comparison.num_sessions:,} sessions)"] * bool(
        comparison.num_queries
    )
    pairs += [f"in {TIME} by listener ({comparison.num_listeners:,})"] * bool(comparison.num_listeners)
    single = [setup.name for setup in setups if len(setup.runs) == 1]
    seeds = {setup.name: Counter(run.seed for run in setup.runs) for setup in setups}
    twice = [name for name, counts in seeds.items() if max(counts.values()) > 1]
    without = [setup.name for setup in setups if len(setup.tested) < len(setup.runs)]
    refitted = [
        run.run_id[:8] if len(run.run_id) == 32 else run.run_id for one in setups for run in one.runs if run.is_refitted
    ]
    has_interval = any(isfinite(mean.upper) for setup in setups for mean in setup.means.values())
    metrics = " or ".join(f"test/{name}" for name in TESTED[:2])
    is_untested = len(setups) > 1 and not comparison.differences
    is_played = any(name.startswith("online/") for name in comparison.metrics)
    notes = {
        f"Set-ups: {len(setups)}, runs: {sum(len(one.runs) for one in setups)}. Validation ({comparison.select}) sorts "
        "the set-ups; test metrics do not choose.": True,
        f"±: half of the {level} interval of the mean over runs, which differ in seed.": has_interval,
        f"Difference: the set-up minus {best}, paired {', '.join(pairs)}, with its {level} interval over sessions or "
        "listeners, and over seeds where there are several. Holm's p is corrected over all pairs of "
        "set-ups.": comparison.differences,
        f"No difference was tested: a test needs a metric such as {metrics}, and the test queries of {best} and of "
        "another set-up.": is_untested,
        f"One run only, therefore no variation over seeds: {listed(single)}.": single,
        f"The same seed occurs more than once in {listed(twice)}; if a run repeats another, the intervals are too "
        "narrow.": twice,
        f"No run has {', '.join(comparison.missing)}.": comparison.missing,
        f"Runs without test queries are left out of the tests: {listed(without)}.": without and pairs,
        "online/… is of the model that a run exports, the other metrics are of the one that it tested. These runs "
        f"export another one, which was refitted on all sessions: {listed(refitted)}.": refitted and is_played,
    }
    return [note for note, is_said in notes.items() if is_said]


def draw(comparison: Comparison, path: Path) -> None:
    """Draw a panel for each metric: the mean of each set-up with its interval over seeds."""
    from matplotlib.figure import Figure

    setups, metrics = comparison.setups, comparison.metrics
    across = min(len(metrics), 4 if len(setups) <= _MANY else 6)
    down, title = ceil(len(metrics) / across), fill(verdict(comparison), 150, max_lines=3, placeholder=" …")
    height = down * (0.9 + (0.4 if len(setups) <= _MANY else 0.22) * len(setups)) + 0.9
    figure = Figure(figsize=(14, height), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False, sharey=True)
    for axis in axes.flat[len(metrics) :]:
        axis.set_visible(False)
    for metric, axis in zip(metrics, axes.flat, strict=False):
        _draw_metric(comparison, metric, axis)
    names = [escaped(fill(setup.name, 36, max_lines=2, placeholder=" …")) for setup in setups]
    axes[0, 0].set_yticks(range(len(names)), names)
    axes[0, 0].set_ylim(len(names) - 0.4, -0.6)
    says = (
        "dot: mean over runs, hollow if not distinguishable from the first;  line: interval;  ticks: runs;  → ←: better"
    )
    figure.supxlabel(says, fontsize=8)
    figure.suptitle(escaped(title), x=0.008, ha="left", fontsize=11)
    figure.savefig(path, dpi=120)


def _draw_metric(comparison: Comparison, metric: str, axis: "Axes") -> None:
    """An axis shows all runs, and intervals as far as these stay readable: that of two is thirteen times as wide."""
    values = np.array([run.metrics.get(metric, np.nan) for setup in comparison.setups for run in setup.runs])
    low, high = np.nanmin(values[np.isfinite(values)]), np.nanmax(values[np.isfinite(values)])
    room = (high - low) or 0.05 * abs(high) or 1.0
    for place, setup in enumerate(comparison.setups):
        colour = palette.SETUPS[place] if place < len(palette.SETUPS) else palette.OTHERS
        mean, one = setup.means[metric], comparison.difference(setup.name, metric)
        runs = [run.metrics.get(metric, np.nan) for run in setup.runs]
        axis.plot(runs, [place] * len(runs), "|", color=colour, ms=8, mew=1)
        is_clear = one is None or comparison.is_significant(one)
        draw_interval(axis, place, mean.mean, (mean.lower, mean.upper), colour, is_clear=is_clear)
    left, right = axis.get_xlim()
    axis.set_xlim(max(left, low - room), min(right, high + room))
    axis.axhspan(-0.5, 0.5, color=palette.INK, alpha=0.05, lw=0)
    arrow = {"max": " →", "min": " ←", None: ""}[comparison.better(metric)]
    chosen = " (chooses)" * (metric == comparison.select)
    axis.set_title(escaped(f"{metric}{arrow}{chosen}"), fontsize=9, fontweight="bold" if chosen else "normal")
    axis.locator_params(axis="x", nbins=4)
    tidy(axis, grid="x")
