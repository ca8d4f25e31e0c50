"""The report of the bench: a line for the terminal, a table, a picture."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from segue.reports.markdown import table as markdown_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = dict[str, Any]


def number(value: float | None) -> str:
    """A number with three digits and k, M or G; empty for None."""
    if value is None:
        return ""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g}"


def comparison(row: Row, role: str) -> str:
    """`23 (21–25), target 20`: how many times as fast as the rival, or which share of the limit."""
    if row[f"ratio_to_{role}"] is None:
        return ""
    ratio, spread, target = ratio_cells(row, role)
    text = f"{ratio} ({spread})"
    return f"{text}, target {target}" if target else text


def ratio_cells(row: Row, role: str) -> list[str]:
    """Ratio to the rival or the limit, its spread over rounds, its target; empty where there is none."""
    if row[f"ratio_to_{role}"] is None:
        return ["", "", ""]
    low, high = row[f"spread_to_{role}"]
    target = row[f"wanted_{role}"]
    return [f"{row[f'ratio_to_{role}']:.3g}", f"{low:.3g}–{high:.3g}", "" if target is None else f"{target:g}"]


def verdict(row: Row) -> str:
    return {True: "met", False: "**missed**", None: ""}[row["holds"]]


def line(row: Row) -> str:
    """One line for the terminal."""
    if "seconds" in row:
        speed = f"{row['seconds']:.2f} s, target under {row['wanted_seconds']:g} s"
    else:
        speed = f"{number(row['ours'])} {row['unit']}/s"
    parts = [f"{row['stage']}: {speed}"]
    for role, word in (("rival", "×"), ("limit", "of")):
        if row[f"{role}_name"]:
            parts.append(f"{comparison(row, role)} {word} {row[f'{role}_name']}")
    if row["holds"] is not None:
        parts.append(f"target {verdict(row).strip('*')}")
    return "; ".join(parts)


def table(rows: Sequence[Row]) -> list[str]:
    """Markdown: speed and verdict of each stage, then the ratios to its rivals and to its limit."""
    starts = [row for row in rows if "seconds" in row]
    stages = [row for row in rows if "seconds" not in row]
    lines = []
    if stages:
        head = ["stage", "rival", "units per s", "unit", "times as fast", "spread", "target"]
        head += ["peak MB", "peak MB, rival", "all targets"]
        cells = [
            [
                row["stage"],
                row["rival_name"] or "",
                number(row["ours"]),
                row["unit"],
                *ratio_cells(row, "rival"),
                *(f"{row[f'{role}_peak_mb']:,.0f}" if row[f"{role}_peak_mb"] else "" for role in ("ours", "rival")),
                verdict(row),
            ]
            for row in stages
        ]
        lines += [*markdown_table(head, cells, "llrlrrrrrl"), ""]
        head = ["stage", "limit", "share of the limit", "spread", "target"]
        limits = {row["stage"]: row for row in stages if row["limit_name"]}
        cells = [[name, row["limit_name"], *ratio_cells(row, "limit")] for name, row in limits.items()]
        lines += [*markdown_table(head, cells, "llrrr"), ""]
    if starts:
        head = ["start", "s", "target: under, s", "limit", "share of the limit", "spread", "all targets"]
        cells = [
            [
                row["stage"],
                f"{row['seconds']:.2f}",
                f"{row['wanted_seconds']:g}",
                row["limit_name"] or "",
                *ratio_cells(row, "limit")[:2],
                verdict(row),
            ]
            for row in starts
        ]
        lines += [*markdown_table(head, cells, "lrrlrrl"), ""]
    return lines


def draw(rows: Sequence[Row]) -> "Figure":
    """Draw how many times as fast as each rival and which share of the limit a stage is, with the targets."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 0.42 * len(rows) + 1.6))
    axes = figure.subplots(1, 2, sharey=True)
    places = np.arange(len(rows))[::-1]
    titles = {"rival": "times as fast as the rival", "limit": "share of the limit of this machine"}
    for axis, (role, title) in zip(axes, titles.items(), strict=True):
        for place, row in zip(places, rows, strict=True):
            ratio = row[f"ratio_to_{role}"]
            if ratio is None:
                continue
            target = row[f"wanted_{role}"]
            met = target is None or ratio >= target
            axis.barh(place, ratio, height=0.62, color="#2a6f97" if met else "#c1666b", zorder=2)
            axis.plot(row[f"spread_to_{role}"], [place, place], color="#12263a", linewidth=1, zorder=3)
            if target is not None:
                axis.plot([target, target], [place - 0.42, place + 0.42], color="#e09f3e", linewidth=2.5, zorder=4)
            end = max(ratio, row[f"spread_to_{role}"][1])
            if target is not None and end < target < 1.6 * end:
                end = target  # the number must not cover the mark of the target
            axis.annotate(
                f"{ratio:.3g}", (end, place), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8
            )
        axis.set_title(title, fontsize=10, loc="left")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="x", alpha=0.3, zorder=0)
    axes[0].set_xscale("log")
    axes[0].margins(x=0.15, y=0.01)
    axes[1].set_xlim(0, 1.15 * max((row["ratio_to_limit"] or 0 for row in rows), default=1))
    axes[0].set_yticks(places, [f"{row['stage']}\nagainst {row['rival_name'] or '—'}" for row in rows], fontsize=7.5)
    figure.text(
        0.99, 0.005, "orange: target; red: target missed; thin line: spread over rounds", ha="right", fontsize=7.5
    )
    figure.tight_layout()
    return figure
