"""Tables in the terminal."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from src.terminal.console import console
from src.terminal.numbers import interval, number, p_value, plain

if TYPE_CHECKING:
    import pandas as pd


def arms_table(arms: Mapping[str, Mapping[str, Any]], names: Mapping[str, str], title: str) -> Table:
    """The results of each arm; brackets are 95 % intervals over listeners."""
    table = Table("arm", "recommender", title=escape(title), title_justify="left", caption_justify="left")
    for column in ("sessions", "time a session", "tracks a session"):
        table.add_column(column, justify="right", no_wrap=True)
    for arm, row in arms.items():
        means = [
            f"[bold]{number(row[name], '.2f')}[/] "
            f"\\[{number(row[name + '_lower'], '.2f')}, {number(row[name + '_upper'], '.2f')}]"
            for name in ("mean_time_per_session", "mean_tracks_per_session")
        ]
        table.add_row(arm, Text(names[arm], overflow="fold"), f"{row['sessions']:,}", *means)
    chance = {arm: row["fallbacks"] / row["steps"] for arm, row in arms.items() if row["fallbacks"]}
    if chance:
        table.caption = "had nothing to recommend and played any track: " + ", ".join(
            f"{arm} {share:.1%}" for arm, share in chance.items()
        )
    return table


def effects_table(record: Mapping[str, Any]) -> Table:
    """Effects of an A/B test: green is significantly better, red significantly worse; for latency, lower is better."""
    caption = "\n".join(f"{arm}: {verdict}" for arm, verdict in record["verdicts"].items())
    title = escape(f"A/B test {record['experiment']}")
    table = Table("arm", "metric", title=title, title_justify="left", caption=escape(caption))
    table.caption_justify = "left"
    corrected = any(effect["holm_significant"] is not None for effect in record["effects"])
    for column in ("control", "treatment", "effect in %", *["Holm's p"] * corrected):
        table.add_column(column, justify="right", no_wrap=True)
    for effect in record["effects"]:
        sure = effect["significant"] if effect["holm_significant"] is None else effect["holm_significant"]
        colour = ("green" if effect["better"] else "red") if sure and not record["withheld"] else "default"
        weight = "bold " if effect["metric"] == record["primary"] else ""
        bounds = interval(effect["lower_percent"], effect["upper_percent"], "+.1f")
        cells = (
            f"[{weight}default]{effect['metric'].replace('_', ' ')}[/]",
            plain(effect["control_mean"]),
            plain(effect["treatment_mean"]),
            f"[{weight}{colour}]{effect['effect_percent']:+.1f}[/] \\{bounds}",
            p_value(effect["holm_p_value"]),
        )
        missing = not math.isfinite(effect["p_value"])  # all values are the same, or the control mean is 0
        cells = (*cells[:3], "–", "–") if missing else cells
        table.add_row(escape(effect["treatment"]), *(cells[:-1] if effect["holm_significant"] is None else cells))
    return table


def frame_table(frame: "pd.DataFrame", title: str) -> Table:
    """A frame of whole numbers, a line a row; what is missing stays empty."""
    table = Table("", title=escape(title), title_justify="left", caption_justify="left")
    if "rejected" in frame.columns:
        table.caption = "rejected: lines that are not events"
    for column in frame.columns:
        table.add_column(str(column), justify="right")
    for name, row in frame.iterrows():
        table.add_row(str(name), *("" if gone else f"{value:,}" for value, gone in zip(row, row.isna(), strict=True)))
    return table


def comparison_table(record: Mapping[str, Any], title: str) -> Table:
    """Set-ups, best first: what chose, the primary test metric and how it differs, then the other means that fit.

    Bold is the best of a column. Green differs significantly from the best set-up and is worse, red is better.
    """
    primary, select = record["primary"], record["select"]
    tested = primary is not None and any(primary in setup["differences"] for setup in record["setups"])
    main = list(dict.fromkeys([select, *[primary] * (primary is not None)]))
    others = [metric for metric in record["metrics"] if metric not in main]
    room = console.width - 30 - 19 * len(main) - 40 * tested  # set-up and runs; mean and interval; difference and p
    wide, shown = room >= 0, []
    for metric in others:
        room -= max(len(metric.rsplit("/")[-1]), 8) + 3
        if room < 0:
            break
        shown.append(metric)
    table = Table("set-up", title=escape(title), title_justify="left", caption_justify="left")
    notes = [record["verdict"]]
    if wide and any(_has_reach(setup["metrics"][metric]) for setup in record["setups"] for metric in main):
        notes.append(f"±: half of the {100 * record['level']:g} % interval of the mean over runs, which differ in seed")
    if len(shown) < len(others):
        notes.append(f"{len(others) - len(shown)} more metrics are in comparison.md")
    table.caption = escape("\n".join(notes))
    heads = [metric.replace("/", "/\n") for metric in (*main, *shown)]
    if tested:
        heads[len(main) : len(main)] = ["difference\nfrom the first", "Holm's p"]
    for head in ("runs", *heads):
        table.add_column(escape(head), justify="right", no_wrap=True)
    for setup in record["setups"]:
        cells = [
            _mean_cell(setup["metrics"][metric], with_interval=wide and metric in main) for metric in (*main, *shown)
        ]
        if tested:
            cells[len(main) : len(main)] = _difference_cells(setup["differences"].get(primary), with_interval=wide)
        table.add_row(Text(setup["setup"], overflow="fold"), str(len(setup["run_ids"])), *cells)
    return table


def _mean_cell(mean: Mapping[str, Any], *, with_interval: bool) -> str:
    if not mean["num_runs"]:
        return "–"
    reach = f" ±{plain(mean['upper'] - mean['mean'], digits=2)}" if with_interval and _has_reach(mean) else ""
    return f"[{'bold' if mean['leads'] else 'default'}]{plain(mean['mean'])}[/]{reach}"


def _has_reach(mean: Mapping[str, Any]) -> bool:
    """Whether there is an interval of the mean: not of one run."""
    return math.isfinite(mean["upper"])


def _difference_cells(one: Mapping[str, Any] | None, *, with_interval: bool) -> tuple[str, str]:
    if one is None:
        return "", ""
    colour = ("green" if one["difference"] < 0 else "red") if one["sure"] else "default"
    difference = f"[{colour}]{one['difference']:+.3g}[/]"
    if not math.isfinite(one["p_value"]):  # one session, or the same difference in all
        return difference, "–"
    bounds = f" \\{interval(one['lower'], one['upper'], '+.2g')}" if with_interval else ""
    return difference + bounds, p_value(one["holm_p_value"])
