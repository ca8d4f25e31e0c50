"""The report of a description: what is printed, and `describe.json`."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from src.describing.clock import Clock
from src.describing.examples import ExampleSession
from src.describing.material import Material, Reading
from src.describing.measures import Facts, Spread
from src.describing.picture import draw
from src.describing.warnings import DataWarning, percent
from src.runs.atomic import write_record, write_whole
from src.terminal.numbers import duration, plain

_SOURCE = ("datamodule=", "datamodule.", "experiment=", "recipe=", "world=", "world.", "taste@")
"""Words of the command line that decide which data are read; the next command has them too."""


def write_report(
    facts: Facts,
    warnings: Sequence[DataWarning],
    material: Material,
    *,
    gap_minutes: float,
    folder: Path,
    title: str,
    head: Mapping[str, Any],
) -> None:
    """Write `describe.json` and `describe.png`.

    Args:
        facts: the numbers.
        warnings: what should be looked at.
        material: what was measured.
        gap_minutes: the pause that ends a session, which the picture marks.
        folder: where to write; created if it does not exist.
        title: name of the source.
        head: more entries of `describe.json`, such as the digest of the data and the provenance.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "describe.png", lambda path: draw(facts, warnings, gap_minutes, title, path))
    write_record(record(facts, warnings, material) | {"source": title, **head}, folder / "describe.json")


def record(facts: Facts, warnings: Sequence[DataWarning], material: Material) -> dict[str, Any]:
    """The content of `describe.json`: plain values under the names of `Facts`, the warnings, and what was read.

    Args:
        facts: the numbers.
        warnings: what should be looked at.
        material: what was measured.

    Returns:
        Nested dicts and lists.
    """
    return {
        "warnings": [asdict(warning) for warning in warnings],
        **asdict(facts),
        "reading": asdict(material.reading),
        "remarks": list(material.remarks),
    }


def printed(facts: Facts, warnings: Sequence[DataWarning], material: Material, title: str) -> Group:
    """What a person sees: what was read, the numbers, the first sessions, the warnings.

    Args:
        facts: the numbers.
        warnings: what should be looked at.
        material: what was measured.
        title: name of the source.

    Returns:
        Tables and lines.
    """
    parts: list[RenderableType] = [*_reading(material.reading), _numbers(facts, title), _spreads(facts)]
    parts += [_session(session, number) for number, session in enumerate(facts.first_sessions, start=1)]
    parts += [Text(remark) for remark in material.remarks]
    parts.append(_warnings(warnings))
    return Group(*parts)


def _warnings(warnings: Iterable[DataWarning]) -> Table:
    """Each warning: what was found, its threshold, and below it what to do."""
    table = Table.grid(padding=(0, 1))
    for _ in range(2):
        table.add_column()
    for warning in warnings:
        table.add_row(Text("warning     ", style="bold yellow"), Text(warning.says + _threshold(warning)))
        table.add_row("", Text(f"→ {warning.remedy}"))
    if not table.rows:
        table.add_row("warnings    ", "none: nothing reaches its threshold (conf/describe.yaml)")
    return table


def _threshold(warning: DataWarning) -> str:
    return "" if warning.threshold is None else f" (warnings.{warning.name}={warning.threshold})"


def next_command(words: Sequence[str], reading: Reading, *, refused: bool) -> str:
    """What to type next: train on these data, with the mapping written out where it was guessed.

    Args:
        words: overrides of the command line.
        reading: what was read.
        refused: whether the data cannot be trained on as they are; then it is the same description.

    Returns:
        A command for a shell.
    """
    kept = [word for word in words if word.lstrip("+~").startswith(_SOURCE)]
    if reading.guessed:
        kept = [word for word in kept if not word.startswith("datamodule.columns")]
        columns = ", ".join(f"{role}: {_quoted(column)}" for role, column in reading.mapping.items())
        kept.append(f"datamodule.columns={{{columns}}}")
    verb = "describe.py" if refused else "train.py"
    return " ".join(["python", verb, *map(shlex.quote, kept)])


def _quoted(column: str) -> str:
    """The name of a column as a value of Hydra's."""
    return column if column.isidentifier() else "'" + column.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _reading(reading: Reading) -> list[RenderableType]:
    parts: list[RenderableType] = []
    if reading.mapping:
        table = _table("role", "column")
        for role, column in reading.mapping.items():
            table.add_row(role, Text(column))
        parts.append(_titled("mapping, guessed from the names of the columns" if reading.guessed else "mapping", table))
    if reading.rejected:
        table = _table("rows", "reason", right=("rows",))
        for reason, count in reading.rejected:
            table.add_row(f"{count:,}", Text(reason))
        parts.append(_titled("rejected rows", table, *(f"for example {example}" for example in reading.examples)))
    if any(reading.dropped.values()):
        table = _table("events", "policy", right=("events",))
        for policy, count in reading.dropped.items():
            table.add_row(f"{count:,}", policy)
        parts.append(_titled("left out by a policy", table))
    return parts


