"""Which column has which role: by names of many languages, by values, and never an id that looks like a time."""

import csv
import io
import json
import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from segue.datamodules.reading.column_roles import Roles
from segue.datamodules.reading.table import look_at
from segue.errors import InputError
from tests.conftest import read_datamodule, settings_of
from tests.datamodules.generated_exports import LANGUAGES, ROLES, START, WRITTEN, Row, Write, iso, local, plays
from tests.datamodules.reading import read

Of = Callable[[int, random.Random], object]


def table(names: Sequence[str], *, write: Write = iso, **more: Of) -> list[Row]:
    """The plays as rows with these names, and further columns."""
    rng = random.Random(2)
    return [
        {**dict(zip(names, (user, write(time), *rest), strict=True)), **{name: of(n, rng) for name, of in more.items()}}
        for n, (user, time, *rest, _) in enumerate(plays())
    ]


def as_csv(path: Path, rows: Sequence[Row], *, delimiter: str = ",") -> Path:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(out.getvalue(), encoding="utf-8")
    return path


def roles_of(folder: Path, rows: Sequence[Row], *, delimiter: str = ",", **changes: Any) -> Roles:
    return look_at(str(as_csv(folder / "plays.csv", rows, delimiter=delimiter)), settings_of("table", changes)).roles


def times_of(folder: Path, rows: Sequence[Row], **changes: Any) -> list[int]:
    log = read("table", as_csv(folder / "plays.csv", rows, delimiter=";"), max_rejected=0.0, changes=changes)
    return sorted(row[1] for row in log.rows)


USUAL = ("user", "x7", "title", "artist", "played", "duration")
TIMES = sorted(int(time.timestamp() * 1000) for _, time, *_ in plays())


@pytest.mark.parametrize("language", LANGUAGES)
def test_names_of_ten_languages_are_found(tmp_path: Path, language: str) -> None:
    roles = roles_of(tmp_path, table(LANGUAGES[language]))
    assert roles.mapping == dict(zip(ROLES, LANGUAGES[language], strict=True))


@pytest.mark.parametrize(("way", "name"), [(next(iter(WRITTEN)), "when"), *((way, "x7") for way in WRITTEN)])
def test_times_are_read_however_they_are_written(tmp_path: Path, way: str, name: str) -> None:
    write, unit = WRITTEN[way]
    rows = table(("user", name, "title", "artist", "played", "duration"), write=write)
    path = as_csv(tmp_path / "plays.csv", rows, delimiter=";")
    plan = look_at(str(path), settings_of("table"))
    assert plan.units["timestamp"] == unit
    assert plan.roles.evidence["timestamp"] == f"by its {'name' if name == 'when' else 'values'}: 300 of 300 are times"
    assert times_of(tmp_path, rows) == pytest.approx(TIMES, abs=2)


def test_local_times_follow_daylight_saving(tmp_path: Path) -> None:
    start = datetime(2026, 3, 28, 20, tzinfo=UTC)  # on 29 March clocks go from 2 to 3
    moments = [start + timedelta(minutes=7 * n) for n in range(120)]
    write = local("%d.%m.%Y %H:%M", "Europe/Berlin")
    rows = [{"Datum": write(moment), "song": f"S{n % 9}"} for n, moment in enumerate(moments)]
    options = {"zone": "Europe/Berlin", "units": {"timestamp": "%d.%m.%Y %H:%M"}}
    assert times_of(tmp_path, rows, **options) == [int(moment.timestamp() * 1000) for moment in moments]


def test_seconds_and_milliseconds_in_one_column_are_refused(tmp_path: Path) -> None:
    rows = table(("user", "ts", "title", "artist", "played", "duration"), write=lambda time: int(time.timestamp()))
    with pytest.raises(InputError, match="cannot see how the times in column ts are written"):
        roles_of(tmp_path, [row | {"ts": row["ts"] * 1000} if n % 7 else row for n, row in enumerate(rows)])


