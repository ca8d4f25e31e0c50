"""The tables that end a training: test metrics beside their floors, and some tracks with their recommendations."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.text import Text

from segue.reports.numbers import plain
from segue.reports.result_table import Cell, Table, styled

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Int64

    from segue.catalog import Vocabulary

WIDEST = 100
"""Columns of a terminal that tables use at most."""

_FLOORS = {
    "counts": "ranks by how often the candidate came next in training",
    "popular": "ranks by plays in training, whatever came before",
    "mean": "predicts the mean share of training for every pair",
    "random": "predicts a random share for every pair",
}
_HALF_WIDTH = "_half_width"
"""End of the name of half the width of a metric's interval."""
_MEANINGS = {
    "recall_at_": "next in the top {}",
    "ndcg_at_": "gain in the top {}",
    "mrr": "mean of 1 / rank",
    "mse": "squared error of the share",
    "mae": "absolute error of the share",
    "loss": "what training minimises",
    "num_queries": "pairs that are ranked",
    "num_sessions": "sessions of these pairs",
    "num_all_queries": "pairs that could be ranked",
    "coverage_at_": "tracks in any top {}",
    "same_artist_at_": "same artist, in the top {}",
    "popularity_rank_at_": "place by plays, top {}",
}
"""The meaning of a metric, by its name without the number at the end."""


def metrics_tables(metrics: Mapping[str, Any], title: str) -> list[Table]:
    """The test metrics of a run, each beside its floors: `test/mse` beside `test/mse_mean_floor`, and so on.

    Metrics with the same floors share a table; a caption says what each floor is. Where a metric has an interval, a
    column has half its width. Metrics by position are in `metrics.json` alone, those of new tracks in `newness_table`.
    """
    test = {name.removeprefix("test/"): value for name, value in metrics.items() if name.startswith("test/")}
    by_floors: dict[tuple[str, ...], list[str]] = {}
    for name in test:
        if not name.endswith(("_floor", _HALF_WIDTH)) and not re.search("_position_|^(num_)?(warm|cold|new)_", name):
            floors = tuple(floor for floor in _FLOORS if f"{name}_{floor}_floor" in test)
            by_floors.setdefault(floors, []).append(name)
    tables: list[Table] = []
    for floors, names in sorted(by_floors.items(), key=lambda item: (item[0] == (), item[0])):
        has_intervals = any(f"{name}{_HALF_WIDTH}" in test for name in names)
        rows = list[list[Cell]]()
        for name in names:
            half_width = test.get(f"{name}{_HALF_WIDTH}")
            beside = ["" if half_width is None else plain(half_width, digits=2)] * has_intervals
            beside += [plain(test[f"{name}_{floor}_floor"]) for floor in floors]
            rows.append([name, styled(plain(test[name]), "bold"), *beside, _meaning(name)])
        notes = ["±: half the width of the 95 % interval over test sessions"] * has_intervals
        notes += ["floors (what a rule without learning scores):"] * bool(floors)
        notes += [f"{floor}: {_FLOORS[floor]}" for floor in floors]
        columns = ["test", "model", *["±"] * has_intervals, *floors, "what it is"]
        align = "L" + "R" * (len(columns) - 2) + "l"  # a cut name could be several metrics
        shown = "" if tables else title
        tables.append(Table(title=shown, columns=columns, rows=rows, align=align, notes=notes, look="open"))
    return tables


_NEWNESS = {
    "warm": "both tracks are known",
    "cold_previous": "the last track is new",
    "cold_next": "the next track is new, ranked among all",
    "cold_among": "the same, ranked among new tracks",
}
"""What each line of the table of new tracks is."""


def newness_table(metrics: Mapping[str, Any]) -> Table | None:
    """The test metrics of queries with new tracks, and of the others; None where no query has one.

    Args:
        metrics: of the run, by name.
    """
    if "test/num_new_tracks" not in metrics:
        return None
    names = [f"{name}@{k}" for name in ("recall", "ndcg") for k in (10, 100)]
    rows = []
    for group in _NEWNESS:
        if f"test/{group}_recall_at_10" in metrics:
            values = [plain(metrics[f"test/{group}_{name.replace('@', '_at_')}"]) for name in names]
            rows.append([group, f"{int(metrics[f'test/num_{group}_queries']):,}", *values])
    notes = [f"new: not played in training; {int(metrics['test/num_new_tracks']):,} such tracks"]
    notes += [f"{group}: {meaning}" for group, meaning in _NEWNESS.items()]
    columns = ["new tracks", "queries", *names]
    return Table(columns=columns, rows=rows, align="L" + "R" * (1 + len(names)), notes=notes, look="open")


_LISTENING = {
    "mean_time_per_session": "the run, in full tracks",
    "mean_time_per_session_random_floor": "a random track",
    "mean_time_per_session_popular_floor": "one of the most played tracks",
    "mean_time_per_session_true_neighbours_reference": "a near track, by the true tastes",
    "val_mean_time_per_session": "the run, validation listeners",
    "coverage": "played tracks of the catalogue",
    "share_of_hits": "played tracks that are popular",
    "share_of_same_artist": "same artist as the last track",
    "num_listeners": "listeners, without validation",
    "num_sessions": "their sessions",
}
"""What each line of the listening test is, in the order of the lines."""


