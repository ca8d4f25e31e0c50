"""The picture of an A/B test: effects with their intervals."""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from segue.reports import palette
from segue.reports.axes import interval, plain, tidy
from segue.reports.numbers import words
from segue.verdicts.abtest.metrics import LOWER_IS_BETTER
from segue.verdicts.abtest.result import Analysis
from segue.verdicts.abtest.verdict import doubts, split_sentence

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(analysis: Analysis, path: Path) -> None:
    """Draw the picture of an A/B test.

    Args:
        analysis: the result to draw.
        path: the PNG file to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5))
    _draw_effects(analysis, figure.subplots())
    verdicts = (f"{arm}: {verdict}" for arm, verdict in analysis.verdicts.items())
    above = [analysis.title, split_sentence(analysis), *verdicts]
    below = ["What could be wrong", *(f"– {line}" for line in doubts(analysis))]
    for lines, place, side in ((above, 0.92, "bottom"), (below, -0.05, "top")):
        text = "\n".join(textwrap.fill(plain(line), width=150, subsequent_indent="   ") for line in lines)
        figure.text(0.02, place, text, va=side, ha="left", fontsize=9)
    figure.savefig(path, dpi=130, bbox_inches="tight")


def _colour(arm: int) -> str:
    return palette.ARMS[arm % len(palette.ARMS)]


def _draw_effects(analysis: Analysis, axis: "Axes") -> None:
    control, *treatments = analysis.users.arms
    families = {effect.metric: effect.family for effect in analysis.effects}
    for effect in analysis.effects:
        arm, bounds, value = treatments.index(effect.treatment), effect.relative, effect.effect_percent
        place = 0.5 * ((len(treatments) - 1) / 2 - arm) / len(treatments) - list(families).index(effect.metric)
        if np.isfinite(bounds.lower_percent):
            is_clear = effect.is_clear and not analysis.withholds(effect.treatment)
            ends = bounds.lower_percent, bounds.upper_percent
            interval(axis, place, value, ends, _colour(arm + 1), is_clear=is_clear)
            margin = effect.margin if effect.metric in LOWER_IS_BETTER else -effect.margin
            axis.plot(margin, place, "|", color=palette.RED, ms=14, mew=2)  # nothing where it is NaN
            axis.text(value, place + 0.12, f"{value:+.1f}", fontsize=8, color=_colour(arm + 1), ha="center")
    for number, treatment in enumerate(treatments, start=1):
        axis.plot([], [], "o-", color=_colour(number), label=plain(treatment))
    if "guardrail" in families.values():
        axis.plot([], [], "|", color=palette.RED, ms=12, mew=2, label="margin of a guardrail")
    axis.axvline(0, color="#888888", lw=1)
    axis.set_yticks(-np.arange(len(families)), [f"{words(name)}\n({family})" for name, family in families.items()])
    axis.set_ylim(-len(families) + 0.4, 0.6)
    says = (
        f"effect in % of the mean of {control}, with its interval ({100 * (1 - analysis.settings.alpha):g} %, higher "
        "in families);\nfilled: significant, or a guardrail that holds or is broken"
    )
    tidy(axis, grid="x", legend=True, xlabel=says)
