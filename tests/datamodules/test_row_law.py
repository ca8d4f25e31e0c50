"""Rows in = pairs + first events + rejected + dropped, to the row: random tables and policies against slow loops.

The oracle is written from the documentation: it reads a list of rows one by one and keeps lists of lists.
"""

import itertools
import json
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segue.datamodules.pair_datamodule import PairDataModule
from segue.datamodules.splits import SPLITS
from tests.conftest import read_datamodule

START_S = 1_700_000_000
GAP_S = 1800


@dataclass(frozen=True)
class Row:
    """A row of a table; `seconds` after the start, None for a row that is rejected."""

    user: str
    seconds: int | None
    track: int
    played: float | None
    session: str

    def cells(self, names: list[str]) -> dict[str, Any]:
        is_bad = self.seconds is None
        every: dict[str, Any] = {"user": self.user, "track": self.track, "played": self.played, "duration": 100}
        every |= {
            "timestamp": "soon" if is_bad else START_S + (self.seconds or 0),
            "session": "" if is_bad else self.session,
        }
        return {name: every[name] for name in names}


@dataclass(frozen=True)
class Table:
    """Rows and how they are written. Without a clock, the sessions are those of the source."""

    rows: list[Row]
    kind: str
    has_clock: bool
    has_shares: bool
    policies: dict[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        shares = ["played", "duration"] if self.has_shares else []
        return ["user", "timestamp", "track", *shares] if self.has_clock else ["track", *shares, "session"]

    def write(self, folder: Path) -> Path:
        cells = [row.cells(self.names) for row in self.rows]
        path = folder / f"plays.{self.kind}"
        if self.kind == "csv":
            lines = [",".join("" if value is None else str(value) for value in row.values()) for row in cells]
            path.write_text("\n".join([",".join(self.names), *lines]) + "\n")
        else:
            path = folder / "plays.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in cells))
        if self.kind == "parquet":
            types = {name: "DOUBLE" if name == "played" else "VARCHAR" for name in self.names}
            source = f"read_json('{path}', format = 'newline_delimited', columns = {types})"
            duckdb.execute(f"COPY (FROM {source}) TO '{folder}/plays.parquet'")
            path = folder / "plays.parquet"
        return path

    def built(self, folder: Path) -> PairDataModule:
        columns: dict[str, str | None] = dict.fromkeys(("user", "timestamp", "played", "duration", "session"))
        columns |= {name: name for name in self.names}
        return read_datamodule(
            self.write(folder),
            folder,
            source="table",
            columns=columns,
            units={"timestamp": "s", "played": "s", "duration": "s"},
            policies={**NOTHING, **self.policies},
            split="time" if self.has_clock else "session",
            session_gap_minutes=GAP_S / 60,
            max_rejected=1.0,
        )


NOTHING: dict[str, Any] = {"until": None, "since": None, "plays_a_day": None, "duplicates": "keep", "min_seconds": 0}
NOTHING |= {"repeats": "keep", "min_count": 1}

Session = tuple[str, list[Row]]


def later(days: float) -> str:
    """The day (UTC) so long after the start."""
    return f"{datetime.fromtimestamp(START_S + 86_400 * days, UTC):%Y-%m-%d}"


def day_of(row: Row) -> str:
    return later((row.seconds or 0) / 86_400)


def oracle(table: Table) -> tuple[Counter[str], list[Session], int]:
    """What each rule drops, the sessions before `min_count`, and the number of rejected rows."""
    policies, dropped = {**NOTHING, **table.policies}, Counter[str]()
    num_rejected, kept = 0, []
    for row in table.rows:
        if table.has_shares and row.played is not None and row.played < policies["min_seconds"]:
            dropped["min_seconds"] += 1  # what a rule leaves out is not checked
        elif row.seconds is None:
            num_rejected += 1
        elif table.has_clock and policies["until"] is not None and day_of(row) > policies["until"]:
            dropped["until"] += 1
        elif table.has_clock and policies["since"] is not None and day_of(row) < policies["since"]:
            dropped["since"] += 1
        else:
            kept.append(row)
    users: dict[str, list[Row]] = {}
    for row in kept:
        users.setdefault(row.user if table.has_clock else row.session, []).append(row)
    sessions: list[Session] = []
    for user, rows in users.items():
        if table.has_clock:
            rows = sorted(rows, key=lambda row: row.seconds or 0)
        seen: set[tuple[Any, ...]] = set()
        once: list[Row] = []
        for row in rows:
            share = None if row.played is None or not table.has_shares else min(row.played, 100.0)
            key = (row.seconds, row.track, share)
            if table.has_clock and policies["duplicates"] == "drop" and key in seen:
                dropped["duplicates"] += 1
                continue
            seen.add(key)
            once.append(row)
        busiest = max(Counter(map(day_of, once)).values())
        if table.has_clock and policies["plays_a_day"] is not None and busiest >= policies["plays_a_day"]:
            dropped["plays_a_day"] += len(once)
            continue
        current: list[Row] = []
        for row in once:
            if table.has_clock and current and (row.seconds or 0) - (current[-1].seconds or 0) > GAP_S:
                sessions.append((user, current))
                current = []
            current.append(row)
        sessions.append((user, current))
    if policies["repeats"] == "drop":
        shorter = []
        for user, rows in sessions:
            first = [row for place, row in enumerate(rows) if row.track not in [other.track for other in rows[:place]]]
            dropped["repeats"] += len(rows) - len(first)
            shorter.append((user, first))
        sessions = shorter
    return dropped, sessions, num_rejected


def enough(num: int = 12) -> list[Row]:
    """Sessions of two different tracks that no policy of these tests leaves out, so that each split has pairs."""
    return [
        Row(f"u{n % 3}", 10_000_000 * (n + 1) + 300 * place, 90 + place, 50.0, f"p{n}")
        for n in range(num)
        for place in range(2)
    ]


def rows() -> st.SearchStrategy[list[Row]]:
    row = st.builds(
        Row,
        user=st.sampled_from(["u0", "u1", "7", "007"]),
        seconds=st.one_of(st.none(), st.integers(0, 12).map(lambda step: step * 600), st.just(3600)),
        track=st.integers(0, 4),
        played=st.one_of(st.none(), st.sampled_from([0.0, 5.0, 29.9, 30.0, 100.0, 250.0])),
        session=st.sampled_from(["a", "b", "7"]),
    )
    return st.lists(row, max_size=30)


POLICIES = {
    "duplicates": st.sampled_from(["keep", "drop"]),
    "min_seconds": st.sampled_from([0, 5, 30]),
    "repeats": st.sampled_from(["keep", "drop"]),
    "min_count": st.sampled_from([1, 2, 3]),
}


@st.composite
def tables(draw: st.DrawFn) -> Table:
    has_clock, has_shares = draw(st.booleans()), draw(st.booleans())
    policies = {name: draw(values) for name, values in POLICIES.items()}
    if not has_shares:
        policies["min_seconds"] = 0
    own = draw(rows())
    if not has_clock:
        own = [row if row.seconds is None else replace(row, seconds=0) for row in own]
    mixed = draw(st.permutations(range(len(own))))
    return Table(
        rows=[own[place] for place in mixed] + enough(),
        kind=draw(st.sampled_from(["csv", "jsonl", "parquet"])),
        has_clock=has_clock,
        has_shares=has_shares,
        policies=policies,
    )


def check_law(table: Table, folder: Path) -> None:
    datamodule = table.built(folder)
    dropped, sessions, num_rejected = oracle(table)
    reading, found = datamodule.reading, datamodule.dropped
    assert reading.num_rows == len(table.rows)
    assert reading.num_rejected == num_rejected
    events_only = {name: num for name, num in found.items() if name != "min_count" and num}
    assert events_only == {name: num for name, num in dropped.items() if num}
    num_events = len(datamodule.sessions.listens.track)
    assert num_events == sum(len(rows) for _, rows in sessions) - found.get("min_count", 0)

    num_pairs = sum(len(datamodule.pairs[name]) for name in SPLITS)
    num_firsts = len(datamodule.sessions)
    assert reading.num_rows == num_pairs + num_firsts + num_rejected + sum(found.values())

    ids = datamodule.catalog.track_ids
    by_session: dict[int, list[int]] = {}
    listens = datamodule.sessions.listens
    for session, track in zip(listens.session.tolist(), listens.track.tolist(), strict=True):
        by_session.setdefault(session, []).append(int(ids[track]))
    if {**NOTHING, **table.policies}["min_count"] == 1:
        assert Counter(map(tuple, by_session.values())) == Counter(
            tuple(row.track for row in rows) for _, rows in sessions
        )
    pairs = Counter(
        (int(ids[a]), int(ids[b]))
        for name in SPLITS
        for a, b in zip(datamodule.pairs[name].previous, datamodule.pairs[name].following, strict=True)
    )
    assert pairs == Counter(pair for tracks in by_session.values() for pair in itertools.pairwise(tracks))


MANY = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


@MANY
@given(table=tables())
def test_every_row_is_a_pair_a_first_event_rejected_or_dropped(
    table: Table, tmp_path_factory: pytest.TempPathFactory
) -> None:
    check_law(table, tmp_path_factory.mktemp("law"))


def short(*parts: tuple[str, int, int, float | None]) -> list[Row]:
    """Rows of (user, minutes, track, played)."""
    return [Row(user, 60 * minutes, track, played, user) for user, minutes, track, played in parts]


ALONE: dict[str, tuple[dict[str, Any], list[Row], dict[str, int]]] = {
    "repeats": ({"repeats": "drop"}, short(*(("a", n, n % 2, 50) for n in range(5)), ("a", 99, 0, 50)), {"repeats": 3}),
    "until": (
        {"until": later(1401)},
        short(*(("a", 1440 * (1400 + n) + m, n, 50) for n in range(4) for m in (0, 1))),
        {"until": 4},
    ),
    "since": ({"since": later(1)}, short(*(("a", 1440 * n, n, 50) for n in range(4))), {"since": 1}),
    "plays_a_day": (
        {"plays_a_day": 4},
        short(*(("a", n, n, 50) for n in range(4)), *(("b", 400 * n, n, 50) for n in range(4)), ("a", 3000, 1, 50)),
        {"plays_a_day": 5},
    ),
    "min_count": ({"min_count": 2}, short(("a", 0, 1, 50), ("a", 1, 2, 50), ("a", 2, 1, 50)), {"min_count": 1}),
}
"""Of each policy: its value, rows, and how many of these it leaves out."""


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_each_policy_alone_leaves_out_its_rows_and_no_others(name: str, kind: str, tmp_path: Path) -> None:
    policies, own, expected = ALONE[name]
    table = Table(rows=own + enough(), kind=kind, has_clock=True, has_shares=True, policies=policies)
    check_law(table, tmp_path)
    found = table.built(tmp_path).dropped
    assert {rule: num for rule, num in found.items() if num} == expected