def listening_table(metrics: Mapping[str, Any]) -> Table | None:
    """What simulated listeners heard from a run, with references below it; None of a run without a world.

    Args:
        metrics: of the run, by name.
    """
    known = {name: metrics[f"online/{name}"] for name in _LISTENING if f"online/{name}" in metrics}
    if not known:
        return None
    rows = list[list[Cell]]()
    for name, value in known.items():
        half_width = metrics.get(f"online/{name}{_HALF_WIDTH}")
        shown = styled(plain(value), "" if rows else "bold")
        reach = "" if half_width is None else plain(half_width, digits=2)
        rows.append([_listening_name(name), shown, reach, _LISTENING[name]])
    notes = [
        "the lists of the run, played to the simulated listeners in new sessions",
        "±: half the width of the 95 % interval over listeners",
    ]
    columns = ["listening test", "value", "±", "what it is"]
    return Table(columns=columns, rows=rows, align="LRRl", notes=notes, look="open")


def _listening_name(name: str) -> str:
    """The name of a line; references are named after the recommender, below the run."""
    reference = re.fullmatch(r"mean_time_per_session_(.+)_(floor|reference)", name)
    return f"  {reference[1]}" if reference else name


_PHASES = {
    "start": "libraries and settings",
    "data": "events, sessions, pairs, model",
    "training": "the epochs",
    "validation": "after each epoch",
    "test": "the best epoch",
    "lists": "recommendations.jsonl",
    "listening": "the listening test",
    "estimates": "off-policy estimates",
    "pictures": "plots/",
    "tracking": "run folder and MLflow",
}
"""What each phase of a run does."""


def phases_table(seconds: Mapping[str, float]) -> Table:
    """Where the time of a run went.

    Args:
        seconds: of each phase.
    """
    rows: list[list[Cell]] = [[phase, f"{took:,.1f}", _PHASES[phase]] for phase, took in seconds.items()]
    rows.append([styled("all", "bold"), styled(f"{sum(seconds.values()):,.1f}", "bold"), "from the command on"])
    columns = ["phase", "seconds", "what it is"]
    return Table(title="Where the time went", columns=columns, rows=rows, align="lrl", look="open")


def _meaning(name: str) -> str:
    parts = re.fullmatch(r"(.*?)(\d*)", name)
    assert parts is not None
    return _MEANINGS.get(parts[1], "").format(parts[2])


def below_popular(metrics: Mapping[str, Any]) -> list[str]:
    """The recalls in which the model is below the list of the most played tracks: `recall_at_50`, and so on."""
    return [
        name.removeprefix("test/")
        for name, value in metrics.items()
        if re.fullmatch(r"test/recall_at_\d+", name) and value < metrics.get(f"{name}_popular_floor", value)
    ]


@dataclass(frozen=True, kw_only=True)
class ExampleTrack:
    """A track, and what a run recommends after it.

    Args:
        place: by plays in training, from 1.
        name: title and artist; for a track without a title its id and nothing.
        following: the same of the best recommendations, best first.
    """

    place: int
    name: tuple[str, str]
    following: Sequence[tuple[str, str]]


NUM_EXAMPLES = 10
"""Tracks that are shown with their recommendations."""
NUM_FOLLOWING = 5
"""Recommendations that are shown of each of them."""


def example_tracks(
    vocabulary: "Vocabulary", lists_of: 'Callable[[Int64[np.ndarray, "n"]], Int64[np.ndarray, "n K"]]'
) -> list[ExampleTrack]:
    """Ten tracks for people, each with its first recommendations.

    They are at places 1, 2, 4, 8, … 512 by plays in training, or 1 to 10 in a catalogue that is smaller than that.

    Args:
        vocabulary: the catalogue and its plays.
        lists_of: recommendations of some tracks, best first; -1 where a list has ended.
    """
    catalog = vocabulary.catalog
    places = [2**power for power in range(NUM_EXAMPLES)]
    if places[-1] > len(catalog):
        places = list(range(1, min(NUM_EXAMPLES, len(catalog)) + 1))
    queries = vocabulary.by_plays[[place - 1 for place in places]]
    lists = lists_of(queries)[:, :NUM_FOLLOWING].tolist()

    def name(row: int) -> tuple[str, str]:
        title, artist = catalog.titles[row], catalog.artists[catalog.artist_of[row]]
        return (title, artist) if title else (str(catalog.track_ids[row]), "")

    return [
        ExampleTrack(place=place, name=name(query), following=[name(row) for row in rows if row >= 0])
        for place, query, rows in zip(places, queries.tolist(), lists, strict=True)
    ]


def examples_table(examples: Sequence[ExampleTrack], width: int) -> Table:
    """Tracks and their next five, by title and artist.

    Args:
        examples: at least one track.
        width: columns of the terminal, of which `WIDEST` are used at most.
    """
    places, rows = ", ".join(str(example.place) for example in examples), list[list[Cell]]()
    for example in examples:
        names = [Text.assemble((str(n), "bold"), " ", _name(name, " ")) for n, name in enumerate(example.following, 1)]
        rows.append([_name(example.name, "\n"), Text("\n").join(names)])
    return Table(
        title="What to play next",
        columns=["after", "recommendations, best first"],
        rows=rows,
        align="LL",
        notes=[f"tracks at places {places} by plays in training; recommendations.jsonl has all"],
        look="open",
        ratios=[2, 3],
        width=min(width, WIDEST),
    )


def _name(name: tuple[str, str], between: str) -> Text:
    title, artist = name
    return Text(title).append(between if artist else "").append(f"by {artist}" if artist else "", "dim")
