"""The picture of a description: how unequal the plays of tracks are, and the pauses, or the lengths of sessions."""

from collections.abc import Callable, Sequence
from math import log2
from pathlib import Path
from typing import TYPE_CHECKING

from segue.datamodules.describing.facts import Facts
from segue.reports.axes import plain, tidy
from segue.reports.numbers import count, duration, percent
from segue.reports.palette import BLUE, FAINT, INK, ORANGE

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(facts: Facts, gap_minutes: float, title: str, path: Path) -> None:
    """Draw the popularity of tracks, and the pauses between plays; without a clock the lengths of sessions.

    Args:
        gap_minutes: the pause that ends a session, which is marked.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    figure.suptitle(plain(title), x=0.01, ha="left", color=INK, fontsize=12, fontweight="bold")
    popularity, clock, length = facts["popularity"], facts["clock"], facts["session_length"]
    left.loglog(*zip(*popularity["curve"], strict=True), color=BLUE, lw=2, marker="o", ms=3)
    left.axvspan(0.8, popularity["half"], color=FAINT, alpha=0.6, lw=0)
    says = f"popularity: the first track has {percent(popularity['top_share'])} of the plays"
    _label(left, f"{says}; {count(popularity['half'])} (grey) have half", "rank of the track", "plays")
    if clock and clock["gaps"]:
        _draw_bars(clock["gaps"], right, duration)
        right.axvline(log2(gap_minutes * 60), color=ORANGE, lw=1.5)
        says = f"pauses between two plays of a user: median {duration(clock['median_gap_s'])}"
        _label(right, f"{says}; line: what ends a session", "pause, at least", "pauses")
    else:
        _draw_bars(length["counts"], right, lambda number: count(round(number)))
        says = f"sessions: median {length['median']:,.0f} tracks, most {length['most']:,.0f}"
        _label(right, says, "tracks of a session, at least", "sessions")
    figure.savefig(path, dpi=110)


def _draw_bars(counts: Sequence[int], axis: "Axes", name: Callable[[float], str]) -> None:
    """A bar for each power of two."""
    places = range(0, len(counts), -(-len(counts) // 9))
    axis.bar(range(len(counts)), counts, 0.9, color=BLUE, alpha=0.75, align="edge")
    axis.set_xticks(places, [name(2.0**place) for place in places])


def _label(axis: "Axes", title: str, xlabel: str, ylabel: str) -> None:
    axis.set_title(plain(title), fontsize=9.5, loc="left", color=INK)
    tidy(axis, grid="y", xlabel=xlabel, ylabel=ylabel)
