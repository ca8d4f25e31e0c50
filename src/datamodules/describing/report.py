"""The report of a description: what is printed."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table as Grid
from rich.text import Text

from segue.datamodules.describing.facts import Facts
from segue.datamodules.describing.warnings import UNIT_OF_TIME, DataWarning
from segue.datamodules.reading.column_roles import option
from segue.datamodules.reading.rejected_rows import in_words
from segue.datamodules.reading.table import Reading
from segue.reports.numbers import percent, plain
from segue.reports.result_table import Cell, Table
from segue.runs.folder import flatten
from segue.runs.hydra_text import as_word
from segue.runs.provenance import call_of

# Words of the command line that decide which data are read; the next command has them too.
_SOURCE = ("datamodule=", "datamodule.", "experiment=", "recipe=", "world=", "world.", "taste@")
_NOT_GUESSED = ("last", "recommendation")  # roles that only a setting gives a column
_SPREADS = {
    "session_length": "tracks of a session",
    "plays_of_user": "plays of a user",
    "sessions_of_user": "sessions of a user",
    "plays_of_track": "plays of a track",
    "tracks_of_artist": "tracks of an artist",
    "pairs_of_track": "training pairs of a track",
}
_NUMBERS = {
    "num_rows": "rows in the files",
    "num_rejected": "rows that were rejected",
    "num_events": "plays that were read",
    "num_users": "users; a playlist counts as a user",
    "num_sessions": "sessions, in which tracks follow each other",
    "single_play_sessions": "sessions with one play, which have no pairs",
    "num_tracks": "tracks in the catalogue",
    "num_played_tracks": "tracks that are played",
    "num_artists": "artists in the catalogue",
    "clock.first": "time of the first play, UTC",
    "clock.last": "time of the last play, UTC",
    "clock.ties": "plays with the same time as an earlier one of the user",
    "clock.median_gap_s": "median time between two plays of a user, in seconds",
    "repeats.in_session": "plays of a track that was played before in the session",
    "repeats.by_listener": "plays of a track that the user has played before",
    "repeats.self_pairs": "plays of the track just played",
    "popularity.top_track": "most played track",
    "popularity.top_share": "its share of the plays",
    "popularity.half": "tracks that together have half of the plays",
    "shares.known": "plays with a known share played",
    "shares.mean": "mean share played",
    "shares.at_zero": "plays with share 0",
    "shares.at_one": "plays with share 1",
    "splits.train.pairs": "pairs for training",
    "splits.val.pairs": "pairs for validation",
    "splits.test.pairs": "pairs for the test",
    "test.cold_tracks": "tracks of the test that no training session plays",
    "test.cold_pairs": "pairs of the test with such a track",
}
_NO_SHARES = ("mean", "median")  # beginnings of the texts of numbers that are no per cent


def printed(
    facts: Facts, warnings: Sequence[DataWarning], reading: Reading, remarks: Sequence[str], title: str
) -> Group:
    """What a person sees: what was read, the numbers, the first sessions, the warnings."""
    reports = Grid.grid(padding=(0, 1))
    for warning in warnings:
        reports.add_row(Text("warning     ", style="bold yellow"), Text(warning.says))
        reports.add_row("", Text(f"→ {warning.remedy}"))
    if not warnings:
        reports.add_row("warnings    ", "none: nothing reaches its threshold (docs/describing.md)")
    return Group(
        *_reading(reading),
        _numbers(facts, title),
        _spreads(facts),
        *(_session(session, number) for number, session in enumerate(facts["first_sessions"], start=1)),
        *map(Text, remarks),
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


def _reading(reading: Reading) -> list[RenderableType]:
    parts = list[RenderableType]()
    if reading.guessed:
        why = dict.fromkeys(reading.guessed, "by its name") | dict(reading.evidence)
        found = [(one, at, reading.units.get(one, ""), why.get(one, "as given")) for one, at in reading.columns.items()]
        parts.append(_titled("columns", ["role", "column", "unit", "found"], found, "llll"))
    if reading.unused:
        switch = {name: option(role, name) for name, role in reading.alternatives.items()}
        unused = [[name, reading.holds.get(name, ""), switch.get(name, "")] for name in reading.unused]
        parts.append(_titled("columns that are not used", ["column", "values", "use it with"], unused, "lll"))
    if reading.rejected:
        reasons = [[f"{num:,}", why] for why, num in sorted(reading.rejected.items(), key=lambda item: -item[1])]
        examples = (f"for example {in_words(row)}" for row in reading.examples)
        parts.append(_titled("rejected rows", ["rows", "reason"], reasons, "Rl", *examples))
    return parts


def _numbers(facts: Facts, title: str) -> Table:
    values = flatten(facts)
    rows = [(text, _number(values[name], text)) for name, text in _NUMBERS.items() if values.get(name) is not None]
    return _titled(title, ["what it is", "value"], rows, "lR")


def _number(value: Any, text: str) -> str:
    if isinstance(value, str):
        return value
    return plain(float(value)) if isinstance(value, int) or text.startswith(_NO_SHARES) else percent(value)


def _spreads(facts: Facts) -> Table:
    numbers = ("least", "median", "mean", "high", "most")
    rows = [[name, *(plain(facts[of][number]) for number in numbers)] for of, name in _SPREADS.items() if of in facts]
    return _titled("distributions", ["", "least", "median", "mean", "95 % at most", "most"], rows, "lRRRRR")


def _session(session: Mapping[str, Any], number: int) -> Table:
    rows = list[list[Cell]]()
    for play in session["plays"]:
        names = (Text(play[key], no_wrap=True, overflow="ellipsis") for key in ("title", "artist"))
        rows.append([play["time"] or "–", *names, "–" if play["share"] is None else plain(play["share"])])
    title = f"session {number} as it was read: listener {session['listener']}, {session['num_plays']:,} plays"
    return _titled(title, ["time, UTC", "title", "artist", "share"], rows, "LllR")


def _titled(title: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]], align: str, *notes: str) -> Table:
    return Table(title=title, columns=columns, rows=rows, align=align, notes=notes, look="open")