def test_days_beside_times_of_day_are_refused_with_what_joins_them(tmp_path: Path) -> None:
    rows = table(("user", "x7", "title", "artist", "played", "duration"), write=lambda time: time)
    rows = [{"date": f"{row['x7']:%Y-%m-%d}", "time": f"{row.pop('x7'):%H:%M:%S}", **row} for row in rows]
    with pytest.raises(InputError, match=r"column date has days and column time times of day; make one column of both"):
        roles_of(tmp_path, rows)
    joined = {"columns": {"timestamp": "at"}, "sql": {"columns": {"at": '"date" || \' \' || "time"'}}}
    assert times_of(tmp_path, rows, **joined) == TIMES
    assert roles_of(tmp_path, rows, columns={"timestamp": "date"}).mapping["timestamp"] == "date"


@pytest.mark.parametrize("name", ["End time", "Ende"])
def test_the_end_of_a_play_is_a_time_with_a_remark(tmp_path: Path, name: str) -> None:
    path = as_csv(tmp_path / "plays.csv", table(("user", name, "title", "artist", "played", "duration")))
    says = f"times        {name} is the end of a play, by its name, and is used as its start; datamodule.clock=end"
    assert [line.startswith(says) for line in read("table", path).reading.remarks] == [True]
    log = read("table", path, changes={"clock": "end"})
    assert (log.reading.remarks, log.reading.columns["timestamp"]) == ([], name)
    begun = table(("user", "started_at", "title", "artist", "played", "duration"))
    rows = [row | {name: iso(START + timedelta(hours=n))} for n, row in enumerate(begun)]
    assert roles_of(tmp_path, rows).mapping["timestamp"] == "started_at"


NO_TIMES: dict[str, Of] = {
    "random ids": lambda _, rng: rng.randrange(10**9, 10**10),
    "row numbers from far": lambda n, _: 1_600_000_000 + n,
    "sorted phone numbers": lambda n, _: 1_510_000_000 + 900_000 * n,
    "many phone numbers": lambda _, rng: rng.randint(1_510_000_000, 1_799_999_999),
    "days": lambda n, _: 20_260_000 + 101 + n // 30,
}


@pytest.mark.parametrize("what", NO_TIMES)
def test_ids_that_look_like_times_are_not_taken(tmp_path: Path, what: str) -> None:
    rows = [{"x1": NO_TIMES[what](n, random.Random(n)), "title": f"S{n % 30}", "artist": "A"} for n in range(300)]
    roles = roles_of(tmp_path, rows)
    assert "timestamp" not in roles.mapping
    assert not (what.startswith("row numbers") and roles.alternatives)


def test_a_date_of_the_listener_or_of_the_track_is_no_time_of_a_play(tmp_path: Path) -> None:
    rows = table(USUAL)
    for row in rows:
        row["born"] = f"1990-0{1 + int(row['user'][1:])}-01 08:00:00"
        row["out"] = f"20{10 + int(row['title'][5:]) // 4}-01-01 00:00:00"
        del row["x7"]
    roles = roles_of(tmp_path, rows)
    assert "timestamp" not in roles.mapping
    assert not roles.alternatives
    assert roles.holds["born"] == "300 of 300 are times"


def test_times_in_no_order_are_not_taken_but_named(tmp_path: Path) -> None:
    rows = table(USUAL, write=lambda time: int(time.timestamp()))
    for n, row in enumerate(rows):
        row["user"] = f"L{n // 6}"
    random.Random(3).shuffle(rows)
    path = as_csv(tmp_path / "plays.csv", rows)
    datamodule = read_datamodule(path, tmp_path, source="table", split="auto")
    assert "timestamp" not in datamodule.reading.columns
    [line] = [line for line in datamodule.remarks() if line.startswith("times")]
    assert line == (
        "times        x7 (300 of 300 are times) could be the timestamp; no column is the timestamp; "
        "datamodule.columns.timestamp=x7 uses it"
    )


