"""The report of a description: what is printed, and `describe.json`."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table as Grid
from rich.text import Text

from segue.datamodules.describing.clock import Clock
from segue.datamodules.describing.measures import Facts, Material, Spread
from segue.datamodules.describing.picture import draw
from segue.datamodules.describing.warnings import UNIT_OF_TIME, DataWarning, most_common
from segue.datamodules.reading.column_roles import option
from segue.datamodules.reading.rejected_rows import in_words
from segue.datamodules.reading.table import Reading
from segue.reports import writing
from segue.reports.numbers import duration, percent, plain
from segue.reports.result_table import Cell, Table
from segue.runs.hydra_text import as_word
from segue.runs.provenance import call_of

# Words of the command line that decide which data are read; the next command has them too.
_SOURCE = ("datamodule=", "datamodule.", "experiment=", "recipe=", "world=", "world.", "taste@")


# What shares played are computed from, by `Plan.share`.
_FROM = {
    "ratio": "a column of shares",
    "played": "time played and duration",
    "longest": "time played and the longest play of the track",
    "skipped": "skips",
    "gap": "the time until the next play and the duration",
    "none": "nothing",
}
_NOT_GUESSED = ("last", "recommendation")  # roles that only a setting gives a column


def write_report(
    facts: Facts,
    warnings: Sequence[DataWarning],
    material: Material,
    *,
    gap_minutes: float,
    folder: Path,
    title: str,
    data_digest: str | None,
    provenance: Mapping[str, str],
) -> None:
    """Write `describe.json` and `describe.png`.

    Args:
        gap_minutes: the pause that ends a session, which the picture marks.
        folder: where to write; created if it does not exist.
        data_digest: digest of the data; None where they cannot be trained on.
    """
    record = {
        "warnings": [asdict(warning) for warning in warnings],
        **asdict(facts),
        "reading": asdict(material.reading) | {"dropped": dict(material.dropped)},
        "remarks": list(material.remarks),
        "source": title,
        "data_digest": data_digest,
    }
    writing.write_report(
        folder, "describe", record, provenance, draw=lambda path: draw(facts, warnings, gap_minutes, title, path)
    )


def printed(facts: Facts, warnings: Sequence[DataWarning], material: Material, title: str) -> Group:
    """What a person sees: what was read, the numbers, the first sessions, the warnings."""
    reports = Grid.grid(padding=(0, 1))
    for warning in warnings:
        threshold = "" if warning.threshold is None else f" (warnings.{warning.name}={warning.threshold})"
        reports.add_row(Text("warning     ", style="bold yellow"), Text(warning.says + threshold))
        reports.add_row("", Text(f"→ {warning.remedy}"))
    if not warnings:
        reports.add_row("warnings    ", "none: nothing reaches its threshold (docs/describing.md)")
    return Group(
        *_reading(material),
        _numbers(facts, material.reading.share, title),
        _spreads(facts),
        *_attributes(facts),
        *(_session(session, number) for number, session in enumerate(facts.first_sessions, start=1)),
        *map(Text, material.remarks),
        reports,
    )


def next_command(
    words: Sequence[str], reading: Reading, warnings: Sequence[DataWarning], *, columns: Mapping[str, str | None]
) -> str:
    """What to type next: train on these data, with columns and units written out where columns were guessed.

    Data that cannot be trained on, or that were read in a wrong unit, are to be described again.

    Args:
        columns: the settings of the columns; null for a role that has none.
    """
    kept = [word for word in words if word.lstrip("+~").startswith(_SOURCE)]
    unit = next((warning.unit for warning in warnings if warning.unit is not None), None)
    if reading.guessed:
        kept = [word for word in kept if not word.startswith(("datamodule.columns", "datamodule.units"))]
        units = {**reading.units, **({"timestamp": unit} if unit else {})}
        without = {role: None for role, column in columns.items() if column is None and role not in _NOT_GUESSED}
        kept += [f"datamodule.columns={_as_words({**reading.columns, **without})}"]
        kept += [f"datamodule.units={_as_words(units)}"] * bool(units)
    elif unit:
        kept = [word for word in kept if not word.startswith(f"{UNIT_OF_TIME}=")] + [f"{UNIT_OF_TIME}={unit}"]
    again = unit is not None or any(warning.name == "splits" for warning in warnings)
    return " ".join([call_of("describe" if again else "train"), *map(shlex.quote, kept)])


def _as_words(values: Mapping[str, str | None]) -> str:
    """A mapping in the language of Hydra."""
    words = (f"{name}: {'null' if value is None else as_word(value)}" for name, value in values.items())
    return f"{{{', '.join(words)}}}"


def _reading(material: Material) -> list[RenderableType]:
    reading, parts = material.reading, list[RenderableType]()
    if reading.guessed:
        why = dict.fromkeys(reading.guessed, "by its name") | dict(reading.evidence)
        rows = [
            [role, column, reading.units.get(role, ""), why.get(role, "as given")]
            for role, column in reading.columns.items()
        ]
        parts.append(_titled("columns", ["role", "column", "unit", "found"], rows, "llll"))
    if reading.unused:
        switch = {name: option(role, name) for name, role in reading.alternatives.items()}
        rows = [[name, reading.holds.get(name, ""), switch.get(name, "")] for name in reading.unused]
        parts.append(_titled("columns that are not used", ["column", "values", "use it with"], rows, "lll"))
    if reading.rejected:
        rows = [[f"{count:,}", reason] for reason, count in most_common(reading.rejected)]
        examples = (f"for example {in_words(row)}" for row in reading.examples)
        parts.append(_titled("rejected rows", ["rows", "reason"], rows, "Rl", *examples))
    if any(material.dropped.values()):
        rows = [[f"{count:,}", rule] for rule, count in most_common(material.dropped) if count]
        parts.append(_titled("left out", ["events", "rule"], rows, "Rl"))
    return parts


def _numbers(facts: Facts, source: str, title: str) -> Table:
    popularity, repeats = facts.popularity, facts.repeats
    users = "playlists, each of which counts as a user" if facts.are_playlists else "listeners"
    rows = [
        ("rows", "in the files", f"{facts.num_rows:,}"),
        ("", "rejected", f"{facts.num_rejected:,}"),
        ("plays", "that were read", f"{facts.num_events:,}"),
        ("users", users, f"{facts.num_users:,}"),
        ("sessions", "in which tracks follow each other", f"{facts.num_sessions:,}"),
        ("", "with one play, which have no pairs", percent(facts.single_play_sessions)),
        ("tracks", "in the catalogue", f"{facts.num_tracks:,}"),
        ("", "that are played", f"{facts.num_played_tracks:,}"),
        ("artists", "in the catalogue", f"{facts.num_artists:,}"),
        *_time_rows(facts.clock),
        ("repeats", "plays of a track that was played before in the session", percent(repeats["in_session"])),
        ("", "plays of a track that the user has played before", percent(repeats["by_listener"])),
        ("", "plays of the track just played", percent(repeats["self_pairs"])),
        ("popularity", f"plays of {popularity.top_track}, the first track", percent(popularity.top_share)),
        ("", "plays of the most played hundredth of the tracks", percent(popularity.top_hundredth_share)),
        ("", "tracks that together have half of the plays", f"{popularity.half:,}"),
        *_share_rows(facts, source),
        *_pair_rows(facts),
    ]
    return _titled(title, ["", "what it is", "value"], rows, "llR")


def _time_rows(clock: Clock | None) -> list[tuple[str, str, str]]:
    if clock is None:
        return [("time", "the source has no clock", "–")]
    busiest = f"most plays of a user on a day: listener {clock.busiest_listener}, {clock.busiest_day}"
    median = clock.median_gap_s
    return [
        ("time", "first play, UTC", clock.first),
        ("", "last play, UTC", clock.last),
        ("", "longest time without any play", duration(clock.silence_days * 86_400)),
        ("", "plays with the same time as an earlier one of the user", percent(clock.ties)),
        ("", "of these, with the same track too", percent(clock.duplicates)),
        ("", busiest, f"{clock.busiest_plays:,}"),
        *([] if median is None else [("", "median time between two plays of a user", duration(median))]),
    ]


def _share_rows(facts: Facts, source: str) -> list[tuple[str, str, str]]:
    if (shares := facts.shares) is None:
        return [("share played", "known for", "0 %")]
    return [
        ("share played", f"known for (computed from {_FROM[source]})", percent(shares.known)),
        ("", "mean", plain(shares.mean)),
        ("", "plays with share 0", percent(shares.at_zero)),
        ("", "plays with share 1", percent(shares.at_one)),
    ]


def _pair_rows(facts: Facts) -> list[tuple[str, str, str]]:
    test, splits = facts.test, facts.splits
    if test is None or splits is None:
        return []
    pairs = zip(["pairs", *[""] * (len(splits) - 1)], splits.items(), strict=True)
    measured = [
        ("constant", "test mse of the mean share of training", test["mean_mse"]),
        ("", "test bce of the same", test["mean_bce"]),
        ("popular", "test recall@10 of the most played tracks", test["popular_recall_at_10"]),
        ("", "test ndcg@10 of the same", test["popular_ndcg_at_10"]),
    ]
    return [
        *((first, f"for {name}", f"{counts['pairs']:,}") for first, (name, counts) in pairs),
        ("cold in test", "tracks that no training session plays", percent(test["cold_tracks"])),
        ("", "pairs with such a track", percent(test["cold_pairs"])),
        *((first, what, plain(value)) for first, what, value in measured if value is not None),
    ]


def _spreads(facts: Facts) -> Table:
    spreads: list[tuple[str, Spread | None]] = [
        ("tracks of a session", facts.session_length),
        ("plays of a user", facts.plays_of_user),
        ("sessions of a user", facts.sessions_of_user),
        ("plays of a track", facts.plays_of_track),
        ("tracks of an artist", facts.tracks_of_artist),
        ("training pairs of a track", facts.pairs_of_track),
    ]
    rows = [
        [name, *map(plain, (of.least, of.median, of.mean, of.high, of.most))] for name, of in spreads if of is not None
    ]
    return _titled("distributions", ["", "least", "median", "mean", "95 % at most", "most"], rows, "lRRRRR")


def _attributes(facts: Facts) -> list[RenderableType]:
    if not facts.attributes:
        return []
    numbers = ["tracks with it", "with nothing", "values", "of a track", "numbers"]
    columns, rows = ["attribute", "kind", *numbers, "commonest value", "share of the catalogue"], []
    for one in facts.attributes:
        values = (one["num_values"], one["values_per_track"], one["width"])
        shown = ("" if value is None else plain(float(value)) for value in values)
        share = "" if one["commonest_share"] is None else percent(one["commonest_share"])
        covered = percent(one["coverage"]), percent(one["nothing"])
        rows.append([one["name"], one["kind"], *covered, *shown, one["commonest"] or "", share])
    return [_titled("attributes of the tracks", columns, rows, "llRRRRRlR")]


def _session(session: Mapping[str, Any], number: int) -> Table:
    plays = session["plays"]
    has_time, hidden, rows = any(play["time"] for play in plays), session["num_plays"] - len(plays), list[list[Cell]]()
    for play in plays:
        share = "–" if play["share"] is None else plain(play["share"])
        names = (Text(play[key], no_wrap=True, overflow="ellipsis") for key in ("title", "artist"))
        rows.append([*[play["time"] or ""] * has_time, *names, share])
    notes = [f"and {hidden:,} more"] * (hidden > 0)
    title = f"session {number} as it was read: listener {session['listener']}, {session['num_plays']:,} plays"
    columns = [*["time, UTC"] * has_time, "title", "artist", "share"]
    return _titled(title, columns, rows, "L" * has_time + "llR", *notes)


def _titled(title: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]], align: str, *notes: str) -> Table:
    return Table(title=title, columns=columns, rows=rows, align=align, notes=notes, look="open", is_apart=True)
