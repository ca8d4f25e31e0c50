"""Tables that the verbs print before and after a simulation or a training."""

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from rich.text import Text

from segue.reports.numbers import number, plain
from segue.reports.result_table import Cell, Table, styled

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from jaxtyping import Int64

    from segue.catalog import Vocabulary

WIDEST = 100
"""Columns of a terminal that tables use at most."""
NUM_EXAMPLES = 10
"""Tracks that are shown with their recommendations."""
NUM_FOLLOWING = 5
"""Recommendations that are shown of each of them."""

BESIDE = re.compile("_floor$|_half_width$|_position_[1-9]|^(num_)?(warm|cold|new|every)_")
"""Test metrics that are shown beside others, or in a table of their own."""

OF_LISTENERS = ("own", "own_recent")
"""Floors that know who is listening. They are no models, and have a table of their own: all floors are too wide."""
_FLOORS = {
    "counts": "ranks by how often the candidate came next in training",
    "popular": "ranks by plays in training, whatever came before",
    "recent": "ranks by plays in the last days of training; validation chose how many",
    "own": "ranks by the listener's own plays in earlier sessions",
    "own_recent": "the same, where a play of 30 days ago counts half",
    "mean": "predicts the mean share of training for every pair",
    "random": "predicts a random share for every pair",
}
# The meaning of what is not in `ACCURACY` of `statistics/ranking.py`, by its name without the number at the end.
_MEANINGS = {
    "mse": "squared error of the share",
    "mae": "absolute error of the share",
    "loss": "what training minimises",
    "num_queries": "pairs that are ranked",
    "num_sessions": "sessions of these pairs",
    "num_all_queries": "pairs that could be ranked",
    "num_first_tracks": "first tracks of sessions that are ranked",
    "recall_at_10_position_": "first track in the top 10",
    "ndcg_at_10_position_": "gain of first tracks",
    "coverage_at_": "tracks in any top {}",
    "same_artist_at_": "same artist, in the top {}",
    "popularity_rank_at_": "place by plays, top {}",
}
# What each line of the table of new tracks is.
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
    "mean_time_per_session_true_neighbours_reference": "a near track, by the true tastes",
    "val_mean_time_per_session": "the run, validation listeners",
    "coverage": "played tracks of the catalogue",
    "share_of_hits": "played tracks that are popular",
    "share_of_same_artist": "same artist as the last track",
    "share_known": "loved in an earlier session",
    "share_heard": "heard in an earlier session",
    "share_known_artist": "by an artist loved before",
    "num_listeners": "listeners, without validation",
    "num_sessions": "their sessions",
}
# What each phase of a run does.
_PHASES = {
    "start": "libraries and settings",
    "data": "events, sessions, pairs, model",
    "choice": "short trainings and simple models, on validation queries",
    "training": "the epochs",
    "validation": "after each epoch",
    "refit": "as many steps on all sessions",
    "test": "the best epoch",
    "lists": "recommendations.jsonl",
    "listening": "the listening test",
    "pictures": "plots/",
    "tracking": "run folder and MLflow",
}


def metrics_tables(metrics: Mapping[str, Any], title: str) -> list[Table]:
    """The test metrics of a run, each beside its floors: `test/mse` beside `test/mse_mean_floor`, and so on.

    Metrics with the same floors share a table; a caption says what each floor is. Where a metric has an interval, a
    column has half its width. Metrics by position are in `metrics.json` alone, those of new tracks in `newness_table`.
    """
    from segue.statistics.ranking import ACCURACY  # here, because --help waits for no pandas

    test = {name.removeprefix("test/"): value for name, value in metrics.items() if name.startswith("test/")}
    by_floors: dict[tuple[str, ...], list[str]] = {}
    for name in test:
        if not BESIDE.search(name):
            known = [floor for floor in _FLOORS if f"{name}_{floor}_floor" in test]
            of_listeners = tuple(floor for floor in known if floor in OF_LISTENERS)
            for some in {tuple(floor for floor in known if floor not in OF_LISTENERS), of_listeners}:
                if some or not known:
                    by_floors.setdefault(some, []).append(name)
    tables: list[Table] = []
    for floors, names in sorted(by_floors.items(), key=lambda item: (item[0] == (), item[0])):
        has_intervals = floors != OF_LISTENERS and any(f"{name}_half_width" in test for name in names)
        rows = list[list[Cell]]()
        for name in names:
            beside = [_reach(test, name)] * has_intervals + [plain(test[f"{name}_{floor}_floor"]) for floor in floors]
            key, place = re.fullmatch(r"(.*?)(\d*)", name).groups()  # type: ignore[union-attr]  # it matches all
            meaning = ACCURACY[name].meaning if name in ACCURACY else _MEANINGS.get(key, "").format(place)
            rows.append([name, styled(plain(test[name]), "bold"), *beside, meaning])
        notes = ["±: half the width of the 95 % interval over test sessions"] * has_intervals
        notes += ["floors (what a rule without learning scores):"] * bool(floors)
        notes += [f"{floor}: {_FLOORS[floor]}" for floor in floors]
        columns = ["test", "model", *["±"] * has_intervals, *floors, "what it is"]
        align = "L" + "R" * (len(columns) - 2) + "l"  # a cut name could be several metrics
        shown = "" if tables else title
        tables.append(Table(title=shown, columns=columns, rows=rows, align=align, notes=notes, look="open"))
    return tables


