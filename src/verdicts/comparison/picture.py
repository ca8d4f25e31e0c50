"""The picture of a comparison: every metric of every set-up, the curve over alpha, and how training went."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segue.reports import palette
from segue.reports.axes import interval, plain, tidy
from segue.verdicts.comparison.analysis import Comparison, disagreement, verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

_MANY = 12  # number of set-ups. With more, names get one line and panels are narrower


def draw(comparison: Comparison, path: Path) -> None:
    """Draw a panel for each metric and, below them, the curve over alpha and the learning curves if there are any."""
    from matplotlib.figure import Figure

    num = len(comparison.setups)
    names = [
        plain("\n".join(textwrap.wrap(f"{place}  {setup.name}", 36, max_lines=2 - (num > _MANY), placeholder=" …")))
        for place, setup in enumerate(comparison.setups, start=1)
    ]
    rows = ceil(len(comparison.metrics) / (6 if num > _MANY else 4))
    below = _panels_below(comparison)
    heights = [rows * (0.2 * max("\n".join(names).count("\n") + 1, 3) + 0.8), *[3.8] * bool(below)]
    title = "\n".join(
        textwrap.fill(sentence, 150, max_lines=3, placeholder=" …")
        for sentence in (verdict(comparison), disagreement(comparison))
        if sentence
    )
    figure = Figure(figsize=(14, sum(heights) + 0.25 * (title.count("\n") + 2)), layout="constrained")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    _draw_metrics(comparison, names, parts[0], rows)
    axes = parts[1].subplots(1, len(below), squeeze=False)[0] if below else ()
    for panel, axis in zip(below, axes, strict=True):
        panel(axis)
        tidy(axis, grid="both")
    figure.suptitle(plain(title), x=0.008, ha="left", fontsize=11)
    figure.savefig(path, dpi=120)


def _colour(place: int) -> str:
    return palette.SETUPS[place] if place < len(palette.SETUPS) else palette.OTHERS


def _limits(values: Any, intervals: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Limits of an axis that shows all values, and intervals as far as the values stay readable.

    The interval of two runs is thirteen times as wide as their distance.
    """
    known = np.asarray(values)[np.isfinite(values)]
    low, high = float(known.min()), float(known.max())
    pad = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    room = max(high - low, pad)
    return (
        max(low - room, min([low, *(lower for lower, _ in intervals if np.isfinite(lower))]) - pad),
        min(high + room, max([high, *(upper for _, upper in intervals if np.isfinite(upper))]) + pad),
    )


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
    means = [setup.means[metric] for setup in comparison.setups]
    runs = [np.array([run.metrics.get(metric, np.nan) for run in setup.runs]) for setup in comparison.setups]
    low, high = _limits(np.concatenate(runs), [(mean.lower, mean.upper) for mean in means])
    axis.set_xlim(low, high)
    for place, (setup, mean, own) in enumerate(zip(comparison.setups, means, runs, strict=True)):
        colour, one = _colour(place), comparison.difference(setup.name, metric)
        if mean.num > 1:
            axis.plot(own, np.full(len(own), place), "|", color=colour, ms=8, mew=1)
            ends = ((low, "<", mean.lower < low), (high, ">", mean.upper > high))
            for end, mark in ((end, mark) for end, mark, goes_on in ends if goes_on):
                axis.plot(end, place, mark, color=colour, ms=5, clip_on=False)
        is_clear = one is None or comparison.is_significant(one)
        interval(axis, place, mean.mean, (mean.lower, mean.upper), colour, is_clear=is_clear)
    axis.axhspan(-0.5, 0.5, color="#000000", alpha=0.05, lw=0)
    arrow = {"max": " →", "min": " ←", None: ""}[comparison.better(metric)]
    chosen = " (chooses)" if metric == comparison.select else ""
    axis.set_title(plain(f"{metric}{arrow}{chosen}"), fontsize=9, fontweight="bold" if chosen else "normal")
    axis.locator_params(axis="x", nbins=4)
    axis.tick_params(axis="x", labelsize=8)
    axis.tick_params(axis="y", length=0)
    tidy(axis, hide=("top", "right", "left"), grid="x", size=None)


def _panels_below(comparison: Comparison) -> "list[Callable[[Axes], None]]":
    alphas = {setup.alpha for setup in comparison.setups} - {None}
    known = {metric for setup in comparison.setups for run in setup.runs for metric in run.history}
    ranked = comparison.select if comparison.select in known else (comparison.offline or comparison.select)
    curves = [{"train/loss": "--", "val/loss": "-"}, *[{ranked: "-"}] * (ranked != "val/loss")]
    shown = [partial(_draw_curves, comparison, styles) for styles in curves if known & set(styles)]
    return [*[partial(_draw_alpha, comparison)] * (len(alphas) >= 3), *shown]


def _draw_alpha(comparison: Comparison, axis: "Axes") -> None:
    """Draw the primary metric over alpha; if set-ups share an alpha, the line goes through the best by validation."""
    metric = comparison.primary or comparison.select
    known = [
        (setup.alpha, setup.means[metric], place)
        for place, setup in enumerate(comparison.setups)
        if setup.alpha is not None and setup.means[metric].num
    ]
    for alpha, mean, place in known:
        axis.plot(alpha, mean.mean, "o", color=_colour(place), ms=6.5, zorder=3)
    best = {alpha: (mean.mean, mean.lower, mean.upper) for alpha, mean, _ in reversed(known)}
    alphas = sorted(best)
    means, lower, upper = zip(*(best[alpha] for alpha in alphas), strict=True)
    axis.plot(alphas, means, color="#444444", lw=1.2)
    axis.fill_between(alphas, lower, upper, color="#444444", alpha=0.12, lw=0)
    axis.set_ylim(_limits(means, list(zip(lower, upper, strict=True))))
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
