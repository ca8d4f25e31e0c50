"""What is odd in a log is counted, in `describe.py` and in `train.py`, and has a switch; the rest is as without it."""

import re
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from segue.datamodules.describing.measures import material_of
from segue.datamodules.describing.odd_findings import LABELS
from segue.datamodules.pair_datamodule import PairDataModule
from segue.errors import InputError
from tests.conftest import build_datamodule
from tests.datamodules.describing.building import warnings_of
from tests.datamodules.sharding import read_shards, shards_of

TODAY = datetime(2026, 5, 20, tzinfo=UTC)
NOW = TODAY + timedelta(hours=10)
START = TODAY - timedelta(days=40)
LINE = re.compile(rf"({'|'.join(set(LABELS.values()))}) ")


class Row(NamedTuple):
    user: str
    at: datetime
    track: int
    has_artist: bool = True


def usual() -> list[Row]:
    """Twelve listeners, each with a session of six plays on most days, in the daytime."""
    return [
        Row(f"u{user}", START + timedelta(days=day, hours=8 + (user * 5 + day) % 15, minutes=4 * nth), user + day + nth)
        for day in range(39)
        for user in range(12)
        for nth in range(6)
        if (day + user) % 3
    ]


def write(folder: Path, rows: Iterable[Row], zone: str = "Z") -> Path:
    lines = ["user,at,title,artist"]
    for row in rows:
        at = f"{row.at:%Y-%m-%dT%H:%M:%S}{zone}"
        track = row.track % 40
        title, artist = f"Title {track}", f"Artist {track // 2}"
        lines.append(f"{row.user},{at},{title},{artist}" if row.has_artist else f"{row.user},{at},{title} of nobody,")
    folder.mkdir(exist_ok=True)
    (folder / "plays.csv").write_text("\n".join(lines) + "\n")
    return folder / "plays.csv"


def read(path: Path, **policies: Any) -> PairDataModule:
    columns = {"user": "user", "timestamp": "at", "title": "title", "artist": "artist"}
    datamodule = build_datamodule(
        path, path.parent, source="table", columns=columns, pairing="consecutive", split="time", policies=policies
    )
    datamodule.setup()
    return datamodule


def odd_lines(datamodule: Any) -> list[str]:
    return [line for line in datamodule.remarks() if LINE.match(line)]


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", NOW.timestamp)


def later(hours: float) -> list[Row]:
    """Plays of the future, the first at the beginning of tomorrow."""
    return [Row("u1", TODAY + timedelta(days=1, hours=hours, minutes=3 * nth), nth) for nth in range(30)]


EARLY = [Row("u2", datetime(1980, 1, 1, tzinfo=UTC) + timedelta(minutes=3 * nth), nth) for nth in range(20)]
NAMELESS = [row._replace(has_artist=False) for row in usual()[::9]]
MACHINE = [Row("bot", START + timedelta(days=3, seconds=70 * nth), nth) for nth in range(1100)]
OF_DAYS = [Row("z-radio", START + timedelta(days=5, minutes=4 * nth), nth) for nth in range(700)]

ODD: dict[str, tuple[list[Row], str, str, int]] = {
    "future_plays": (
        later(24 * 90),
        r"times +30 plays are of the future, later than [\d-]+, and were left out; the last is of [\d-]+ 01:27 UTC; "
        rf"check datamodule.units.timestamp; datamodule.policies.until={TODAY:%Y-%m-%d} reads the same plays",
        "until",
        30,
    ),
    "early_plays": (
        EARLY,
        r"times +20 plays \(1.1 %\) are before 1990, as by a clock that was never set; datamodule.policies.since=1990",
        "since",
        20,
    ),
    "nameless_plays": (
        NAMELESS,
        r"artists +208 plays \(10 %\) are of tracks without an artist, each an artist of its own; "
        "datamodule.policies.nameless=drop leaves them out",
        "nameless",
        208,
    ),
    "machines": (
        MACHINE,
        r"machines +1 listener with 1,000 plays or more on one day, as by a program or a shared account, has 1,100 "
        r"plays \(37 %\); datamodule.policies.plays_a_day=1000 leaves them out",
        "plays_a_day",
        1100,
    ),
    "long_sessions": (
        OF_DAYS,
        r"sessions +1 session of more than 24 hours without a pause has 700 plays \(27 %\); "
        "datamodule.policies.longest_hours=24 leaves them out",
        "longest_hours",
        700,
    ),
}
"""What is added to a usual log, what is said of it, the policy that leaves it out, and how many plays that are."""
SWITCH = {"until": "now", "since": "1990-01-01", "nameless": "drop", "plays_a_day": 1000, "longest_hours": 24}


def test_a_usual_log_has_no_line(tmp_path: Path) -> None:
    for zone in ("Z", ""):
        assert odd_lines(read(write(tmp_path, usual(), zone))) == []


@pytest.mark.parametrize("name", ODD)
def test_what_is_odd_is_counted_with_a_remedy(tmp_path: Path, name: str) -> None:
    more, says, *_ = ODD[name]
    datamodule = read(write(tmp_path, [*usual(), *more]))
    [line] = [line for line in odd_lines(datamodule) if not (name == "machines" and line.startswith("sessions"))]
    assert re.match(says, line)
    [warning] = [warning for warning in warnings_of(material_of(datamodule)) if warning.name == name]
    assert line.endswith(f"{warning.says}; {warning.remedy}")
    assert name not in {warning.name for warning in warnings_of(material_of(datamodule), **{name: None})}


