"""The picture of an A/B test: effects with their intervals, sessions over time, and how long sessions last."""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np

from segue.reports import palette
from segue.reports.axes import plain, tidy
from segue.reports.numbers import words
from segue.verdicts.abtest.doubts import doubts, split_sentence, users_table
from segue.verdicts.abtest.metrics import LOWER_IS_BETTER, metrics_of
from segue.verdicts.abtest.result import Analysis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NUM_LETTERS = 150
"""Letters of a line of text."""

_NUM_TIME_BINS = 40
"""Bins of the sessions over time."""


def draw(analysis: Analysis, path: Path) -> None:
    """Draw the picture of an A/B test.

    Args:
        analysis: the result to draw.
        path: the PNG file to write.
    """
    mpl.use("agg")
    from matplotlib import pyplot as plt

    panels = [_draw_timeline, *[_draw_days] * any(one.split == "day" for one in analysis.slices), _draw_lengths]
    height = 2.2 + 2.2 * len(panels)
    figure = plt.figure(figsize=(11, height))
    grid = figure.add_gridspec(len(panels), 2, width_ratios=(1.15, 1), hspace=0.5, wspace=0.25)
    _draw_effects(analysis, figure.add_subplot(grid[:, 0]))
    for row, draw_panel in enumerate(panels):
        draw_panel(analysis, figure.add_subplot(grid[row, 1]))
    rows = users_table(analysis).rows
    users = "; ".join(f"{arm} {count}, {share} (planned {planned})" for arm, planned, share, count, *_ in rows)
    verdicts = [f"{arm}: {verdict}" for arm, verdict in analysis.verdicts.items()]
    above = [f"A/B test {analysis.users.experiment}", f"Users: {users}", split_sentence(analysis), *verdicts]
    below = ["What could be wrong", *(f"– {line}" for line in doubts(analysis))]
    for lines, place, side in ((above, 0.88 + 0.2 / height, "bottom"), (below, 0.11 - 0.8 / height, "top")):
        text = "\n".join(textwrap.fill(plain(line), _NUM_LETTERS, subsequent_indent="   ") for line in lines)
        figure.text(0.02, place, text, va=side, ha="left", fontsize=9)
    figure.savefig(path, dpi=130, bbox_inches="tight")
    plt.close(figure)


def _colour(arm: int) -> str:
    return palette.ARMS[arm % len(palette.ARMS)]


def _draw_effects(analysis: Analysis, axis: "Axes") -> None:
    treatments = analysis.users.arms[1:]
    metrics = metrics_of(analysis.users)
    for row, metric in enumerate(metrics):
        for number, treatment in enumerate(treatments):
            effect = analysis.effect(treatment, metric)
            if not np.isfinite(effect.relative_lower_percent):
                continue
            place = -row + 0.5 * ((len(treatments) - 1) / 2 - number) / len(treatments)
            colour = _colour(number + 1)
            axis.plot(
                [effect.relative_lower_percent, effect.relative_upper_percent], [place, place], color=colour, lw=2
            )
            axis.plot(
                effect.effect_percent,
                place,
                "o",
                color=colour,
                mfc=colour if (effect.is_good or effect.is_bad) and not analysis.withholds(treatment) else "white",
                ms=7,
            )
            if np.isfinite(effect.margin):
                margin = effect.margin if metric in LOWER_IS_BETTER else -effect.margin
                axis.plot(margin, place, "|", color=palette.RED, ms=14, mew=2)
            axis.annotate(
                f"{effect.effect_percent:+.1f}",
                (effect.effect_percent, place),
                xytext=(0, 6),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color=colour,
            )
    for number, treatment in enumerate(treatments):
        axis.plot([], [], "o-", color=_colour(number + 1), label=plain(treatment))
    families = {effect.metric: effect.family for effect in analysis.effects}
    if "guardrail" in families.values():
        axis.plot([], [], "|", color=palette.RED, ms=12, mew=2, label="margin of a guardrail")
    axis.axvline(0, color="#888888", lw=1)
    names = [f"{words(name)}\n({families[name]})" for name in metrics]
    axis.set_yticks(-np.arange(len(metrics)), names)
    axis.set_ylim(-len(metrics) + 0.4, 0.6)
    level = f"{100 * (1 - analysis.settings.alpha):g} %{', higher in families' * analysis.settings.correction}"
    axis.set_xlabel(
        f"effect in % of the mean of {analysis.users.arms[0]}, with its interval ({level});\n"
        "filled: significant, or a guardrail that holds or is broken"
    )
    tidy(axis, hide=("top", "right", "left"), grid="x", size=None)
    axis.legend(frameon=False, loc="best")


def _draw_timeline(analysis: Analysis, axis: "Axes") -> None:
    each = analysis.users.each
    since = each.started_ms - each.started_ms.min()
    unit, name = (3_600_000, "hours") if since.max() < 3 * 86_400_000 else (86_400_000, "days")
    width = int(since.max()) // _NUM_TIME_BINS + 1
    for number, arm in enumerate(analysis.users.arms):
        started = np.bincount(since[each.arm_of == number] // width)
        places = np.flatnonzero(started)
        axis.plot(places * width / unit, started[places], ".-", color=_colour(number), lw=1, ms=4, label=plain(arm))
    axis.set(xlabel=f"{name} since the first session", ylabel="sessions started", ylim=(0, None))
    tidy(axis, size=None)
    axis.legend(frameon=False, fontsize=8)


def _draw_days(analysis: Analysis, axis: "Axes") -> None:
    treatments = analysis.users.arms[1:]
    for number, arm in enumerate(treatments):
        rows = [one for one in analysis.slices if (one.treatment, one.split) == (arm, "day")]
        days = np.array([int(one.part) for one in rows]) + 0.15 * (number - (len(treatments) - 1) / 2)
        effects = np.array([[one.lower_percent, one.effect_percent, one.upper_percent] for one in rows]).reshape(-1, 3)
        axis.plot(days, effects[:, 1], ".-", color=_colour(number + 1), lw=1)
        axis.vlines(days, effects[:, 0], effects[:, 2], color=_colour(number + 1), lw=1.5)
    axis.axhline(0, color="#888888", lw=1)
    axis.set(xlabel="day of the log", ylabel=f"effect in %\n({words(analysis.settings.primary)})")
    axis.locator_params(axis="x", integer=True)
    tidy(axis, size=None)


def _draw_lengths(analysis: Analysis, axis: "Axes") -> None:
    each = analysis.users.each
    for number, arm in enumerate(analysis.users.arms):
        own = (each.arm_of == number) & each.is_finished
        binned = np.bincount(each.time[own].astype(np.int64).clip(0, 30), minlength=31)
        axis.step(np.arange(31), binned / binned.sum(), where="mid", color=_colour(number), lw=1.5, label=plain(arm))
    axis.set(
        xlabel="time of a session, in tracks played in full (30: 30 or more)",
        ylabel="share of sessions",
        xlim=(-0.5, 30.5),
        yscale="log",
    )
    tidy(axis, size=None)
