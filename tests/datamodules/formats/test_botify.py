import gzip
import json
from pathlib import Path

import pytest

from src.datamodules.events import READERS, EventLog, read_events
from src.errors import InputError
from tests.conftest import event, write_lines, write_tracks


def read(folder: Path, reader: str = "botify", max_rejected: float = 0.5) -> EventLog:
    return read_events(
        reader=reader, folder=folder, max_rejected=max_rejected, rejected_path=folder / "out" / "rejected.jsonl"
    )


def rows(log: EventLog) -> list[tuple[object, ...]]:
    return log.database.execute(
        "SELECT user_id, timestamp, track, played_ratio, is_last FROM events ORDER BY user_id, timestamp, position"
    ).fetchall()


def test_several_replicas_and_rotated_files_are_read_as_one_log(tmp_path: Path) -> None:
    write_tracks(tmp_path, [0, 0, 1])
    write_lines(tmp_path / "logs" / "replica-1" / "data.json", [event(1, 30, 102, 0.5, "last")])
    write_lines(tmp_path / "logs" / "replica-1" / "data.json.1", [event(1, 20, 101, 0.25)])
    write_lines(tmp_path / "logs" / "replica-2" / "data.json", [event(1, 10, 100, 1.0)])
    log = read(tmp_path)
    assert rows(log) == [(1, 10, 0, 1.0, False), (1, 20, 1, 0.25, False), (1, 30, 2, 0.5, True)]
    assert (log.num_events, log.num_lines, log.num_rejected) == (3, 3, 0)
    assert not (tmp_path / "out").exists()


def test_events_of_the_same_millisecond_keep_the_order_of_rotation_and_lines(tmp_path: Path) -> None:
    write_tracks(tmp_path, range(12))
    write_lines(tmp_path / "logs" / "data.json", [event(1, 5, 110), event(1, 5, 111)])
    for age in range(1, 11):
        write_lines(tmp_path / "logs" / f"data.json.{age}", [event(1, 5, 110 - age)])
    assert [row[2] for row in rows(read(tmp_path))] == list(range(12))


BAD_LINES: list[tuple[str, str]] = [
    ("not json", "not a JSON object"),
    ('{"message": "next", "times', "not a JSON object"),
    ("[1, 2]", 'message must be "next" or "last"'),
    (json.dumps({**event(1, 1, 100), "message": "skip"}), 'message must be "next" or "last"'),
    (
        json.dumps({**event(1, 1, 100), "timestamp": "soon"}),
        "timestamp must be a whole number of milliseconds since 1970",
    ),
    (json.dumps(event(1, -(2**63), 100)), "timestamp must be a whole number of milliseconds since 1970"),
    (json.dumps({**event(1, 1, 100), "user": None}), "user must be a whole number"),
    (json.dumps({**event(1, 1, 100), "track": 100.4}), "track must be a whole number"),
    (json.dumps({**event(1, 1, 100), "user": 1.5}), "user must be a whole number"),
    (json.dumps({**event(1, 1, 100), "timestamp": 1.5}), "timestamp must be a whole number of milliseconds since 1970"),
    (json.dumps({**event(1, 1, 100), "track": "x"}), "track must be a whole number"),
    (json.dumps({k: v for k, v in event(1, 1, 100).items() if k != "time"}), "time must be a number"),
    (json.dumps(event(1, 1, 100, 1.5)), r"the share played must lie in [0, 1], got 1.5"),
    (json.dumps(event(1, 1, 100, -0.1)), r"the share played must lie in [0, 1], got -0.1"),
    (json.dumps(event(1, 1, 100, float("nan"))), r"the share played must lie in [0, 1], got nan"),
    (json.dumps(event(1, 1, 999)), "track 999 is not in tracks.json"),
]


