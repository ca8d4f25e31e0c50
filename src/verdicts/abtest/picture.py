"""The picture of an A/B test: effects with their intervals, sessions over time, and how long sessions last."""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segue.reports import palette
from segue.reports.axes import interval, plain, tidy
from segue.reports.numbers import words
from segue.verdicts.abtest.metrics import LOWER_IS_BETTER
from segue.verdicts.abtest.result import Analysis
from segue.verdicts.abtest.slices import DAY_MS
from segue.verdicts.abtest.verdict import doubts, split_sentence, users_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(analysis: Analysis, path: Path) -> None:
    """Draw the picture of an A/B test.

    Args:
        analysis: the result to draw.
        path: the PNG file to write.
    """
    from matplotlib.figure import Figure

    panels = [_draw_timeline, *[_draw_days] * any(one.split == "day" for one in analysis.slices), _draw_lengths]
    height = 2.2 + 2.2 * len(panels)
    figure = Figure(figsize=(11, height))
    grid = figure.add_gridspec(len(panels), 2, width_ratios=(1.15, 1), hspace=0.5, wspace=0.25)
    _draw_effects(analysis, figure.add_subplot(grid[:, 0]))
    for row, draw_panel in enumerate(panels):
        draw_panel(analysis, figure.add_subplot(grid[row, 1]))
    rows = users_table(analysis).rows
    users = "; ".join(f"{arm} {count}, {share} (planned {planned})" for arm, planned, share, count, *_ in rows)
    verdicts = (f"{arm}: {verdict}" for arm, verdict in analysis.verdicts.items())
    above = [analysis.title, f"Users: {users}", split_sentence(analysis), *verdicts]
    below = ["What could be wrong", *(f"– {line}" for line in doubts(analysis))]
    for lines, place, side in ((above, 0.88 + 0.2 / height, "bottom"), (below, 0.11 - 0.8 / height, "top")):
        text = "\n".join(textwrap.fill(plain(line), width=150, subsequent_indent="   ") for line in lines)
        figure.text(0.02, place, text, va=side, ha="left", fontsize=9)
    figure.savefig(path, dpi=130, bbox_inches="tight")


def _colour(arm: int) -> str:
    return palette.ARMS[arm % len(palette.ARMS)]


def _draw_effects(analysis: Analysis, axis: "Axes") -> None:
    control, *treatments = analysis.users.arms
    families = {effect.metric: effect.family for effect in analysis.effects}
    for effect in analysis.effects:
        arm, bounds = treatments.index(effect.treatment), effect.relative
        place = 0.5 * ((len(treatments) - 1) / 2 - arm) / len(treatments) - list(families).index(effect.metric)
        if np.isfinite(bounds.lower_percent):
            colour, value = _colour(arm + 1), effect.effect_percent
            is_clear = effect.is_clear and not analysis.withholds(effect.treatment)
            interval(axis, place, value, (bounds.lower_percent, bounds.upper_percent), colour, is_clear=is_clear)
            margin = effect.margin if effect.metric in LOWER_IS_BETTER else -effect.margin
            axis.plot(margin, place, "|", color=palette.RED, ms=14, mew=2)  # nothing where it is NaN
            above: dict[str, Any] = {"xytext": (0, 6), "textcoords": "offset points", "ha": "center"}
            axis.annotate(f"{value:+.1f}", (value, place), fontsize=8, color=colour, **above)
    for number, treatment in enumerate(treatments, start=1):
        axis.plot([], [], "o-", color=_colour(number), label=plain(treatment))
    if "guardrail" in families.values():
        axis.plot([], [], "|", color=palette.RED, ms=12, mew=2, label="margin of a guardrail")
    axis.axvline(0, color="#888888", lw=1)
    axis.set_yticks(-np.arange(len(families)), [f"{words(name)}\n({family})" for name, family in families.items()])
    axis.set_ylim(-len(families) + 0.4, 0.6)
    axis.set_xlabel(
        f"effect in % of the mean of {control}, with its interval ({100 * (1 - analysis.settings.alpha):g} %, higher "
        "in families);\nfilled: significant, or a guardrail that holds or is broken"
    )
    tidy(axis, hide=("top", "right", "left"), grid="x", size=None)
    axis.legend(frameon=False, loc="best")


def _draw_timeline(analysis: Analysis, axis: "Axes") -> None:
    each = analysis.users.each
    since = each.started_ms - each.started_ms.min()
    unit, name = (DAY_MS // 24, "hours") if since.max() < 3 * DAY_MS else (DAY_MS, "days")
    width = int(since.max()) // 40 + 1  # of a bin
    for number, arm in enumerate(analysis.users.arms):
        started = np.bincount(since[each.arm_of == number] // width)
        places = np.flatnonzero(started)
        axis.plot(places * width / unit, started[places], ".-", color=_colour(number), lw=1, ms=4, label=plain(arm))
    axis.set(xlabel=f"{name} since the first session", ylabel="sessions started", ylim=(0, None))
    tidy(axis, size=None, legend=True)


def _draw_days(analysis: Analysis, axis: "Axes") -> None:
    treatments = analysis.users.arms[1:]
    for number, arm in enumerate(treatments):
        rows = [one for one in analysis.slices if (one.treatment, one.split) == (arm, "day")]
        days = np.array([int(one.part) for one in rows]) + 0.15 * (number - (len(treatments) - 1) / 2)
        axis.plot(days, [one.effect_percent for one in rows], ".-", color=_colour(number + 1), lw=1)
        lower, upper = [one.lower_percent for one in rows], [one.upper_percent for one in rows]
        axis.vlines(days, lower, upper, color=_colour(number + 1), lw=1.5)
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
    axis.set(xlabel="time of a session, in tracks played in full (30: 30 or more)", ylabel="share of sessions")
    axis.set(xlim=(-0.5, 30.5), yscale="log")
    tidy(axis, size=None)