def tables_of_test(metrics: Mapping[str, Any], title: str) -> list[Table]:
    """All tables of the test metrics of a run."""
    others = (table(metrics) for table in (every_target_table, newness_table, listening_table))
    return [*metrics_tables(metrics, title), *(table for table in others if table is not None)]


def _reach(metrics: Mapping[str, Any], name: str) -> str:
    """Half the width of the interval of a metric; empty where it has none."""
    half_width = metrics.get(f"{name}_half_width")
    return "" if half_width is None else plain(half_width, digits=2)


def newness_table(metrics: Mapping[str, Any]) -> Table | None:
    """The test metrics of queries with new tracks, and of the others; None where no query has one."""
    if "test/num_new_tracks" not in metrics:
        return None
    names = [f"{name}@{k}" for name in ("recall", "ndcg") for k in (10, 100)]
    rows = [
        [
            group,
            f"{int(metrics[f'test/num_{group}_queries']):,}",
            *(plain(metrics[f"test/{group}_{name.replace('@', '_at_')}"]) for name in names),
        ]
        for group in _NEWNESS
        if f"test/{group}_recall_at_10" in metrics
    ]
    notes = [f"new: not played in training; {int(metrics['test/num_new_tracks']):,} such tracks"]
    notes += [f"{group}: {meaning}" for group, meaning in _NEWNESS.items()]
    columns = ["new tracks", "queries", *names]
    return Table(columns=columns, rows=rows, align="L" + "R" * (1 + len(names)), notes=notes, look="open")


def every_target_table(metrics: Mapping[str, Any]) -> Table | None:
    """P@20 and MRR@20 of every target among all tracks, in per cent; None of a run that was not tested so."""
    from segue.statistics.ranking import EVERY_TARGET  # here, because --help waits for no pandas

    if "test/num_every_target_queries" not in metrics:
        return None
    endings = "", "_half_width", "_counts_floor", "_popular_floor"
    rows = list[list[Cell]]()
    for (name, metric), shown in zip(EVERY_TARGET.items(), ("P@20", "MRR@20"), strict=True):
        values = (metrics.get(f"test/{name}{ending}") for ending in endings)
        model, *others = ("" if value is None else f"{100 * value:.2f}" for value in values)
        rows.append([f"{shown} in %", styled(model, "bold"), *others, metric.meaning])
    notes = [
        f"as in published tables: {int(metrics['test/num_every_target_queries']):,} events, all after the first of a "
        "session, ranked among all tracks; those already heard, and the last one, may be right"
    ]
    columns = ["every target", "model", "±", "counts", "popular", "what it is"]
    return Table(columns=columns, rows=rows, align="LRRRRl", notes=notes, look="open")


def listening_table(metrics: Mapping[str, Any]) -> Table | None:
    """What simulated listeners heard from a run, with references below it; None of a run without a world."""
    rows = list[list[Cell]]()
    for name, meaning in _LISTENING.items():
        if f"online/{name}" in metrics:
            reference = re.fullmatch(r"mean_time_per_session_(.+)_(floor|reference)", name)
            value = metrics[f"online/{name}"]
            shown = styled(f"{value:.4f}" if name.startswith("share_") else plain(value), "" if rows else "bold")
            label = f"  {reference[1]}" if reference else name  # below the run
            rows.append([label, shown, _reach(metrics, f"online/{name}"), meaning])
    notes = [
        "the lists of the run, played to the simulated listeners in new sessions",
        "±: half the width of the 95 % interval over listeners",
    ]
    columns = ["listening test", "value", "±", "what it is"]
    return Table(columns=columns, rows=rows, align="LRRl", notes=notes, look="open") if rows else None


