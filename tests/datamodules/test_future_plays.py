"""Plays of the future are left out by the clock of the machine, which is said, and another day reads the same."""

import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from segue.datamodules.pair_datamodule import PairDataModule
from segue.errors import InputError
from tests.conftest import read_datamodule

TODAY = datetime(2026, 5, 20, tzinfo=UTC)
NOW = TODAY + timedelta(hours=10)


def row(at: datetime, nth: int) -> str:
    return f"u{nth % 2},{at:%Y-%m-%dT%H:%M:%S}Z,Title {nth % 40},Artist"


def write(folder: Path, *, later: float | None = None) -> Path:
    """Two sessions in the morning of each of forty days, and plays from so many days after tomorrow began."""
    mornings = [TODAY + timedelta(days=day, hours=8) for day in range(-40, 0)]
    lines = [row(morning + timedelta(minutes=4 * nth), nth) for morning in mornings for nth in range(12)]
    if later is not None:
        lines += [row(TODAY + timedelta(days=1 + later, minutes=3 * nth), nth) for nth in range(30)]
    (folder / "plays.csv").write_text("\n".join(["user,at,title,artist", *lines]) + "\n")
    return folder / "plays.csv"


def read(path: Path, **policies: Any) -> PairDataModule:
    columns = {"user": "user", "timestamp": "at", "title": "title", "artist": "artist"}
    given = {"columns": columns, "pairing": "consecutive", "split": "time", "policies": policies}
    return read_datamodule(path, path.parent, source="table", **given)


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", NOW.timestamp)


def test_plays_of_the_future_are_never_in_the_test_unless_this_is_wanted(tmp_path: Path) -> None:
    path, now = write(tmp_path, later=90), NOW.timestamp() * 1000
    found = read(path)
    assert found.sessions.timestamp.max() < now
    [line] = [line for line in found.remarks() if line.startswith("warning")]
    assert line.startswith("warning      30 plays (5.9 %) are later than today, 2026-05-20, and were left out; check ")
    assert read(path, until=None).sessions.timestamp.max() > now


def test_with_the_day_that_is_printed_another_day_reads_the_same(tmp_path: Path) -> None:
    path = write(tmp_path, later=0)
    first = read(path)
    assert first.source.read_on == "2026-05-20"
    again = read(path, until=first.source.read_on)
    assert again.digest() == first.digest()
    assert again.source.read_on is None  # the user knows
    assert not [line for line in again.remarks() if line.startswith("warning")]
    assert not read(write(tmp_path)).dropped.get("until")


def test_rows_that_are_invalid_are_rejected_and_not_left_out(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_text(path.read_text() + f"u1,2150-01-01T00:00:00Z,Title 1,A\n,{TODAY:%Y-%m-%d}T10:00:00Z,T,A\n")
    datamodule = read(path)
    assert datamodule.reading.num_rejected == 2
    assert datamodule.dropped["until"] == 0


@pytest.mark.parametrize(
    ("policy", "line"),
    [
        ({"until": "soon"}, "datamodule.policies.until must be a day such as 2026-01-31, now or null, got soon"),
        ({"since": "now"}, "datamodule.policies.since must be a day such as 2026-01-31 or null, got now"),
    ],
)
def test_what_is_no_day_is_refused(tmp_path: Path, policy: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError, match=re.escape(line)):
        read(write(tmp_path), **policy)
