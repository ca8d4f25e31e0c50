"""The tables that end a training: test metrics beside their floors, and some tracks with their recommendations."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from segue.reports.numbers import plain

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


def metrics_tables(metrics: Mapping[str, Any], title: str) -> Group:
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
        table = Table(title_justify="left", caption_justify="left", box=SIMPLE_HEAD)
        table.add_column("test", min_width=max(map(len, names)))  # a cut name could be several metrics
        if not tables:
            table.title = escape(title)
        half_widths = [f"{name}{_HALF_WIDTH}" for name in names]
        has_intervals = any(name in test for name in half_widths)
        for column in ("model", *["±"] * has_intervals, *floors):
            table.add_column(column, justify="right", no_wrap=True)
        table.add_column("what it is")
        for name, half_width in zip(names, half_widths, strict=True):
            beside = [plain(test[half_width], digits=2) if half_width in test else ""] * has_intervals
            beside += [plain(test[f"{name}_{floor}_floor"]) for floor in floors]
            table.add_row(name, f"[bold]{plain(test[name])}[/]", *beside, _meaning(name))
        captions = ["±: half the width of the 95 % interval over test sessions"] * has_intervals
        if floors:
            captions += ["floors (what a rule without learning scores):"]
            captions += [f"{floor}: {_FLOORS[floor]}" for floor in floors]
        table.caption = "\n".join(captions) or None
        tables.append(table)
    return Group(*tables)


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
    table = Table(title_justify="left", caption_justify="left", box=SIMPLE_HEAD)
    table.add_column("new tracks", min_width=max(map(len, _NEWNESS)))
    names = [f"{name}@{k}" for name in ("recall", "ndcg") for k in (10, 100)]
    for column in ("queries", *names):
        table.add_column(column, justify="right", no_wrap=True)
    for group in _NEWNESS:
        if f"test/{group}_recall_at_10" in metrics:
            values = [plain(metrics[f"test/{group}_{name.replace('@', '_at_')}"]) for name in names]
            table.add_row(group, f"{int(metrics[f'test/num_{group}_queries']):,}", *values)
    captions = [f"new: not played in training; {int(metrics['test/num_new_tracks']):,} such tracks"]
    table.caption = "\n".join([*captions, *(f"{group}: {meaning}" for group, meaning in _NEWNESS.items())])
    return table


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
    table = Table(title_justify="left", caption_justify="left", box=SIMPLE_HEAD)
    table.add_column("listening test", min_width=max(map(len, map(_listening_name, known))))
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("±", justify="right", no_wrap=True)
    table.add_column("what it is")
    for name, value in known.items():
        half_width = metrics.get(f"online/{name}{_HALF_WIDTH}")
        shown = f"[bold]{plain(value)}[/]" if name == next(iter(known)) else plain(value)
        table.add_row(
            _listening_name(name), shown, "" if half_width is None else plain(half_width, digits=2), _LISTENING[name]
        )
    table.caption = (
        "the lists of the run, played to the simulated listeners in new sessions\n"
        "±: half the width of the 95 % interval over listeners"
    )
    return table


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
    table = Table(title="Where the time went", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("phase")
    table.add_column("seconds", justify="right")
    table.add_column("what it is")
    for phase, duration in seconds.items():
        table.add_row(phase, f"{duration:,.1f}", _PHASES[phase])
    table.add_row("[bold]all[/]", f"[bold]{sum(seconds.values()):,.1f}[/]", "from the command on")
    return table


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


def examples_table(examples: Sequence[ExampleTrack], width: int) -> Table:
    """Tracks and their next five, by title and artist.

    Args:
        examples: at least one track.
        width: columns of the terminal, of which `WIDEST` are used at most.
    """
    places = ", ".join(str(example.place) for example in examples)
    table = Table(title="What to play next", title_justify="left", caption_justify="left", box=SIMPLE_HEAD)
    table.width = min(width, WIDEST)
    table.add_column("after", ratio=2, no_wrap=True)
    table.add_column("recommendations, best first", ratio=3, no_wrap=True)
    table.caption = f"tracks at places {places} by plays in training; recommendations.jsonl has all"
    for example in examples:
        names = (f"[bold]{rank}[/] {_name(name)}" for rank, name in enumerate(example.following, start=1))
        title, artist = map(escape, example.name)
        table.add_row(f"{title}\n[dim]by {artist}[/]" if artist else title, "\n".join(names))
    return table


def _name(name: tuple[str, str]) -> str:
    title, artist = map(escape, name)
    return f"{title} [dim]by {artist}[/]" if artist else title
