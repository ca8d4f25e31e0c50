"""Tables that the verbs print before and after a simulation or a training."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rich.text import Text

from segue.reports.numbers import interval, number, plain
from segue.reports.result_table import Cell, Table, styled

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from jaxtyping import Int64

    from segue.catalog import Vocabulary

BESIDE = re.compile("_floor$|_half_width$|_position_[1-9]|^(num_)?(warm|cold|new)_")
"""Test metrics that are shown beside others, or in a table of their own."""

_FLOORS = {
    "counts": "ranks by how often the candidate came next in training",
    "popular": "ranks by plays in training, whatever came before",
    "mean": "predicts the mean share of training for every pair",
}
# The meaning of what is not in `ACCURACY` of `statistics/ranking.py`, by its name without the number at the end.
_MEANINGS = {
    "mse": "squared error of the share",
    "mae": "absolute error of the share",
    "loss": "what training minimises",
    "num_queries": "pairs that are ranked",
    "coverage_at_": "tracks in any top {}",
    "same_artist_at_": "same artist, in the top {}",
    "popularity_rank_at_": "place by plays, top {}",
}
_NEWNESS = {
    "warm": "both tracks are known",
    "cold_previous": "the last track is new",
    "cold_next": "the next track is new, ranked among all",
    "cold_among": "the same, ranked among new tracks",
}
# What each line of the listening test is, in the order of the lines.
_LISTENING = {
    "mean_time_per_session": "the run, in full tracks",
    "mean_time_per_session_random_floor": "a random track",
    "mean_time_per_session_popular_floor": "one of the most played tracks",
    "mean_time_per_session_true_neighbours_reference": "a near one, by the true tastes",
    "val_mean_time_per_session": "the run, validation listeners",
    "coverage": "played tracks of the catalogue",
    "share_of_hits": "played tracks that are popular",
    "share_of_same_artist": "same artist as the last track",
    "share_known": "loved in an earlier session",
    "share_heard": "heard in an earlier session",
    "share_known_artist": "by an artist loved before",
}
_HALF_WIDTH = "±: half the width of the 95 % interval over {}"


def tables_of_test(metrics: Mapping[str, Any], title: str) -> list[Table]:
    """The test metrics of a run, each beside its floors: `test/mse` beside `test/mse_mean_floor`, and so on.

    Metrics of one protocol with the same floors share a table. Those of new tracks and of the listening test have
    tables of their own; those by position are in `metrics.json` alone.
    """
    from segue.statistics.ranking import ACCURACY, EVERY_TARGET  # here, because --help waits for no pandas

    of_ranks = {name: metric.meaning for name, metric in {**ACCURACY, **EVERY_TARGET}.items()}
    by_floors: dict[tuple[bool, tuple[str, ...]], dict[str, str]] = {}
    for name in (key.removeprefix("test/") for key in metrics if key.startswith("test/")):
        if not BESIDE.search(name):
            floors = tuple(floor for floor in _FLOORS if f"test/{name}_{floor}_floor" in metrics)
            key, place = re.fullmatch(r"(.*?)(\d*)", name).groups()  # type: ignore[union-attr]  # it matches all
            rows = by_floors.setdefault((name in EVERY_TARGET, floors), {})
            rows[name] = of_ranks.get(name) or _MEANINGS.get(key, "").format(place)
    found = []
    for (_, floors), rows in sorted(by_floors.items(), key=lambda item: (item[0][1] == (), item[0])):
        columns = {"model": "test/{}", "±": "test/{}_half_width", **{one: f"test/{{}}_{one}_floor" for one in floors}}
        notes = [_HALF_WIDTH.format("test sessions"), *(f"{floor}, a floor: {_FLOORS[floor]}" for floor in floors)]
        found.append(_values(metrics, "test", rows, columns, notes))
    columns = {f"recall@{k}": f"test/{{}}_recall_at_{k}" for k in (10, 100)} | {"queries": "test/num_{}_queries"}
    new = f"new: not played in training; {metrics.get('test/num_new_tracks', 0):,.0f} such tracks"
    found.append(_values(metrics, "new tracks", _NEWNESS, columns, [new]))
    columns = {"value": "online/{}", "±": "online/{}_half_width"}
    notes = ["the lists of the run, played to simulated listeners in new sessions", _HALF_WIDTH.format("listeners")]
    found.append(_values(metrics, "listening test", _LISTENING, columns, notes))
    first, *others = [table for table in found if table.rows] or [Table(columns=[], rows=[], align="")]
    return [replace(first, title=title), *others]


def _values(
    metrics: Mapping[str, Any], name: str, meanings: Mapping[str, str], columns: Mapping[str, str], notes: list[str]
) -> Table:
    """A row for each metric that has the first column, and a column for each kind of value that one of them has.

    Args:
        name: heading of the first column.
        meanings: of the rows, by the name of the metric.
        columns: by its heading, the name of its value, with {} for the metric.
    """
    shown = {head: key for head, key in columns.items() if any(key.format(metric) in metrics for metric in meanings)}
    rows = list[list[Cell]]()
    for metric, meaning in meanings.items():
        values = {head: metrics.get(key.format(metric)) for head, key in shown.items()}
        cells = ["" if one is None else plain(one, 2 if head == "±" else 4) for head, one in values.items()]
        label = re.sub("^mean_time_per_session_(.+)_(floor|reference)$", r"  \1", metric)  # below the run
        if cells and cells[0]:
            rows.append([label, styled(cells[0], "bold"), *cells[1:], meaning])
    kept = [note for note in notes if note[0] != "±" or "±" in shown]
    align = "L" + "R" * len(shown) + "l"  # a cut name could be several metrics
    return Table(columns=[name, *shown, "what it is"], rows=rows, align=align, notes=kept, look="open")


def phases_table(seconds: Mapping[str, float]) -> Table:
    """Where the time of a run went."""
    rows = [[phase, f"{took:,.1f}"] for phase, took in {**seconds, "all": sum(seconds.values())}.items()]
    return Table(title="Where the time went", columns=["phase", "seconds"], rows=rows, align="lr", look="open")


def examples_table(
    vocabulary: "Vocabulary", lists_of: 'Callable[[Int64[np.ndarray, "n"]], Int64[np.ndarray, "n K"]]'
) -> Table:
    """Ten tracks for people, each with its first recommendations, by title and artist; a track without title by its id.

    They are at places 1, 2, 4, 8, … 512 by plays in training, or 1 to 10 in a catalogue that is smaller than that.

    Args:
        vocabulary: the catalogue and its plays.
        lists_of: recommendations of some tracks, best first; -1 where a list has ended.
    """
    from segue.catalog import most_played

    catalog = vocabulary.catalog
    places = [2**n for n in range(10)] if len(catalog) >= 512 else list(range(1, min(10, len(catalog)) + 1))
    queries = most_played(vocabulary.plays)[[place - 1 for place in places]]

    def name(row: int, between: str) -> str:
        title, artist = catalog.titles[row], catalog.artists[catalog.artist_of[row]]
        return f"{title}{between}by {artist}" if title and artist else title or str(catalog.track_ids[row])

    rows = list[list[Cell]]()
    for query, following in zip(queries.tolist(), lists_of(queries)[:, :5].tolist(), strict=True):
        known = enumerate((row for row in following if row >= 0), start=1)
        rows.append([name(query, "\n"), "\n".join(f"{place} {name(row, ' ')}" for place, row in known)])
    notes = [f"tracks at places {', '.join(map(str, places))} by plays in training; recommendations.jsonl has all"]
    columns = ["after", "recommendations, best first"]
    return Table(title="What to play next", columns=columns, rows=rows, align="LL", notes=notes, look="open")


def arms_table(arms: Mapping[str, Mapping[str, Any]], names: Mapping[str, str], title: str) -> Table:
    """Means over the listeners of each arm, with their 95 % intervals.

    Args:
        arms: the summary of each arm, as `simulation.json` has it under `arms`.
    """
    rows = list[list[Cell]]()
    keys = "mean_time_per_session", "mean_tracks_per_session"
    for arm, row in arms.items():
        bounds = [interval(row[f"{key}_lower"], row[f"{key}_upper"], ".2f") for key in keys]
        means = [
            styled(number(row[key], ".2f"), "bold").append(f" {one}") for key, one in zip(keys, bounds, strict=True)
        ]
        rows.append([arm, Text(names[arm], overflow="fold"), f"{row['sessions']:,}", *means])
    notes = [
        "time per session: sum of the shares played; 1 is one track played in full.",
        "tracks per session: number of tracks, skipped tracks included.",
        "Both are means over the listeners of the arm; brackets: 95 % interval.",
    ]
    if shares := [f"{arm} {row['fallbacks'] / row['steps']:.1%}" for arm, row in arms.items() if row["fallbacks"]]:
        notes.append(f"fallbacks (no track to recommend, a random one was played): {', '.join(shares)}")
    columns = ["arm", "recommender", "sessions", "time per session", "tracks per session"]
    return Table(title=title, columns=columns, rows=rows, align="llRRR", notes=notes)


def frame_table(frame: "pd.DataFrame", title: str) -> Table:
    """A frame of whole numbers, a line a row; what is missing stays empty."""
    shown = frame.astype("Int64").map("{:,}".format, na_action="ignore").astype(object).fillna("")
    rows = [[str(name), *row] for name, row in zip(frame.index, shown.to_numpy().tolist(), strict=True)]
    columns = ["", *map(str, frame.columns)]
    notes = ["rejected: lines that are not events"] * ("rejected" in columns)
    return Table(title=title, columns=columns, rows=rows, align="l" + "r" * len(frame.columns), notes=notes)