@pytest.mark.parametrize(("line", "reason"), BAD_LINES)
def test_a_line_that_does_not_fit_is_kept_aside_with_file_line_and_reason(
    tmp_path: Path, line: str, reason: str
) -> None:
    write_tracks(tmp_path, [0])
    path = tmp_path / "logs" / "r" / "data.json"
    write_lines(path.with_name("data.json.1"), [event(2, 1, 100)])
    write_lines(path, [event(1, 1, 100), "", line, event(1, 2, 100)])
    log = read(tmp_path)
    assert (log.num_events, log.num_lines, log.num_rejected) == (3, 4, 1)
    [kept] = [json.loads(text) for text in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert kept == {"file": str(path), "line": 3, "reason": reason, "text": line}


_WHOLE = (
    *("5", "-5", "0", "-0", "5.0", "5.4", "5.5", "1e3", "1e-3", "1.0004", "1.0005", "5.9999", "1e15", "1e18", "1e19"),
    *('"5"', '" 5 "', '"5.0"', '"+5"', '"05"', '"1e3"', '"1_000"', '""', '"x"', '"\\u0035"', "true", "false", "null"),
    *("[]", "[5]", "{}", "9223372036854775807", "9223372036854775808", "-9223372036854775808", "18446744073709551615"),
    *("18446744073709551616", "9007199254740993", "9007199254740993.0", "253402300799999", "253402300800000"),
    *("253402300799999.0004", "123456789012345680.0", "123456789012345678901234567890", "999999999999999", "NaN"),
    *("Infinity", "05", "+5", ".5", "5.", "0x10", "1e400", "'5'", "5 ,", "1.681494018525e12"),
)


def test_whole_numbers_are_read_as_by_plain_casts(tmp_path: Path) -> None:
    """Oracle: the reader as it was before it was made fast, with arithmetic of 128 bits throughout."""
    write_tracks(tmp_path, [0])
    good = json.dumps(event(1, 1, 100))
    lines = [
        good.replace(f'"{key}": {value}', f'"{key}": {text}')
        for key, value in (("timestamp", 1), ("user", 1), ("track", 100), ("time", 1.0))
        for text in _WHOLE
    ]
    lines += [
        good + good,
        good + " x",
        good[:-1] + ', "user": 7}',
        good.replace('"user"', '"us\\u0065r"'),
        "null",
        "{}",
    ]
    assert len(set(lines)) > 4 * len(_WHOLE) - 4
    write_lines(tmp_path / "logs" / "data.json", lines)
    log = read(tmp_path, max_rejected=1.0)
    kept = [json.loads(text) for text in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    reasons = {line["line"]: line["reason"] for line in kept if "is not in" not in line["reason"]}
    whole = "DECIMAL(22, 3)"
    schema = json.dumps({"message": "VARCHAR", "timestamp": whole, "user": whole, "track": whole, "time": "DOUBLE"})
    log.database.execute("CREATE TABLE texts (line BIGINT, text VARCHAR)")
    log.database.executemany("INSERT INTO texts VALUES (?, ?)", list(enumerate(lines, start=1)))
    expected = log.database.execute(f"""
        SELECT line, TRY_CAST(f.user AS BIGINT) AS user_id, TRY_CAST(f.timestamp AS BIGINT) AS timestamp,
            TRY_CAST(f.track AS BIGINT) AS track, CASE WHEN f IS NULL THEN 'not a JSON object'
            WHEN COALESCE(f.message NOT IN ('next', 'last'), TRUE) THEN 'message must be "next" or "last"'
            WHEN COALESCE(timestamp NOT BETWEEN 0 AND 253402300799999 OR timestamp <> f.timestamp, TRUE)
            THEN 'timestamp must be a whole number of milliseconds since 1970'
            WHEN COALESCE(user_id <> f.user, TRUE) THEN 'user must be a whole number'
            WHEN COALESCE(track <> f.track, TRUE) THEN 'track must be a whole number'
            WHEN f.time IS NULL THEN 'time must be a number'
            WHEN f.time NOT BETWEEN 0 AND 1 THEN 'the share played must lie in [0, 1], got ' || f.time END AS reason
        FROM (SELECT line, json_transform(TRY_CAST(text AS JSON), '{schema}') AS f FROM texts)
        ORDER BY line""").fetchall()
    assert reasons == {
        line: reason for line, _, _, track, reason in expected if reason and (track == 100 or "share" not in reason)
    }
    accepted = [(user, time) for _, user, time, track, reason in expected if reason is None and track == 100]
    ours = log.database.execute("SELECT user_id, timestamp FROM events ORDER BY position").fetchall()
    assert ours == accepted
    assert len(ours) > 20


def test_a_folder_whose_name_looks_like_a_pattern_is_read_itself(tmp_path: Path) -> None:
    for name, tracks in (("x1", 1), ("x[1]", 2)):
        write_tracks(tmp_path / name, range(tracks))
        write_lines(tmp_path / name / "logs" / "data.json", [event(1, n, 100) for n in range(tracks)])
    log = read(tmp_path / "x[1]")
    assert (log.num_events, len(log.catalog)) == (2, 2)


def test_a_compressed_rotation_is_read_and_its_bad_lines_kept(tmp_path: Path) -> None:
    write_tracks(tmp_path, [0])
    path = tmp_path / "logs" / "data.json.1.gz"
    path.parent.mkdir()
    path.write_bytes(gzip.compress((json.dumps(event(1, 1, 100)) + "\nbroken\n").encode()))
    write_lines(tmp_path / "logs" / "data.json~", [event(1, 1, 100)])
    assert (log := read(tmp_path)).num_events == 1
    assert log.num_lines == 2
    kept = json.loads((tmp_path / "out" / "rejected.jsonl").read_text())
    assert (kept["line"], kept["text"]) == (2, "broken")


def test_a_compressed_log_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    write_tracks(tmp_path, [0])
    path = tmp_path / "logs" / "data.json.gz"
    path.parent.mkdir()
    whole = gzip.compress("".join(json.dumps(event(1, n, 100)) + "\n" for n in range(1000)).encode())
    path.write_bytes(whole)
    assert read(tmp_path).num_events == 1000
    path.write_bytes(whole[:-9])
    with pytest.raises(InputError, match=r"data\.json\.gz is no whole gzip file"):
        read(tmp_path)


def test_bytes_that_are_no_text_are_rejected_by_their_line(tmp_path: Path) -> None:
    write_tracks(tmp_path, [0])
    path = tmp_path / "logs" / "data.json"
    write_lines(path, [event(1, 1, 100), event(1, 2, 100)])
    path.write_bytes(path.read_bytes() + b'\xff\xfe{"x"}\n' + json.dumps(event(1, 3, 100)).encode())
    log = read(tmp_path)
    assert (log.num_events, log.num_rejected) == (3, 1)
    [kept] = [json.loads(text) for text in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert kept["line"] == 3


def test_too_many_rejected_lines_stop_the_run_and_show_the_first_three(tmp_path: Path) -> None:
    write_tracks(tmp_path, [0])
    write_lines(tmp_path / "logs" / "data.json", [*[event(1, n, 100) for n in range(196)], "a", "b", "c", "d"])
    assert read(tmp_path, max_rejected=0.02).num_rejected == 4
    with pytest.raises(InputError, match=r"4 of 200 lines in .* do not fit, more than max_rejected=0.019") as error:
        read(tmp_path, max_rejected=0.019)
    assert str(error.value).count("not a JSON object") == 3
    assert "line 197" in str(error.value)
    assert "line 200" not in str(error.value)
    assert "raise datamodule.max_rejected" in str(error.value)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("all", "no such folder; looked for tracks.json and logs/"),
        ("tracks", "no tracks.json in it; looked for tracks.json and logs/"),
        ("logs", r"no logs/\*\*/data.json\* in it"),
        ("lines", r"no events: logs/\*\*/data.json\* in .* holds no line"),
        ("known tracks", r"2 of 2 lines .* do not fit.*track 500 is not in tracks.json"),
        ("any good line", r"2 of 2 lines .* do not fit.*not a JSON object"),
    ],
)
def test_a_folder_that_cannot_be_used_says_what_was_looked_for(tmp_path: Path, missing: str, message: str) -> None:
    folder = tmp_path / "data"
    if missing not in ("all", "tracks"):
        write_tracks(folder, [0])
    if missing == "tracks":
        write_lines(folder / "logs" / "data.json", [event(1, 1, 100)])
    if missing == "lines":
        write_lines(folder / "logs" / "data.json", [])
    if missing == "known tracks":
        write_lines(folder / "logs" / "data.json", [event(1, 1, 500), event(1, 2, 501)])
    if missing == "any good line":
        write_lines(folder / "logs" / "data.json", ["x", "y"])
    with pytest.raises(InputError, match=message) as error:
        read(folder)
    assert str(folder) in str(error.value)


def test_a_damaged_catalogue_is_named(tmp_path: Path) -> None:
    write_lines(tmp_path / "tracks.json", ['{"track": 1, "title": "a", "artist": "b"}', "{"])
    write_lines(tmp_path / "logs" / "data.json", [event(1, 1, 100)])
    with pytest.raises(InputError, match=r"cannot read the catalogue .*tracks.json"):
        read(tmp_path)


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_max_rejected_is_a_share(tmp_path: Path, share: float) -> None:
    with pytest.raises(InputError, match=f"max_rejected must be a number of at least 0 and at most 1, got {share}"):
        read(tmp_path, max_rejected=share)


def test_an_unknown_reader_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no reader 'spotify'; there are botify, polimi, situnes, yes"):
        read(tmp_path, reader="spotify")


def test_radio_playlists_become_one_user_each(tmp_path: Path) -> None:
    (tmp_path / "song_hash.txt").write_text('5\tA "quoted" title\tBob\n6\tTwo\tBob\n7\tThree\tEve\n')
    (tmp_path / "train.txt").write_text("1 2 3\n9 9 9\n5 6 7 \n6 \n7 x\n5 99 6\n7 7\n")
    log = read(tmp_path, reader="yes")
    assert log.catalog.titles[0] == 'A "quoted" title'
    assert log.catalog.artist_of.tolist() == [0, 0, 1]
    playlists: dict[object, list[object]] = {}
    for user, _, track, played_ratio, _ in rows(log):
        playlists.setdefault(user, []).append(track)
        assert played_ratio is None
    assert list(playlists.values()) == [[0, 1, 2], [1], [2, 2]]
    kept = [json.loads(text) for text in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert [(line["line"], line["reason"]) for line in kept] == [
        (5, "a playlist must be song numbers with spaces between"),
        (6, "track 99 is not in song_hash.txt"),
    ]


def test_ordered_playlists_are_sessions_of_the_source(tmp_path: Path) -> None:
    (tmp_path / "tracks.csv").write_text("track_id,album_id,artist_id,duration_sec\n10,1,3,100\n11,1,4,100\n")
    (tmp_path / "train_sequential.csv").write_text("playlist_id,track_id\n7,11\n7,10\n9,10\n9,x\n9,10,1\n9,12\n")
    log = read(tmp_path, reader="polimi", max_rejected=0.6)
    assert [(user, track) for user, _, track, _, _ in rows(log)] == [(7, 1), (7, 0), (9, 0)]
    assert log.catalog.artists.tolist() == ["artist 3", "artist 4"]
    kept = [json.loads(text) for text in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert [(line["line"], line["reason"]) for line in kept] == [
        (5, "track_id must be a whole number"),
        (6, "a line must have 2 columns"),
        (7, "track 12 is not in tracks.csv"),
    ]


def test_seconds_listened_become_a_share_of_the_duration(tmp_path: Path) -> None:
    (tmp_path / "tracks.csv").write_text(
        'item_id,duration_ms,title,artist\n1,200000.0,"One, two",Ann\n2,50000.0,Two,\n3,,Three,Ann\n'
    )
    (tmp_path / "stage1.csv").write_text(
        "user_id,item_id,timestamp,duration\n1,1,1000,50\n1,2,1100,60.5\n1,1,1200,\n1,1,1300,-5\n1,3,1400,5\n"
    )
    log = read(tmp_path, reader="situnes")
    assert rows(log) == [
        (1, 1000000, 0, 0.25, False),
        (1, 1100000, 1, 1.0, False),
        (1, 1200000, 0, None, False),
    ]
    kept = [json.loads(text) for text in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert [line["reason"] for line in kept] == [
        "the share played must lie in [0, 1], got -0.025",
        "track 3 has no duration in tracks.csv to take a share of",
    ]


def test_another_header_than_the_sources_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tracks.csv").write_text("track_id,album_id,artist_id,duration_sec\n10,1,3,100\n")
    (tmp_path / "train_sequential.csv").write_text("track,playlist\n10,7\n")
    with pytest.raises(InputError, match="first line must be 'playlist_id,track_id', got 'track,playlist'"):
        read(tmp_path, reader="polimi")


@pytest.mark.parametrize(
    ("reader", "folder", "events", "tracks", "artists"),
    [
        ("botify", "botify-2023", 10_389, 50_000, 11_464),
        ("yes", "yes-small", 175_911, 3_168, 1_326),
        ("polimi", "polimi-2018", 115_553, 20_635, 6_668),
        ("situnes", "situnes", 600, 946, 644),
    ],
)
def test_the_real_sets_are_read_whole(
    real_data: Path, tmp_path: Path, reader: str, folder: str, events: int, tracks: int, artists: int
) -> None:
    log = read_events(
        reader=reader, folder=real_data / folder, max_rejected=0.0, rejected_path=tmp_path / "rejected.jsonl"
    )
    assert (log.num_events, len(log.catalog), log.catalog.num_artists) == (events, tracks, artists)


def test_every_reader_is_a_datamodule_of_its_own_name() -> None:
    configs = {path.stem for path in (Path(__file__).parents[2] / "conf" / "datamodule").glob("*.yaml")}
    assert set(READERS) == configs - {"default", "simulated"}  # simulated is botify on logs that it makes first