def _numbers(facts: Facts, title: str) -> Group:
    table = _table("", "what it is", "value", right=("value",))
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
        ("repeats", "plays of a track that was played before in the session", percent(repeats.in_session)),
        ("", "plays of a track that the user has played before", percent(repeats.by_listener)),
        ("", "plays of the track just played", percent(repeats.self_pairs)),
        ("popularity", f"plays of {popularity.top_track}, the first track", percent(popularity.top_share)),
        ("", "plays of the most played hundredth of the tracks", percent(popularity.top_hundredth_share)),
        ("", "tracks that together have half of the plays", f"{popularity.half:,}"),
        *_share_rows(facts),
        *_pair_rows(facts),
    ]
    for name, meaning, value in rows:
        table.add_row(name, Text(meaning), value)
    return _titled(title, table)


def _time_rows(clock: Clock | None) -> list[tuple[str, str, str]]:
    if clock is None:
        return [("time", "the source has no clock", "–")]
    rows = [
        ("time", "first play, UTC", clock.first),
        ("", "last play, UTC", clock.last),
        ("", "longest time without any play", duration(clock.silence_days * 86_400)),
        ("", "plays with the same time as an earlier one of the user", percent(clock.ties)),
        ("", "of these, with the same track too", percent(clock.duplicates)),
        (
            "",
            f"most plays of a user on a day: listener {clock.busiest_listener}, {clock.busiest_day}",
            f"{clock.busiest_plays:,}",
        ),
    ]
    if clock.median_gap_s is not None:
        rows.append(("", "median time between two plays of a user", duration(clock.median_gap_s)))
    return rows


def _share_rows(facts: Facts) -> list[tuple[str, str, str]]:
    shares = facts.shares
    if shares is None:
        return [("share played", "known for", "0 %")]
    return [
        ("share played", "known for", percent(shares.known)),
        ("", "mean", plain(shares.mean)),
        ("", "plays with share 0", percent(shares.at_zero)),
        ("", "plays with share 1", percent(shares.at_one)),
    ]


def _pair_rows(facts: Facts) -> list[tuple[str, str, str]]:
    test, splits = facts.test, facts.splits
    if test is None or splits is None:
        return []
    rows = [("", f"for {name}", f"{counts['pairs']:,}") for name, counts in splits.items()]
    rows[0] = ("pairs", *rows[0][1:])
    rows += [
        ("cold in test", "tracks that no training session plays", percent(test.cold_tracks)),
        ("", "pairs with such a track", percent(test.cold_pairs)),
    ]
    if test.mean_mse is not None and test.mean_bce is not None:
        rows += [
            ("constant", "test mse of the mean share of training", plain(test.mean_mse)),
            ("", "test bce of the same", plain(test.mean_bce)),
        ]
    if test.popular_recall_at_10 is not None and test.popular_ndcg_at_10 is not None:
        rows += [
            ("popular", "test recall@10 of the most played tracks", plain(test.popular_recall_at_10)),
            ("", "test ndcg@10 of the same", plain(test.popular_ndcg_at_10)),
        ]
    return rows


def _spreads(facts: Facts) -> Group:
    columns = ("least", "median", "mean", "95 % at most", "most")
    table = _table("", *columns, right=columns)
    rows: list[tuple[str, Spread | None]] = [
        ("tracks of a session", facts.session_length),
        ("plays of a user", facts.plays_of_user),
        ("sessions of a user", facts.sessions_of_user),
        ("plays of a track", facts.plays_of_track),
        ("tracks of an artist", facts.tracks_of_artist),
        ("training pairs of a track", facts.pairs_of_track),
    ]
    for name, spread in rows:
        if spread is not None:
            values = (spread.least, spread.median, spread.mean, spread.high, spread.most)
            table.add_row(name, *map(plain, values))
    return _titled("distributions", table)


def _session(session: ExampleSession, number: int) -> Group:
    has_time = any(play.time is not None for play in session.plays)
    table = _table(*["time, UTC"] * has_time, "title", "artist", "share", right=("time, UTC", "share"))
    if has_time:
        table.columns[0].justify = "left"
    for play in session.plays:
        times = [play.time or ""] * has_time
        share = "–" if play.share is None else plain(play.share)
        names = (Text(name, no_wrap=True, overflow="ellipsis") for name in (play.title, play.artist))
        table.add_row(*times, *names, share)
    hidden = session.num_plays - len(session.plays)
    notes = [f"and {hidden:,} more"] * (hidden > 0)
    title = f"session {number} as it was read: listener {session.listener}, {session.num_plays:,} plays"
    return _titled(title, table, *notes)


def _titled(title: str, table: Table, *notes: str) -> Group:
    """A table below its title and above some notes, which may be wider than the table."""
    return Group(Text(title, style="bold"), table, *(Text(note, style="italic") for note in notes))


def _table(*columns: str, right: Sequence[str] = ()) -> Table:
    table = Table(box=SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", no_wrap=column in right)
    return table
