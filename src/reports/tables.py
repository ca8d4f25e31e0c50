"""Tables in the terminal."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from segue.reports.numbers import interval, number, p_equals, p_value, plain, words
from segue.terminal.console import console

if TYPE_CHECKING:
    import pandas as pd


def arms_table(arms: Mapping[str, Mapping[str, Any]], names: Mapping[str, str], title: str) -> Table:
    """Means over the listeners of each arm, with their 95 % intervals.

    Args:
        arms: the summary of each arm, as `simulation.json` has it under `arms`.
        names: the recommender of each arm.
        title: title of the table.
    """
    table = Table("arm", "recommender", title=escape(title), title_justify="left", caption_justify="left")
    for column in ("sessions", "time per session", "tracks per session"):
        table.add_column(column, justify="right", no_wrap=True)
    for arm, row in arms.items():
        means = [
            f"[bold]{number(row[name], '.2f')}[/] "
            f"\\[{number(row[name + '_lower'], '.2f')}, {number(row[name + '_upper'], '.2f')}]"
            for name in ("mean_time_per_session", "mean_tracks_per_session")
        ]
        table.add_row(arm, Text(names[arm], overflow="fold"), f"{row['sessions']:,}", *means)
    table.caption = (
        "time per session: sum of the shares played; 1 is one track played in full.\n"
        "tracks per session: number of tracks, skipped tracks included.\n"
        "Both are means over the listeners of the arm; brackets: 95 % interval."
    )
    fallbacks = {arm: row["fallbacks"] / row["steps"] for arm, row in arms.items() if row["fallbacks"]}
    if fallbacks:
        table.caption += "\nfallbacks (no track to recommend, a random one was played): " + ", ".join(
            f"{arm} {share:.1%}" for arm, share in fallbacks.items()
        )
    return table


def rows_table(head: Sequence[str], rows: Iterable[Sequence[str]], title: str) -> Table:
    """A table of given cells; the first two columns are text, the others numbers.

    Args:
        head: names of the columns.
        rows: cells of each row.
        title: title of the table.
    """
    table = Table(title=escape(title), title_justify="left")
    for place, name in enumerate(head):
        table.add_column(escape(name), justify="left" if place < 2 else "right", no_wrap=place >= 2)
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def effects_table(record: Mapping[str, Any]) -> Table:
    """Effects of an A/B test, and the verdicts below them.

    Green is significantly better than the control, red significantly worse.

    Args:
        record: the result, as `abtest.json` has it.
    """
    caption = "\n".join(f"{arm}: {verdict}" for arm, verdict in record["verdicts"].items())
    title = escape(f"A/B test {record['experiment']}")
    table = Table("arm", "metric", title=title, title_justify="left", caption_justify="left", show_lines=True)
    table.caption = escape(caption)
    if console.color_system:
        table.caption += "\ngreen: better, or the guardrail holds; red: worse, or broken; bold: the primary metric"
    for column in ("control", "treatment", "effect in %\n\\[interval]", "decision\np"):
        table.add_column(column, justify="right", no_wrap=True)
    colours = {"better": "green", "holds": "green", "worse": "red", "broken": "red"}
    for effect in record["effects"]:
        is_withheld = record["verdicts"][effect["treatment"]].startswith("withheld")
        colour = "default" if is_withheld else colours.get(effect["decision"], "default")
        weight = "bold " if effect["metric"] == record["primary"] else ""
        bounds = interval(effect["relative_lower_percent"], effect["relative_upper_percent"], "+.1f")
        p = effect["p_value"] if effect["holm_significant"] is None else effect["holm_p_value"]
        role = f"\nguardrail, margin {effect['margin']:g} {effect['unit']}" if effect["family"] == "guardrail" else ""
        missing = effect["decision"] == "no test"  # all values are equal
        table.add_row(
            escape(effect["treatment"]),
            f"[{weight}default]{words(effect['metric'])}[/]{role}",
            plain(effect["control_mean"]),
            plain(effect["treatment_mean"]),
            "–" if missing else f"[{weight}{colour}]{number(effect['effect_percent'], '+.1f')}[/]\n{escape(bounds)}",
            f"[{colour}]{effect['decision']}[/]" + (f"\n{p_equals(p)}" if math.isfinite(p) else ""),
        )
    return table


def users_table(cells: Mapping[str, list[str]]) -> Table:
    """The users of each arm against the planned split.

    Args:
        cells: the cells of each column, by its name; the first is the arm.
    """
    arm, *others = cells
    table = Table(arm, title="Users", title_justify="left")
    for column in others:
        table.add_column(column, justify="right")
    for row in zip(*cells.values(), strict=True):
        table.add_row(*(escape(cell) for cell in row))
    return table


def methods_table(record: Mapping[str, Any]) -> Table:
    """The effect on the primary metric by every method, the one of the verdict first.

    Args:
        record: the result, as `abtest.json` has it.
    """
    title = escape(f"{words(record['primary']).capitalize()} by other methods")
    table = Table("arm", "method", title=title, title_justify="left", caption_justify="left")
    unit = next(effect["unit"] for effect in record["effects"] if effect["metric"] == record["primary"])
    for column in (f"effect in {unit}", "interval", "p"):
        table.add_column(column, justify="right", no_wrap=True)
    for arm, rows in record["methods"].items():
        for row in rows:
            bounds = interval(row["lower_percent"], row["upper_percent"], "+.1f")
            cells = (f"{number(row['effect_percent'], '+.1f')}", escape(bounds), p_value(row["p_value"]))
            table.add_row(escape(arm), row["method"], *cells)
    return table


def numbers_table(head: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> Table:
    """Numbers as text, a line a row.

    Args:
        head: names of the columns.
        rows: cells of each row.
        title: title of the table.
    """
    table = Table(title=escape(title), title_justify="left")
    for column in head:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*row)
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
    """Set-ups, best first: the metric that chose, the primary test metric with its difference, other means that fit.

    Bold is the best mean of a column. A significant difference is green where the set-up is worse than the best one by
    validation, red where it is better.

    Args:
        record: `Comparison.record()`.
        title: title of the table.
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
    heads = [metric.replace("/", "/\n").replace("_per_session", "\n_per_session") for metric in (*main, *shown)]
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
