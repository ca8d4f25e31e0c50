import gzip
import json
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.conftest import event, write_lines, write_log, write_tracks
from tests.datamodules.reading import read, rejected_lines


def test_several_replicas_and_rotated_files_are_read_as_one_log(tmp_path: Path) -> None:
    write_tracks(tmp_path, [0, 0, 1])
    write_lines(tmp_path / "logs" / "replica-1" / "data.json", [event(1, 30, 102, 0.5, "last")])
    write_lines(tmp_path / "logs" / "replica-1" / "data.json.1", [event(1, 20, 101, 0.25)])
    write_lines(tmp_path / "logs" / "replica-2" / "data.json", [event(1, 10, 100, 1.0)])
    log = read("botify", tmp_path)
    assert log.rows == [(1, 10, 0, 1.0, False), (1, 20, 1, 0.25, False), (1, 30, 2, 0.5, True)]
    assert (log.reading.num_events, log.reading.num_rows, log.reading.num_rejected) == (3, 3, 0)
    assert not (tmp_path / "out").exists()


def test_events_of_the_same_millisecond_keep_the_order_of_rotation_and_lines(tmp_path: Path) -> None:
    write_log(tmp_path, range(12), [event(1, 5, 110), event(1, 5, 111)])
    for age in range(1, 11):
        write_lines(tmp_path / "logs" / f"data.json.{age}", [event(1, 5, 110 - age)])
    assert [row[2] for row in read("botify", tmp_path).rows] == list(range(12))


TIME_RULE = "timestamp must be a whole number of milliseconds since 1970, from 1970 to 2099"

_WHOLE = (
    *("5", "-5", "0", "-0", "5.0", "5.4", "5.5", "1e3", "1e-3", "1.0004", "1.0005", "5.9999", "1e15", "1e18", "1e19"),
    *('"5"', '" 5 "', '"5.0"', '"+5"', '"05"', '"1e3"', '"1_000"', '""', '"x"', '"\\u0035"', "true", "false", "null"),
    *("[]", "[5]", "{}", "9223372036854775807", "9223372036854775808", "-9223372036854775808", "18446744073709551615"),
    *("18446744073709551616", "9007199254740993", "9007199254740993.0", "253402300799999", "253402300800000"),
    *("253402300799999.0004", "123456789012345680.0", "123456789012345678901234567890", "999999999999999", "NaN"),
    *("Infinity", "05", "+5", ".5", "5.", "0x10", "1e400", "'5'", "5 ,", "1.681494018525e12"),
)


def test_whole_numbers_are_read_as_by_plain_casts(tmp_path: Path) -> None:
    """Oracle: a slower reader with 128-bit arithmetic for every column."""
    good = json.dumps(event(1, 1, 100))
    lines = [
        good.replace(f'"{key}": {value}', f'"{key}": {text}')
        for key, value in (("timestamp", 1), ("user", 1), ("track", 100), ("time", 1.0))
        for text in _WHOLE
    ]
    lines += [
        good + good,
        good + " x",
        good.replace('"next"', '"skip"'),
        good[:-1] + ', "user": 7}',
        good.replace('"user"', '"us\\u0065r"'),
        "null",
        "{}",
    ]
    assert len(set(lines)) > 4 * len(_WHOLE) - 4
    log = read("botify", write_log(tmp_path, [0], lines), max_rejected=1.0, changes={"ids": "whole"})
    kept = rejected_lines(tmp_path)
    of_values = {line["line"]: line["reason"] for line in kept if "is not in" not in line["reason"]}
    reasons = {
        line: reason if "share" in reason else reason.partition(", got ")[0] for line, reason in of_values.items()
    }
    cell = "TRY_CAST(text ->> '$.{name}' AS {type}) AS {name}"
    types = {"message": "VARCHAR", **dict.fromkeys(("timestamp", "user", "track"), "DECIMAL(22, 3)"), "time": "DOUBLE"}
    cells = ", ".join(cell.format(name=name, type=type_) for name, type_ in types.items())
    database = duckdb.connect()
    database.execute("CREATE TABLE texts (line BIGINT, text VARCHAR)")
    database.executemany("INSERT INTO texts VALUES (?, ?)", list(enumerate(lines, start=1)))
    expected = database.execute(f"""
        SELECT line, TRY_CAST(f.user AS BIGINT) AS user_id, TRY_CAST(f.timestamp AS BIGINT) AS timestamp,
            TRY_CAST(f.track AS BIGINT) AS track, CASE WHEN f IS NULL THEN 'not a JSON object'
            WHEN COALESCE(f.message NOT IN ('next', 'last'), TRUE) THEN 'message must be "next" or "last"'
            WHEN COALESCE(timestamp NOT BETWEEN 0 AND 4102444799999 OR timestamp <> f.timestamp, TRUE)
            THEN '{TIME_RULE}'
            WHEN COALESCE(user_id <> f.user, TRUE) THEN 'user must be a whole number'
            WHEN COALESCE(track <> f.track, TRUE) THEN 'track must be a whole number'
            WHEN f.time IS NULL THEN 'time must be a number'
            WHEN f.time NOT BETWEEN 0 AND 1 THEN 'the share played must lie in [0, 1], got ' || f.time END AS reason
        FROM (SELECT line, CASE WHEN json_valid(text) THEN f END AS f
              FROM texts LEFT JOIN (SELECT line, {cells} FROM texts WHERE json_valid(text)) f USING (line))
        ORDER BY line""").fetchall()
    assert reasons == {
        line: reason for line, _, _, track, reason in expected if reason and (track == 100 or "share" not in reason)
    }
    accepted = [(user, time) for _, user, time, track, reason in expected if reason is None and track == 100]
    by_position = sorted(zip(log.positions, log.rows, strict=True))
    ours = [(int(user), time) for _, (user, time, *_) in by_position]  # users below 0 make all of them texts
    assert ours == accepted
    assert len(ours) > 20


def test_a_compressed_rotation_is_read_and_its_invalid_lines_written(tmp_path: Path) -> None:
    write_tracks(tmp_path, [0])
    write_lines(tmp_path / "logs" / "data.json~", [event(1, 1, 100)])
    lines = json.dumps(event(1, 1, 100)) + "\nbroken\n"
    (tmp_path / "logs" / "data.json.1.gz").write_bytes(gzip.compress(lines.encode()))
    reading = read("botify", tmp_path).reading
    assert (reading.num_events, reading.num_rows) == (1, 2)
    assert [kept["line"] for kept in rejected_lines(tmp_path)] == [2]


@pytest.mark.parametrize(
    ("more", "changes", "dropped"),
    [
        ({}, {}, {"unremembered": 0}),
        ({"remember": False}, {}, {"unremembered": 1}),
        ({"remember": False}, {"sql": {"drop": {"unremembered": None}}}, {}),
    ],
)
def test_plays_that_a_service_shall_not_remember_are_not_learned_unless_a_word_says_so(
    tmp_path: Path, more: dict[str, bool], changes: dict[str, Any], dropped: dict[str, int]
) -> None:
    """A log without such a line has no key for it."""
    folder = write_log(tmp_path, [0, 1], [event(0, 1, 100), event(1, 2, 100) | more])
    log = read("botify", folder, changes=changes)
    assert log.reading.dropped == dropped
    assert len(log.rows) == 2 - sum(dropped.values())
