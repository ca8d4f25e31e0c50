"""The picture of a comparison: every metric of every set-up, the curve over alpha, and how training went."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np

from segue.reports import palette
from segue.reports.axes import plain, tidy
from segue.verdicts.comparison.analysis import Comparison, Setup

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

_MANY = 12
"""Number of set-ups. With more, names get one line and panels are narrower."""

_LINE_INCHES = 0.2
_BELOW_INCHES = 3.8
_NAME_WIDTH = 36
"""In characters."""


def draw(comparison: Comparison, path: Path) -> None:
    """Draw a panel for each metric and, below them, the curve over alpha and the learning curves if there are any.

    Args:
        comparison: what is drawn.
        path: PNG file to write.
    """
    mpl.use("agg")
    from matplotlib import pyplot as plt

    names = _names(comparison)
    rows = ceil(len(comparison.metrics) / (4 if len(names) <= _MANY else 6))
    heights = [rows * (_LINE_INCHES * max(sum(name.count("\n") + 1 for name in names), 3) + 0.8)]
    below = _panels_below(comparison)
    heights += [_BELOW_INCHES] * bool(below)
    title = "\n".join(
        textwrap.fill(sentence, 150, max_lines=3, placeholder=" …")
        for sentence in (comparison.verdict, comparison.disagreement)
        if sentence
    )
    figure = plt.figure(figsize=(14, sum(heights) + 0.25 * (title.count("\n") + 2)), layout="constrained")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    _draw_metrics(comparison, names, parts[0], rows)
    if below:
        axes = parts[1].subplots(1, len(below), squeeze=False)[0]
        for panel, axis in zip(below, axes, strict=True):
            panel(axis)
            tidy(axis, grid="both")
        _draw_legend(comparison, parts[1])
    figure.suptitle(plain(title), x=0.008, ha="left", fontsize=11)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _names(comparison: Comparison) -> list[str]:
    """Names with their rank by validation. If one is too long, words that all names share are left out."""
    words = [setup.name.split() for setup in comparison.setups]
    common = set.intersection(*map(set, words))
    if len(words) == 1 or all(len(setup.name) <= _NAME_WIDTH for setup in comparison.setups):
        common = set()
    lines = 2 if len(words) <= _MANY else 1
    names = []
    for place, own in enumerate(words, start=1):
        name = " ".join([f"{place} ", *(word for word in own if word not in common or word == own[0])])
        names.append(plain("\n".join(textwrap.wrap(name, _NAME_WIDTH, max_lines=lines, placeholder=" …"))))
    return names


def _colour(place: int) -> str:
    return palette.SETUPS[place] if place < len(palette.SETUPS) else palette.OTHERS


def _limits(values: Sequence[float], ends: Sequence[float]) -> tuple[float, float]:
    """Limits of an axis that shows all values, and intervals as far as the values stay readable.

    The interval of two runs is thirteen times as wide as their distance.
    """
    low, high = min(values), max(values)
    pad = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    room = max(high - low, pad)
    finite = [end for end in ends if np.isfinite(end)]
    return max(low - room, min([low, *finite]) - pad), min(high + room, max([high, *finite]) + pad)


def _draw_metrics(comparison: Comparison, names: list[str], figure: "SubFigure", rows: int) -> None:
    axes = figure.subplots(rows, ceil(len(comparison.metrics) / rows), squeeze=False, sharey=True)
    for axis in axes.flat[len(comparison.metrics) :]:
        axis.set_visible(False)
    for metric, axis in zip(comparison.metrics, axes.flat, strict=False):
        _draw_metric(comparison, metric, axis)
    for axis in axes[:, 0]:
        axis.set_yticks(range(len(names)), names, fontsize=8.5)
        axis.set_ylim(len(names) - 0.4, -0.6)
        for place, label in enumerate(axis.get_yticklabels()):
            label.set_color(_colour(place) if place < len(palette.SETUPS) else "#777777")
    legend = (
        "dot: mean over runs, hollow if not distinguishable from set-up 1;  line: interval over seeds, "
        "with an arrow where it continues;  ticks: runs;  → ←: better"
    )
    figure.supxlabel(legend, fontsize=8, color="#666666", x=0.992, ha="right")


def _draw_metric(comparison: Comparison, metric: str, axis: "Axes") -> None:
    """Draw runs, mean and interval of each set-up."""
    means = [setup.means[metric] for setup in comparison.setups]
    runs = [
        [v for run in setup.runs if np.isfinite(v := run.metrics.get(metric, np.nan))] for setup in comparison.setups
    ]
    low, high = _limits(
        [value for own in runs for value in own], [e for mean in means for e in (mean.lower, mean.upper)]
    )
    axis.set_xlim(low, high)
    for place, (setup, mean, own) in enumerate(zip(comparison.setups, means, runs, strict=True)):
        colour, one = _colour(place), comparison.difference(setup.name, metric)
        if mean.num > 1:
            axis.plot([mean.lower, mean.upper], [place, place], color=colour, lw=2, alpha=0.7, solid_capstyle="butt")
            axis.plot(own, [place] * len(own), "|", color=colour, ms=8, mew=1)
            for end, mark in ((low, "<"), (high, ">")):
                if mean.lower < low if end == low else mean.upper > high:
                    axis.plot(end, place, mark, color=colour, ms=5, clip_on=False)
        hollow = one is not None and not comparison.is_significant(one)
        axis.plot(mean.mean, place, "o", color=colour, mfc="white" if hollow else colour, ms=6.5, mew=1.6, zorder=3)
    axis.axhspan(-0.5, 0.5, color="#000000", alpha=0.05, lw=0)
    arrow = {"max": " →", "min": " ←", None: ""}[comparison.better(metric)]
    chosen = " (chooses)" if metric == comparison.select else ""
    axis.set_title(plain(f"{metric}{arrow}{chosen}"), fontsize=9, fontweight="bold" if chosen else "normal")
    axis.locator_params(axis="x", nbins=4)
    axis.tick_params(axis="x", labelsize=8)
    axis.tick_params(axis="y", length=0)
    tidy(axis, hide=("top", "right", "left"), grid="x", size=None)


def _panels_below(comparison: Comparison) -> "list[Callable[[Axes], None]]":
    panels: list[Callable[[Axes], None]] = []
    if len({setup.alpha for setup in comparison.setups} - {None}) >= 3:
        panels.append(partial(_draw_alpha, comparison))
    known = {metric for setup in comparison.setups for run in setup.runs for metric in run.history}
    ranked = comparison.select if comparison.select in known else (comparison.offline or comparison.select)
    for styles in ({"train/loss": "--", "val/loss": "-"}, {ranked: "-"}):
        if known & set(styles) and styles != {"val/loss": "-"}:
            panels.append(partial(_draw_curves, comparison, styles))
    return panels


def _draw_alpha(comparison: Comparison, axis: "Axes") -> None:
    """Draw the primary metric over alpha; if set-ups share an alpha, the line goes through the best by validation."""
    metric = comparison.primary or comparison.select
    line: dict[float, Setup] = {}
    for place, setup in enumerate(comparison.setups):
        if setup.alpha is not None and setup.means[metric].num:
            line.setdefault(setup.alpha, setup)
            axis.plot(setup.alpha, setup.means[metric].mean, "o", color=_colour(place), ms=6.5, zorder=3)
    alphas = sorted(line)
    means = [line[alpha].means[metric] for alpha in alphas]
    axis.plot(alphas, [mean.mean for mean in means], color="#444444", lw=1.2)
    axis.set_ylim(_limits([mean.mean for mean in means], [end for m in means for end in (m.lower, m.upper)]))
    axis.fill_between(alphas, [m.lower for m in means], [m.upper for m in means], color="#444444", alpha=0.12, lw=0)
    axis.set_title(plain(metric), fontsize=9)
    axis.set_xlabel("α, share of the track cosine", fontsize=9)


def _draw_curves(comparison: Comparison, styles: Mapping[str, str], axis: "Axes") -> None:
    """Draw means and ranges over seeds, for epochs that all seeds have, counted from 1; the best set-up is on top."""
    values: list[float] = []
    for place, setup in reversed(list(enumerate(comparison.setups))):
        for metric, style in styles.items():
            curves = [dict(run.history[metric]) for run in setup.runs if run.history.get(metric)]
            epochs = sorted(set.intersection(*map(set, curves))) if curves else []
            if not epochs:
                continue
            of_run = np.array([[curve[epoch] for epoch in epochs] for curve in curves], np.float64)
            of_run[~np.isfinite(of_run)] = np.nan
            colour, mark = _colour(place), "." if len(epochs) == 1 else ""
            numbers = [epoch + 1 for epoch in epochs]  # as the terminal counts them
            axis.plot(numbers, of_run.mean(0), style + mark, color=colour, lw=2.2 if place == 0 else 1.1)
            if len(comparison.setups) <= _MANY:
                axis.fill_between(numbers, of_run.min(0), of_run.max(0), color=colour, alpha=0.15, lw=0)
            values += of_run[np.isfinite(of_run)].tolist()
    if values and min(values) > 0 and max(values) > 30 * min(values):
        axis.set_yscale("log")
    names = [f"{metric} ({'dashed' if style == '--' else 'solid'})" for metric, style in styles.items()]
    axis.set_title(plain(", ".join(names) if len(names) > 1 else next(iter(styles))), fontsize=9)
    axis.set_xlabel("epoch (those that all seeds have)", fontsize=9)
    axis.locator_params(axis="x", integer=True)


def _draw_legend(comparison: Comparison, figure: "SubFigure") -> None:
    from matplotlib.lines import Line2D

    names = [name.replace("\n", " ") for name in _names(comparison)[: len(palette.SETUPS)]]
    names = [name if len(name) <= _NAME_WIDTH else name[: _NAME_WIDTH - 1] + "…" for name in names]
    lines = [Line2D([], [], color=_colour(place), lw=2.5) for place in range(len(names))]
    if len(comparison.setups) > len(palette.SETUPS):
        lines.append(Line2D([], [], color=palette.OTHERS, lw=2.5))
        names.append(f"{len(palette.SETUPS) + 1} to {len(comparison.setups)}")
    figure.legend(lines, names, loc="outside right upper", fontsize=7.5, frameon=False)