def phases_table(seconds: Mapping[str, float]) -> Table:
    """Where the time of a run went."""
    rows: list[list[Cell]] = [[phase, f"{took:,.1f}", _PHASES[phase]] for phase, took in seconds.items()]
    rows.append([styled("all", "bold"), styled(f"{sum(seconds.values()):,.1f}", "bold"), "from the command on"])
    columns = ["phase", "seconds", "what it is"]
    return Table(title="Where the time went", columns=columns, rows=rows, align="lrl", look="open")


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
    places = [2**power for power in range(NUM_EXAMPLES)]
    if places[-1] > len(catalog):
        places = list(range(1, min(NUM_EXAMPLES, len(catalog)) + 1))
    queries = most_played(vocabulary.plays)[[place - 1 for place in places]]

    def name(row: int, between: str) -> Text:
        title, artist = catalog.titles[row], catalog.artists[catalog.artist_of[row]]
        if not (title and artist):
            return Text(title or str(catalog.track_ids[row]))
        return Text(title).append(between).append(f"by {artist}", "dim")

    rows = list[list[Cell]]()
    for query, following in zip(queries.tolist(), lists_of(queries)[:, :NUM_FOLLOWING].tolist(), strict=True):
        known = enumerate((row for row in following if row >= 0), start=1)
        names = [Text.assemble((str(place), "bold"), " ", name(row, " ")) for place, row in known]
        rows.append([name(query, "\n"), Text("\n").join(names)])
    return Table(
        title="What to play next",
        columns=["after", "recommendations, best first"],
        rows=rows,
        align="LL",
        notes=[f"tracks at places {', '.join(map(str, places))} by plays in training; recommendations.jsonl has all"],
        look="open",
        ratios=[2, 3],
        width=WIDEST,
    )


def arms_table(arms: Mapping[str, Mapping[str, Any]], names: Mapping[str, str], title: str) -> Table:
    """Means over the listeners of each arm, with their 95 % intervals.

    Args:
        arms: the summary of each arm, as `simulation.json` has it under `arms`.
    """
    rows = list[list[Cell]]()
    for arm, row in arms.items():
        means = [
            styled(number(row[name], ".2f"), "bold").append(
                f" [{number(row[name + '_lower'], '.2f')}, {number(row[name + '_upper'], '.2f')}]"
            )
            for name in ("mean_time_per_session", "mean_tracks_per_session")
        ]
        rows.append([arm, Text(names[arm], overflow="fold"), f"{row['sessions']:,}", *means])
    notes = [
        "time per session: sum of the shares played; 1 is one track played in full.",
        "tracks per session: number of tracks, skipped tracks included.",
        "Both are means over the listeners of the arm; brackets: 95 % interval.",
    ]
    if shares := [f"{arm} {row['fallbacks'] / row['steps']:.1%}" for arm, row in arms.items() if row["fallbacks"]]:
        notes.append(f"fallbacks (no track to recommend, a random one was played): {', '.join(shares)}")
    if shares := [f"{arm} {row['share_known']:.1%}" for arm, row in arms.items() if "share_known" in row]:
        notes.append(f"share known (played to 80 % in an earlier session): {', '.join(shares)}")
    columns = ["arm", "recommender", "sessions", "time per session", "tracks per session"]
    return Table(title=title, columns=columns, rows=rows, align="llRRR", notes=notes)


def frame_table(frame: "pd.DataFrame", title: str) -> Table:
    """A frame of whole numbers, a line a row; what is missing stays empty."""
    rows = [
        [str(name), *("" if gone else f"{value:,}" for value, gone in zip(row, row.isna(), strict=True))]
        for name, row in frame.iterrows()
    ]
    columns = ["", *map(str, frame.columns)]
    notes = ["rejected: lines that are not events"] * ("rejected" in columns)
    return Table(title=title, columns=columns, rows=rows, align="l" + "r" * len(frame.columns), notes=notes)