def test_of_two_columns_for_a_role_both_are_named_with_the_switch(tmp_path: Path) -> None:
    rows = table(("user_id", "ts", "title", "artist", "played", "duration"), user_name=lambda n, _: f"N{n % 5}")
    for row in rows:
        row["End time"] = row["ts"].replace("2026", "2025")
    datamodule = read_datamodule(as_csv(tmp_path / "plays.csv", rows), tmp_path, source="table")
    lines = list(datamodule.remarks())
    assert (
        "columns      user_name could be the user; user=user_id is used; datamodule.columns.user=user_name uses it"
    ) in lines
    assert any("timestamp=ts is used; 'datamodule.columns.timestamp=\"End time\"' uses it" in line for line in lines)
    assert "not used     user_name, End time" in lines
    reading = look_at(str(tmp_path / "plays.csv"), settings_of("table", {"columns": {"timestamp": "End time"}})).roles
    assert reading.mapping["timestamp"] == "End time"


def test_a_name_whose_values_do_not_fit_gives_way(tmp_path: Path) -> None:
    rows = table(USUAL, date=lambda n, _: ["Monday", "Tuesday"][n % 2])
    roles = roles_of(tmp_path, rows)
    assert roles.mapping["timestamp"] == "x7"
    for row in rows:
        del row["x7"]
    with pytest.raises(InputError, match="cannot see how the times in column date are written"):
        roles_of(tmp_path, rows)


def test_spreadsheets_have_decimal_commas_and_durations_of_minutes(tmp_path: Path) -> None:
    rows = [{"Datum": f"2026-11-03 14:{n:02}", "Titel": f"S{n % 7}", "Anteil": ["0,25", "1"][n % 2]} for n in range(60)]
    log = read("table", as_csv(tmp_path / "plays.csv", rows, delimiter=";"), max_rejected=0.0)
    assert {share for *_, share, _ in log.rows} == {0.25, 1.0}
    rows = [{"Datum": row["Datum"], "Titel": row["Titel"], "Spielzeit": "1:30", "Dauer": "0:03:00"} for row in rows]
    log = read("table", as_csv(tmp_path / "plays.csv", rows, delimiter=";"), max_rejected=0.0)
    assert {share for *_, share, _ in log.rows} == {0.5}
    assert log.reading.units["played"] == "hms"


def test_the_history_of_youtube_music_is_read(tmp_path: Path) -> None:
    rows = [
        {
            "header": "YouTube Music",
            "title": f"Watched Song {n % 7}",
            "titleUrl": f"https://music.youtube.com/watch?v=abc{n % 7}",
            "subtitles": [{"name": f"Band {n % 3} - Topic", "url": "https://www.youtube.com/channel/x"}],
            "time": f"2026-01-05T10:{n:02}:00.123Z",
            "products": ["YouTube"],
        }
        for n in range(60)
    ]
    (tmp_path / "watch-history.json").write_text(json.dumps(rows), encoding="utf-8")
    log = read("table", tmp_path / "watch-history.json", max_rejected=0.0)
    roles = {"timestamp": "time", "track": "titleUrl", "title": "title", "artist": "subtitles"}
    assert log.reading.columns == roles
    assert set(log.catalog.artists.tolist()) == {f"Band {n} - Topic" for n in range(3)}
    assert "https://music.youtube.com/watch?v=abc0" in log.catalog.track_ids.tolist()


def test_a_private_column_is_not_looked_at(tmp_path: Path) -> None:
    rows = table(USUAL, ip_addr=lambda n, _: iso(START + timedelta(minutes=n)))
    roles = roles_of(tmp_path, [{name: row[name] for name in row if name != "x7"} for row in rows])
    assert "timestamp" not in roles.mapping
    assert "ip_addr" not in roles.holds


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_values_inside_objects_are_found(tmp_path: Path, kind: str) -> None:
    rows = [
        {"track": {"name": row["title"], "artists": [{"name": row["artist"]}], "duration_ms": 1000 * row["duration"]},
         "played_at": row["x7"], "context": {"ip": "1.2.3.4"}}
        for row in table(USUAL)
    ]  # fmt: skip
    path = tmp_path / f"plays.{kind}"
    if kind == "parquet":
        pd.DataFrame(rows).to_parquet(path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    log = read("table", path, max_rejected=0.0)
    assert log.reading.columns == {
        "timestamp": "played_at", "title": "track.name", "artist": "track.artists", "duration": "track.duration_ms",
    }  # fmt: skip
    assert "Band 3" in log.catalog.artists.tolist()
