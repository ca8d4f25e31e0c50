"""The bench as people read it: a line, a table, a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from src.terminal.markdown import table as markdown_table

Row = dict[str, Any]


def number(value: float | None) -> str:
    """Three digits, with k and M."""
    if value is None:
        return ""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g}"


def against(row: Row, role: str) -> str:
    """`23 (21–25), wanted 20`: how many times as fast as the rival or the limit."""
    if row[f"ratio_to_{role}"] is None:
        return ""
    low, high = row[f"spread_to_{role}"]
    wanted = row[f"wanted_{role}"]
    text = f"{row[f'ratio_to_{role}']:.3g} ({low:.3g}–{high:.3g})"
    return text if wanted is None else f"{text}, wanted {wanted:g}"


def verdict(row: Row) -> str:
    return {True: "holds", False: "**does not hold**", None: ""}[row["holds"]]


def speed(row: Row) -> str:
    """Units a second, or what one takes where that is what counts."""
    if "seconds" in row:
        return f"{row['seconds']:.2f} s, wanted under {row['wanted_seconds']:g} s"
    return f"{number(row['ours'])} {row['unit']}"


def line(row: Row) -> str:
    """For the terminal."""
    parts = [f"{row['stage']}: {speed(row)}{'' if 'seconds' in row else '/s'}"]
    for role, word in (("rival", "×"), ("limit", "of")):
        if row[f"{role}_name"]:
            parts.append(f"{against(row, role)} {word} {row[f'{role}_name']}")
    parts.append(verdict(row).strip("*"))
    return "; ".join(part for part in parts if part)


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    head = ["stage", "ours, a second", "rival", "times as fast", "limit", "share of it", "peak MB ours, rival", ""]
    cells = []
    for row in rows:
        peaks = ", ".join(f"{row[f'{role}_peak_mb']:,.0f}" for role in ("ours", "rival") if row[f"{role}_peak_mb"])
        rival, limit = row["rival_name"] or "", row["limit_name"] or ""
        against_both = [rival, against(row, "rival"), limit, against(row, "limit")]
        cells.append([row["stage"], speed(row), *against_both, peaks, verdict(row)])
    return "\n".join(markdown_table(head, cells, "lrlrlrrl")) + "\n"


def draw(rows: Sequence[Row], path: Path) -> None:
    """Times as fast as each rival, and share of the limit, beside what was wanted."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(12, 0.42 * len(rows) + 1.6), sharey=True)
    places = np.arange(len(rows))[::-1]
    titles = {"rival": "times as fast as the rival", "limit": "share of what the machine could do"}
    for axis, (role, title) in zip(axes, titles.items(), strict=True):
        for place, row in zip(places, rows, strict=True):
            ratio = row[f"ratio_to_{role}"]
            if ratio is None:
                continue
            wanted = row[f"wanted_{role}"]
            met = wanted is None or ratio >= wanted
            axis.barh(place, ratio, height=0.62, color="#2a6f97" if met else "#c1666b", zorder=2)
            axis.plot(row[f"spread_to_{role}"], [place, place], color="#12263a", linewidth=1, zorder=3)
            if wanted is not None:
                axis.plot([wanted, wanted], [place - 0.42, place + 0.42], color="#e09f3e", linewidth=2.5, zorder=4)
            end = max(ratio, row[f"spread_to_{role}"][1])
            if wanted is not None and end < wanted < 1.6 * end:
                end = wanted  # not upon its mark
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
        0.99, 0.005, "orange: wanted; red: not reached; thin line: spread over rounds", ha="right", fontsize=7.5
    )
    figure.tight_layout()
    figure.savefig(path, dpi=130, bbox_inches="tight")
