"""The picture of a description: what was found on top, and six panels below."""

import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import matplotlib as mpl
import numpy as np

from segue.datamodules.describing.clock import Clock
from segue.datamodules.describing.measures import Facts, Shares, Spread
from segue.datamodules.describing.warnings import DataWarning
from segue.reports.axes import plain, tidy
from segue.reports.numbers import count, duration, percent
from segue.reports.palette import BLUE, FAINT, GREY, INK, ORANGE, RED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MAX_WARNINGS = 5  # number of warnings below the title
_MAX_PANELS = 6
_LINE_WIDTH = 180  # characters of a line on top
_LINE_INCHES = 0.2


def draw(facts: Facts, warnings: Sequence[DataWarning], gap_minutes: float, title: str, path: Path) -> None:
    """Draw the distributions of what the source has: sessions, popularity, shares played, times, artists, pairs.

    Args:
        warnings: the first ones are written below the title.
        gap_minutes: the pause that ends a session, which is marked.
    """
    mpl.use("agg")
    from matplotlib import pyplot as plt

    lines = _lines_on_top(facts, warnings, title)
    height = 0.35 + _LINE_INCHES * len(lines)
    panels = _panels(facts, gap_minutes)[:_MAX_PANELS]
    figure = plt.figure(figsize=(13, 7.2 + height), layout="constrained")
    top, below = figure.subfigures(2, 1, height_ratios=(height, 7.2), squeeze=False)[:, 0]
    for number, (line, colour) in enumerate(lines):
        place = 1 - (0.12 + _LINE_INCHES * number + 0.08 * (number > 0)) / height
        size, weight = (9, "normal") if number else (12, "bold")
        top.text(0.008, place, line, va="top", color=colour, fontsize=size, fontweight=weight, parse_math=False)
    axes = below.subplots(2, -(-len(panels) // 2)).ravel()
    for panel, axis in zip(panels, axes, strict=False):
        panel(axis)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _panels(facts: Facts, gap_minutes: float) -> "list[Callable[[Axes], None]]":
    clock, shares, pairs = facts.clock, facts.shares, facts.pairs_of_track
    gap = None if clock is None else clock.median_gap_s
    panels = [
        partial(_draw_spread, facts.session_length, "tracks of a session", "sessions"),
        partial(_draw_popularity, facts),
        None if shares is None else partial(_draw_shares, shares),
        None if clock is None else partial(_draw_times, clock),
        None if clock is None or gap is None else partial(_draw_gaps, clock, gap, gap_minutes),
        partial(_draw_spread, facts.tracks_of_artist, "tracks of an artist", "artists"),
        None if pairs is None else partial(_draw_spread, pairs, "training pairs of a track", "tracks"),
    ]
    return [panel for panel in panels if panel is not None]


def _lines_on_top(facts: Facts, warnings: Sequence[DataWarning], title: str) -> list[tuple[str, str]]:
    users = "playlists" if facts.are_playlists else "users"
    sizes = [f"{facts.num_events:,} plays", f"{facts.num_users:,} {users}", f"{facts.num_sessions:,} sessions"]
    sizes += [f"{facts.num_played_tracks:,} tracks", f"{facts.num_artists:,} artists"]
    lines = [(title, INK), (", ".join(sizes), GREY)]
    for warning in warnings[:_MAX_WARNINGS]:
        wrapped = textwrap.wrap(f"warning: {warning.says}", _LINE_WIDTH, max_lines=2, placeholder=" …")
        lines += [(line if not number else f"                {line}", RED) for number, line in enumerate(wrapped)]
    if len(warnings) > _MAX_WARNINGS:
        lines.append((f"and {len(warnings) - _MAX_WARNINGS} more, in describe.json", RED))
    return lines if warnings else [*lines, ("no warnings", GREY)]


def _label(axis: "Axes", title: str, xlabel: str, ylabel: str, grid: Literal["y"] | None = "y") -> None:
    axis.set_title(plain(title), fontsize=9.5, loc="left", color=INK)
    tidy(axis, grid=grid, xlabel=xlabel, ylabel=ylabel)


def _draw_spread(spread: Spread, what: str, of: str, axis: "Axes") -> None:
    counts = np.array(spread.counts)
    axis.bar(range(len(counts)), 100 * counts / counts.sum(), 0.75, color=BLUE, alpha=0.75)
    names = [count(2**n) + (f"–{count(2 ** (n + 1) - 1)}" if n else "") for n in range(len(counts))]  # 1, 2–3, 4–7
    step = -(-len(counts) // 9)
    axis.set_xticks(range(0, len(counts), step), names[::step], rotation=30, ha="right")
    axis.set_xlim(-0.7, max(len(counts), 4) - 0.3)
    title = f"{what}: median {spread.median:,.0f}, mean {spread.mean:,.1f}, most {spread.most:,.0f}"
    _label(axis, title, what, f"% of {of}")


def _draw_popularity(facts: Facts, axis: "Axes") -> None:
    popularity = facts.popularity
    ranks, plays = np.array(popularity.curve).T
    axis.plot(ranks, plays, color=BLUE, lw=2, marker="o" if len(ranks) < 10 else None, ms=4)
    axis.axvspan(0.8, popularity.half, color=FAINT, alpha=0.6, lw=0)
    axis.set(xscale="log", yscale="log", xlim=(0.8, max(ranks[-1] * 1.3, 2)), ylim=(0.8, plays[0] * 1.6))
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_formatter(lambda value, _: count(round(value)) if value >= 1 else "")
    axis.minorticks_off()
    tracks = "1 track has" if popularity.half == 1 else f"{count(popularity.half)} tracks have"
    axis.text(1, 1.05, f"{tracks}\nhalf of the plays", fontsize=8.5, color=GREY, va="bottom")
    title = f"popularity: the first track has {percent(popularity.top_share)} of the plays"
    _label(axis, title, "rank of the track", "plays", grid=None)


def _draw_shares(shares: Shares, axis: "Axes") -> None:
    counts = np.array(shares.histogram)
    axis.stairs(100 * counts / counts.sum(), np.linspace(0, 1, len(counts) + 1), fill=True, color=BLUE, alpha=0.75)
    axis.axvline(shares.mean, color=ORANGE, lw=1.5)
    axis.set_xlim(-0.02, 1.02)
    title = f"share played: 0 for {percent(shares.at_zero)}, 1 for {percent(shares.at_one)} of the plays"
    _label(axis, title, f"share of the track that was played; line: mean, {shares.mean:.2f}", "% of plays")


# Units of the time since the first play that are shorter than a day: how many a day has.
_UNITS = ((86_400, "seconds"), (1440, "minutes"), (24, "hours"))
_MOST_OF_A_UNIT = 180


def _draw_times(clock: Clock, axis: "Axes") -> None:
    per_day, unit = next((size for size in _UNITS if clock.span_days * size[0] < _MOST_OF_A_UNIT), (1, "days"))
    edges = np.linspace(0, max(clock.span_days * per_day, 1e-9), len(clock.plays_over_time) + 1)
    axis.stairs(clock.plays_over_time, edges, fill=True, color=BLUE, alpha=0.75)
    axis.set_ylim(bottom=0)
    axis.yaxis.set_major_formatter(lambda value, _: count(round(value)))
    axis.xaxis.set_major_formatter(lambda value, _: count(round(value)) if value == round(value) else f"{value:g}")
    axis.locator_params(axis="x", nbins=6)
    days = dict.fromkeys((clock.first.partition(" ")[0], clock.last.partition(" ")[0]))
    _label(axis, f"plays over time: {' to '.join(days)}", f"{unit} since the first play", "plays")


def _draw_gaps(clock: Clock, median_s: float, gap_minutes: float, axis: "Axes") -> None:
    counts = np.array(clock.gaps)
    axis.bar(np.arange(len(counts)) + 0.5, 100 * counts / counts.sum(), 0.9, color=BLUE, alpha=0.75)
    axis.axvline(np.log2(gap_minutes * 60), color=ORANGE, lw=1.5)
    ticks = {"1 s": 1, "10 s": 10, "1 min": 60, "10 min": 600, "1 h": 3600, "6 h": 21_600, "1 d": 86_400}
    ticks |= {"1 w": 604_800, "2 mo": 5_184_000, "1 y": 31_536_000}
    shown = {name: np.log2(seconds) for name, seconds in ticks.items() if np.log2(seconds) <= len(counts) + 1}
    axis.set_xticks(list(shown.values()), list(shown), rotation=30, ha="right")
    axis.set_xlim(-0.3, max(len(counts), np.log2(gap_minutes * 60)) + 0.6)
    title = f"pauses between two plays of a user: median {duration(median_s)}"
    _label(axis, title, f"pause; line: what ends a session, {gap_minutes:g} min", "% of pauses")
