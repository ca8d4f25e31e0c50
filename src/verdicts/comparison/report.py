"""The report of a comparison: what is printed, `comparison.md` and the picture."""

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
from segue.verdicts.comparison.analysis import Comparison, Difference, Setup, disagreement, listed, verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MANY = 12  # set-ups. With more, they are drawn nearer to each other


def sections(comparison: Comparison) -> Sections:
    """The report: the set-ups, best first, with verdict and notes; and the differences in all metrics."""
    main = list(dict.fromkeys(filter(None, [comparison.select, comparison.primary])))
    metrics = list(dict.fromkeys([*main, *comparison.metrics]))
    tested = ["difference\nfrom the first", "Holm's p"] * bool(comparison.differences)
    names = [metric.replace("/", "/\n").replace("_per_session", "\n_per_session") for metric in metrics]
    columns = ["set-up", "runs", *names[: len(main)], *tested, *names[len(main) :]]
    rows = list[list[Cell]]()
    for setup in comparison.setups:
        means: list[Cell] = [_mean(comparison, setup, metric) for metric in metrics]
        beside = _difference(comparison, comparison.difference(setup.name, comparison.primary))[: len(tested)]
        name = Text(setup.name, overflow="fold")
        rows.append([name, str(len(setup.runs)), *means[: len(main)], *beside, *means[len(main) :]])
    notes = [f"{verdict(comparison)}.", *filter(None, [disagreement(comparison)]), *sentences(comparison)]
    kept, align = 2 + len(main) + len(tested), "l" + "R" * (len(columns) - 1)
    found = {"": Table(columns=columns, rows=rows, align=align, notes=notes, keeps=kept)}
    if comparison.differences:
        places = {setup.name: place for place, setup in enumerate(comparison.setups)}
        ordered = sorted(comparison.differences, key=lambda one: places[one.setup])
        lines = [[one.setup, one.metric, *_difference(comparison, one)] for one in ordered]
        head = ["set-up", "metric", "difference", "Holm's p"]
        found["Differences from the first set-up"] = Table(columns=head, rows=lines, align="llrr")
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
    num_queries, num_sessions = comparison.num_queries, comparison.num_sessions
    pairs = [f"by query ({num_queries:,} of {num_sessions:,} sessions)"] * bool(num_queries)
    pairs += [f"in {TIME} by listener ({comparison.num_listeners:,})"] * bool(comparison.num_listeners)
    single = [setup.name for setup in setups if len(setup.runs) == 1]
    without = [setup.name for setup in setups if len(setup.queries) < len(setup.runs)]
    refitted = [run.run_id[:8] if len(run.run_id) == 32 else run.run_id for run in comparison.runs if run.is_refitted]
    is_played = any(name.startswith("online/") for name in comparison.metrics)
    notes = {
        f"Set-ups: {len(setups)}, runs: {len(comparison.runs)}. Validation ({comparison.select}) sorts the set-ups, "
        f"test metrics do not. ±: half of the {level} interval of the mean over runs, which differ in seed.": True,
        f"Difference: the set-up minus {best}, paired {', '.join(pairs)}, with its {level} interval over sessions or "
        "listeners, and over seeds where there are several. Holm's p is corrected over all pairs of "
        "set-ups.": comparison.differences,
        f"One run only, therefore no variation over seeds: {listed(single)}.": single,
        f"No run has {', '.join(comparison.missing)}.": comparison.missing,
        f"Runs without test queries are left out of the tests: {listed(without)}.": without,
        "online/… is of the model that a run exports, the other metrics are of the one that it tested. These runs "
        f"export another one, which was refitted on all sessions: {listed(refitted)}.": refitted and is_played,
    }
    return [note for note, is_said in notes.items() if is_said]


def draw(comparison: Comparison, path: Path) -> None:
    """Draw a panel for each metric: the mean of each set-up with its interval over seeds."""
    from matplotlib.figure import Figure

    setups, metrics, is_many = comparison.setups, comparison.metrics, len(comparison.setups) > _MANY
    across = min(len(metrics), 6 if is_many else 4)
    down = ceil(len(metrics) / across)
    height = down * (0.9 + (0.22 if is_many else 0.4) * len(setups)) + 0.9
    figure = Figure(figsize=(14, height), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False, sharey=True)
    for axis in axes.flat[len(metrics) :]:
        axis.set_visible(False)
    for metric, axis in zip(metrics, axes.flat, strict=False):
        _draw_metric(comparison, metric, axis)
    names = [escaped(fill(setup.name, 36, max_lines=2, placeholder=" …")) for setup in setups]
    axes[0, 0].set_yticks(range(len(names)), names)
    axes[0, 0].set_ylim(len(names) - 0.4, -0.6)
    dots = "dot: mean over runs, hollow if not distinguishable from the first"
    figure.supxlabel(f"{dots};  line: interval;  ticks: runs;  → ←: better", fontsize=8)
    title = fill(verdict(comparison), 150, max_lines=3, placeholder=" …")
    figure.suptitle(escaped(title), x=0.008, ha="left", fontsize=11)
    figure.savefig(path, dpi=120)


def _draw_metric(comparison: Comparison, metric: str, axis: "Axes") -> None:
    """An axis shows all runs, and intervals as far as these stay readable: that of two is thirteen times as wide."""
    values = np.array([run.metrics.get(metric, np.nan) for run in comparison.runs])
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
