"""The eight warnings: what is said, how much of it there is, and what to type."""

import re
from dataclasses import replace
from typing import Any

import pytest

from tests.datamodules.describing.building import (
    DAY,
    MINUTE,
    START,
    Play,
    data_of,
    reading_of,
    usual_plays,
    warnings_of,
)

USUAL = usual_plays()
UNKNOWN = [play._replace(share=float("nan")) for play in USUAL]


def shifted(change: Any) -> list[Play]:
    return [play._replace(time=round(change(play.time))) for play in USUAL]


def read_with(num_rows: int = len(USUAL), dropped: dict[str, int] | None = None, **changes: Any) -> Any:
    return data_of(USUAL, reading=reading_of(num_rows, **changes), dropped=dropped or {})


FOUND: dict[str, tuple[Any, str, str, str]] = {
    "rows that were rejected": (
        read_with(num_rows=200, rejected={"no time": 10, "no track": 90}),
        "rejected",
        r"50 % of the rows were rejected: no track \(90\); no time \(10\)",
        "datamodule.max_rejected=0.53",
    ),
    "a policy": (
        read_with(num_rows=200, dropped={"min_count": 50, "repeats": 2}),
        "left_out",
        "the rule min_count left out 50 events, 25 % of the rows",
        "change datamodule.policies.min_count",
    ),
    "a rule of the source": (
        read_with(dropped={"podcasts": 50, "duplicates": 0}),
        "left_out",
        "the rule podcasts left out 50 events, 50 % of the rows",
        "change datamodule.sql.drop.podcasts",
    ),
    "seconds as milliseconds": (
        data_of(shifted(lambda time: time / 1000)),
        "unit",
        "the times look like seconds that were read as milliseconds: from 1970-01-20 16:13:20",
        "datamodule.units.timestamp=s",
    ),
    "ties": (
        data_of(shifted(lambda time: time // (10 * MINUTE) * 10 * MINUTE)),
        "ties",
        r"6\d % of the plays have the same time as an earlier play of their listener",
        "in the order of listening",
    ),
    "ids that number the rows": (
        data_of([play._replace(listener=number) for number, play in enumerate(USUAL)]),
        "users",
        "100 % of the 100 users have one play only: their ids look like numbers of rows",
        "datamodule.columns.user",
    ),
    "one session each": (
        data_of([play for play in USUAL if (play.time - START) // DAY == play.listener % 4]),
        "users",
        "all 5 users have one session only, although the plays span 3 days",
        "datamodule.session_gap_minutes",
    ),
    "no user": (
        data_of([play._replace(listener=0) for play in USUAL], reading=reading_of(100, columns={}, guessed=["title"])),
        "users",
        "no column is the user: all plays are of one listener",
        "datamodule.columns.user",
    ),
    "a machine": (
        data_of([*USUAL, *(Play(5, START + n * MINUTE // 2, n % 40, n / 1500) for n in range(1500))]),
        "machines",
        "1 listener with 1,000 plays or more on one day: 94 % of the plays",
        "if they are several people, name the column of the listener: datamodule.columns.user; "
        "datamodule.policies.plays_a_day=1000",
    ),
    "one share": (
        data_of([play._replace(share=1.0) for play in USUAL]),
        "shares",
        "100 % of the known shares played are 1: there is nothing to predict",
        "recipe=playlists",
    ),
    "no share": (data_of(UNKNOWN), "shares", "the share played is unknown for every play", "recipe=playlists"),
    "another unit of the time played": (
        data_of([play._replace(share=play.share / 1000) for play in USUAL], reading=reading_of(100, share="played")),
        "shares",
        r"the share played is 0.0005\d* on average",
        "datamodule.units.played",
    ),
}
"""Data, the warning that they have, what it says, and a part of the remedy."""


@pytest.mark.parametrize("name", FOUND)
def test_what_reaches_its_threshold_is_said_with_a_remedy(name: str) -> None:
    data, of, says, remedy = FOUND[name]
    [warning] = [warning for warning in warnings_of(data) if warning.name == of]
    assert re.match(says, warning.says)
    assert remedy in warning.remedy


def test_a_log_that_nothing_is_wrong_with_has_no_warning() -> None:
    assert warnings_of(data_of(USUAL)) == []


def test_plays_of_the_future_are_warned_of_if_the_clock_left_them_out() -> None:
    data = read_with(dropped={"until": 30})
    [warning] = warnings_of(data, "2026-05-20")
    assert warning.says == "30 plays (30 %) are later than today, 2026-05-20, and were left out"
    assert "datamodule.policies.until=2026-05-20 reads the same plays on another day" in warning.remedy
    assert [warning.name for warning in warnings_of(data)] == ["left_out"]  # the user named a day


def test_times_that_count_from_the_start_of_the_data_are_no_other_unit() -> None:
    data = data_of(shifted(lambda time: time - START))
    assert warnings_of(data) == []
    in_seconds = replace(data.reading, units={"timestamp": "s"})
    assert warnings_of(data_of(shifted(lambda time: (time - START) * 10), reading=in_seconds)) == []


def test_that_listeners_said_no_is_no_fault_of_the_data() -> None:
    assert warnings_of(read_with(num_rows=200, dropped={"unremembered": 190})) == []


def test_playlists_have_no_warnings_about_time_sessions_or_unknown_shares() -> None:
    assert warnings_of(data_of(UNKNOWN, has_clock=False, reading=reading_of(100, share="none"))) == []