@pytest.mark.parametrize("name", ODD)
def test_its_switch_reads_the_log_as_if_it_was_not_there(tmp_path: Path, name: str) -> None:
    more, _, policy, num = ODD[name]
    is_part = name == "nameless_plays"
    plain = read(write(tmp_path / "plain", usual()))
    datamodule = read(write(tmp_path / "odd", [*usual(), *more]), **{policy: SWITCH[policy]})
    assert datamodule.dropped[policy] == num
    assert re.search(rf"\b{num:,} by {policy}\b", "\n".join(datamodule.remarks()))
    for split in ("train", "val", "test"):
        assert len(datamodule.pairs[split]) == len(plain.pairs[split])
    if not is_part:  # the tracks of nobody stay in the catalogue
        assert datamodule.digest() == plain.digest()


def test_plays_of_the_future_are_never_in_the_test_unless_this_is_wanted(tmp_path: Path) -> None:
    path = write(tmp_path, [*usual(), *later(24 * 90)])
    now = NOW.timestamp() * 1000
    assert read(path).sessions.timestamp.max() < now
    kept = read(path, until=None)
    assert kept.sessions.timestamp.max() > now
    [line] = odd_lines(kept)
    assert re.match(r"times +30 plays \(1.6 %\) are later than the clock of this machine; check datamodule.units", line)
    assert "datamodule.policies.until=now leaves out those after today" in line


def test_with_the_day_that_is_printed_another_day_reads_the_same(tmp_path: Path) -> None:
    path = write(tmp_path, [*usual(), *later(0)])
    first = read(path)
    assert first.last_day == f"{TODAY:%Y-%m-%d}"
    again = read(path, until=first.last_day)
    assert again.digest() == first.digest()
    assert (again.last_day, odd_lines(again)) == (None, [])  # the user knows
    before = read(path, until=f"{START + timedelta(days=9):%Y-%m-%d}")
    assert before.sessions.timestamp.max() < (START + timedelta(days=10)).timestamp() * 1000
    assert read(write(tmp_path, usual())).last_day is None


@pytest.mark.parametrize(
    ("hour", "zone"), [(10, "datamodule.zone=<such as Asia/Tokyo>"), (20, "datamodule.zone=Etc/GMT-10")]
)
def test_a_clock_that_is_hours_before_utc_is_a_zone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hour: int, zone: str
) -> None:
    now = TODAY + timedelta(hours=hour)
    monkeypatch.setattr(time, "time", now.timestamp)
    rows = [*usual(), Row("u1", now + timedelta(hours=9.5), 1), Row("u1", now + timedelta(hours=8), 2)]
    assert any(zone in line for line in odd_lines(read(write(tmp_path, rows, ""))))
    assert all("zone" not in line for line in odd_lines(read(write(tmp_path, rows, "Z"))))


@pytest.mark.parametrize(("hours", "zone"), [(9, "GMT-"), (-9, "GMT+")])
def test_a_night_at_daytime_is_the_clock_of_another_zone(tmp_path: Path, hours: int, zone: str) -> None:
    rows = [row._replace(at=row.at + timedelta(hours=hours)) for row in usual()]
    [line] = odd_lines(read(write(tmp_path, rows, "")))
    assert re.match(r"times +people play least from \d\d:00 to \d\d:00, (8|9|10) hours from the night", line)
    assert re.search(rf"datamodule.zone=Etc/{re.escape(zone)}(8|9|10)$", line)
    assert odd_lines(read(write(tmp_path, rows, "Z"))) == []  # such times are right whatever the zone of the listeners


def test_a_log_whose_times_are_all_early_is_of_another_unit(tmp_path: Path) -> None:
    rows = [row._replace(at=datetime.fromtimestamp(row.at.timestamp() / 1000, UTC)) for row in usual()]
    [line] = [line for line in odd_lines(read(write(tmp_path, rows))) if line.startswith("times")]
    assert "all plays are before 1990" in line
    assert "datamodule.units.timestamp=s" in line
    assert not any("1990" in line for line in odd_lines(read(write(tmp_path, rows), since="1970-01-01")))


def test_shards_say_what_the_source_says(tmp_path: Path) -> None:
    rows = [row for more, *_ in ODD.values() for row in more]
    path = write(tmp_path / "odd", [*usual(), *rows])
    source = read(path)
    manifest = shards_of(read(path), tmp_path / "shards", recipe="playlists")
    shards = read_shards(tmp_path / "shards", recipe="playlists")
    shards.setup()
    assert odd_lines(shards) == odd_lines(source)
    assert len(odd_lines(source)) == len(ODD)
    assert shards.dropped == source.dropped
    assert manifest.odd == source.sessions.odd


def test_rows_that_are_invalid_are_rejected_and_not_left_out(tmp_path: Path) -> None:
    path = write(tmp_path, usual())
    path.write_text(path.read_text() + f"u1,2150-01-01T00:00:00Z,Title 1,Artist 0\n,{TODAY:%Y-%m-%d}T10:00:00Z,T,A\n")
    datamodule = read(path)
    assert datamodule.reading.num_rejected == 2
    assert datamodule.dropped["until"] == 0


@pytest.mark.parametrize(
    ("policy", "line"),
    [
        ({"until": "soon"}, "datamodule.policies.until must be a day such as 2026-01-31, now or null, got soon"),
        ({"since": "now"}, "datamodule.policies.since must be a day such as 2026-01-31 or null, got now"),
        ({"plays_a_day": 0}, "datamodule.policies.plays_a_day must be a whole number of at least 1 or null, got 0"),
    ],
)
def test_what_is_no_day_is_refused(tmp_path: Path, policy: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError, match=re.escape(line)):
        read(write(tmp_path, usual()), **policy)


def test_a_log_of_the_future_alone_is_refused_with_the_option(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no events: of 30 rows .* 30 are left out; check .*datamodule.policies"):
        read(write(tmp_path, later(24)))
