"""Files that are not what they should be: one clear line, or rows that are rejected with their line and the reason."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from segue.errors import InputError
from tests.datamodules.reading import Read, read, rejected_lines, zipped

NAMES = ["user", "timestamp", "track", "title", "artist"]
HEADER = ",".join(NAMES) + "\n"
ROWS = [f"{user},{1_700_000_000 + n},{10 + n},Café {n},Ann" for user in (1, 2) for n in range(4)]
GOOD = HEADER + "".join(row + "\n" for row in ROWS)
TIME = "timestamp must be a number of seconds since 1970, from 1970 to 2099"
SECONDS = {"units": {"timestamp": "s"}}


def objects() -> list[dict[str, Any]]:
    rows = (dict(zip(NAMES, row.split(","), strict=True)) for row in ROWS)
    return [{name: int(cell) if cell.isdigit() else cell for name, cell in row.items()} for row in rows]


def as_lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write(folder: Path, text: str | bytes, name: str = "plays.csv") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def read_text(folder: Path, text: str | bytes, name: str = "plays.csv", **changes: Any) -> Read:
    return read("table", write(folder, text, name), max_rejected=1.0, changes=changes)


def zst(text: str) -> bytes:
    with pa.BufferOutputStream() as content:
        with pa.CompressedOutputStream(content, "zstd") as file:
            file.write(text.encode())
        return bytes(content.getvalue())


def check_good(log: Read) -> None:
    assert (log.reading.num_rows, log.reading.num_events, log.reading.num_rejected) == (8, 8, 0)
    assert [row[:3] for row in log.rows] == [(u, 1_700_000_000_000 + 1000 * n, n) for u in (1, 2) for n in range(4)]
    assert log.catalog.titles.tolist() == [f"Café {n}" for n in range(4)]
    assert log.catalog.track_ids.tolist() == [10, 11, 12, 13]


JSONL = as_lines(objects())
WAYS: list[tuple[str | bytes, str]] = [
    (GOOD.replace(",", "\t"), "plays.tsv"),
    (zst(GOOD), "plays.csv.zst"),
    (JSONL, "plays.json"),
    (JSONL, "plays.txt"),
    ("\ufeff" + JSONL.replace("\n", "\r\n"), "plays.jsonl"),
    (JSONL.encode("utf-16"), "plays.jsonl"),
    ("\ufeff" + json.dumps(objects(), indent=2), "plays.json"),
    (json.dumps(objects()), "plays.jsonl"),
    (json.dumps(objects()), "plays.csv"),
]


@pytest.mark.parametrize(("content", "name"), WAYS)
def test_every_way_to_write_a_table_gives_the_same_events(tmp_path: Path, content: str | bytes, name: str) -> None:
    check_good(read_text(tmp_path, content, name))


def test_a_rare_delimiter_is_given(tmp_path: Path) -> None:
    text = GOOD.replace(",", "::")
    check_good(read_text(tmp_path, text, files={"delimiter": "::"}))
    with pytest.raises(InputError, match=r"has the columns .*; give datamodule.files.skip=.*files.delimiter=<ch"):
        read_text(tmp_path, text)


UNREADABLE: list[tuple[str | bytes, str, str]] = [
    ("", "p.csv", r"p.csv is empty; remove it, or download it again"),
    (HEADER, "p.csv", r"no events: .*p.csv has no rows of data"),
    ("\n\n\n", "p.csv", r"p.csv has no row; download it again"),
    ("[[1, 2], [3, 4]]", "p.json", r"p.json has no row with a JSON object"),
    (GOOD, "p.jsonl", r"p.jsonl has no row with a JSON object; .* give datamodule.files.format"),
    (GOOD, "p.parquet", r"p.parquet: it is no Parquet file; .* give datamodule.files.format"),
    (GOOD, "plays", r"cannot see the format of plays from its name; give datamodule.files.format"),
    (json.dumps(objects())[:-30], "p.json", r"cannot read .*p.json: it is truncated, a JSON array"),
    (json.dumps({"plays": objects()}), "p.json", r"p.json has the columns plays; give datamodule.columns"),
    (gzip.compress(GOOD.encode())[:-9], "p.csv.gz", r"p.csv.gz is not a complete gzip file: .*; copy or compress it"),
    (zipped({"plays.csv": GOOD})[:-30], "p.zip", r"p.zip is not a complete zip file: .*; copy or compress it again"),
    (zst(GOOD)[:-5], "p.csv.zst", r"p.csv.zst is not a complete zstd file: .*; copy or compress it again"),
    (GOOD + "x" * 17_000_000, "p.csv", r"p.csv line 10 is longer than 16 MiB: correct or remove"),
    (zipped({"plays.csv": GOOD}), "p.csv", r"p.csv: it is a zip archive or a spreadsheet; unpack it, or export it as"),
    (b"SQLite format 3\0", "p.csv", r"p.csv: it is an SQLite database; export the table as csv"),
    ("junk", "p.tar.gz", r"p.tar.gz: it is an archive; unpack it and give the folder"),
    (GOOD.replace("title", "track", 1), "p.csv", r"p.csv has several columns 'track'; give .*names"),
    (GOOD.replace("title", "Track", 1), "p.csv", r"p.csv has several columns 'track'; .* case alone"),
    ("# a remark\n" + GOOD, "p.csv", r"p.csv has the columns # a remark; give datamodule.files.skip="),
]


@pytest.mark.parametrize(("content", "name", "message"), UNREADABLE)
def test_a_file_that_cannot_be_read_is_named_with_a_remedy(
    tmp_path: Path, content: str | bytes, name: str, message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_text(tmp_path, content, name)
    assert "\n" not in str(caught.value)
    assert "LINE 1" not in str(caught.value)


def test_a_line_of_three_megabytes_is_rejected(tmp_path: Path) -> None:
    log = read_text(tmp_path, GOOD + "1,1700000000,10," + "x" * 3_000_000 + ",Ann\n" + ROWS[0] + "\n")
    assert log.reading.rejected == {"the line is longer than 2 MiB": 1}
    assert (log.reading.num_rows, log.reading.num_events) == (10, 9)
    assert rejected_lines(tmp_path)[0]["line"] == 10


BAD = {
    f"1,x,10,S,A{'y' * 70}": f"{TIME}, got x",
    "1,,10,S,A": f"{TIME}, got nothing",
    "1,nan,10,S,A": f"{TIME}, got nan",
    "1,inf,10,S,A": f"{TIME}, got inf",
    "1,-5,10,S,A": f"{TIME}, got -5",
    "1,4102444800,10,S,A": f"{TIME}, got 4102444800",
    "1,\0,10,S,A": f"{TIME}, got \0",
    ",1700000000,10,S,A": "user is empty",
    "1,1700000000,,S,A": "track is empty",
    "1,2": "a line must have 5 columns, got 2",
    "1,2,3,4,5,6,7": "a line must have 5 columns, got 6",
    '1,1700000000,10,"So"ng,A': "a quote is not closed",
    '1,x,10,"two\n\nlines",A': f"{TIME}, got x",
}
"""A row, and why it is rejected."""


def odd_table() -> tuple[str, list[tuple[str, int, str]]]:
    """A table with every kind of bad row, blank lines and line ends in texts; line or row, and reason of the bad ones.

    A line that DuckDB cannot read has its number (a row counts as one line), the others that of their row.
    """
    text, lost, others, num_rows = "# a remark\n\n" + HEADER, [], [], 0
    for row, reason in BAD.items():
        text += '\n2,1700000000,11,"line\nend",Ann\n\n\n' + ROWS[0] + "\n"
        num_rows += 2
        if reason.startswith(("a line", "a quote")):
            lost.append(("line", text.count("\n") + 1 - text.count("line\nend"), reason))
        else:
            num_rows += 1
            others.append(("row", num_rows, reason))
        text += row + "\n"
    return text, lost + others


@pytest.mark.parametrize(
    ("encode", "name"),
    [
        (lambda text: text.replace("\n", "\r\n").encode("utf-8-sig"), "plays.csv"),
        (lambda text: text.replace("\n", "\r").encode(), "plays.csv"),
        (lambda text: text.encode("latin-1"), "plays.csv"),
        (lambda text: zipped({"plays.csv": text.encode("utf-16")}), "plays.zip"),
    ],
)
def test_each_rejected_row_has_its_place_and_reason_whatever_the_ends_of_lines(
    tmp_path: Path, encode: Callable[[str], bytes], name: str
) -> None:
    text, expected = odd_table()
    content = encode(text)
    encoding = "latin-1" if content == text.encode("latin-1") else "auto"
    log = read_text(tmp_path, content, name, files={"skip": 2, "encoding": encoding}, **SECONDS)
    found = rejected_lines(tmp_path)
    assert [
        (unit, line[unit], line["reason"]) for line in found for unit in ("line", "row") if unit in line
    ] == expected
    assert log.reading.num_rows == 3 * len(BAD)
    assert log.reading.num_events == 2 * len(BAD)
    assert sum(log.reading.rejected.values()) == len(BAD)


def test_rejected_lines_of_json_have_their_number(tmp_path: Path) -> None:
    bad = {
        "{": "not a JSON object",
        "\0": "not a JSON object",
        "[]": f"{TIME}, got nothing",
        "null": f"{TIME}, got nothing",
        json.dumps({**objects()[0], "timestamp": "x"}): f"{TIME}, got x",
        json.dumps({**objects()[0], "user": None}): "user is empty",
        json.dumps({**objects()[0], "track": ""}): "track is empty",
        json.dumps({**objects()[0], "timestamp": float("inf")}): f"{TIME}, got Infinity",
    }
    text = as_lines(objects()) + "".join(f"\n{line}\n\n" for line in bad)
    for content in (text, text.replace("\n", "\r\n"), "\ufeff" + text):
        log = read_text(tmp_path, content, "plays.jsonl")
        assert (log.reading.num_rows, log.reading.num_events) == (8 + len(bad), 8)
        found = [(line["line"], line["reason"]) for line in rejected_lines(tmp_path)]
        assert found == [(10 + 3 * place, reason) for place, reason in enumerate(bad.values())]


def test_wrong_elements_of_a_json_array_have_their_number(tmp_path: Path) -> None:
    log = read_text(tmp_path, json.dumps([*objects(), 5, None, {**objects()[0], "timestamp": -1}]), "plays.json")
    assert log.reading.num_events == 8
    assert [(line["row"], line["reason"]) for line in rejected_lines(tmp_path)] == [
        (9, f"{TIME}, got nothing"),
        (10, f"{TIME}, got nothing"),
        (11, f"{TIME}, got -1"),
    ]


def test_times_played_that_are_no_numbers_are_rejected(tmp_path: Path) -> None:
    text = "user,timestamp,track,played,duration\n" + "1,1700000000,10,100,200\n" * 4
    bad = ["nan,200", "inf,200", "-5,200", "5,-200", "5,nan", "x,200", "1,y"]
    log = read_text(tmp_path, text + "".join(f"1,1700000000,10,{cells}\n" for cells in bad))
    assert log.reading.num_events == 4
    rule = "must be a number of seconds, at least 0, got"
    wrong = ["played nan", "played inf", "played -5", "duration -200", "duration nan", "played x", "duration y"]
    assert [(line["row"], line["reason"].replace(f" {rule}", "")) for line in rejected_lines(tmp_path)] == [
        *enumerate(wrong, start=5)
    ]


@pytest.mark.parametrize("num_after", [1, 100_000])
def test_lines_after_an_open_quote_are_not_lost_in_silence(tmp_path: Path, num_after: int) -> None:
    text = GOOD + '1,1700000000,10,"Song,A\n' + (ROWS[0] + "\n") * num_after
    message = r"plays.csv line 10: a quote is not closed, and the lines after it cannot be read; .*files.quote"
    with pytest.raises(InputError, match=message):
        read_text(tmp_path, text)
    log = read_text(tmp_path, text, files={"quote": ""})
    assert log.reading.num_events == 9 + num_after


def test_too_many_rejected_rows_stop_the_run_with_the_first_of_them(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + ",1700000000,10,S,A\n1,x,10,S,A\n1,y,10,S,A\n")
    assert read("table", path, max_rejected=3 / 11).reading.num_rejected == 3
    reasons = rf"\(plays.csv row 10: {TIME}, got x \(2 times\); plays.csv row 9: user is empty\)"
    with pytest.raises(InputError, match=rf"3 of 11 rows in .* are invalid, more than max_rejected=0\.27.*{reasons}"):
        read("table", path, max_rejected=0.27)
    assert len(rejected_lines(tmp_path)) == 3


def test_rows_that_are_all_rejected_are_reported_as_such(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    changes = {"units": {"timestamp": "%d.%m.%Y"}}
    with pytest.raises(InputError, match=r"8 of 8 rows in .*timestamp must be a time of the format %d.%m.%Y"):
        read("table", path, max_rejected=0.5, changes=changes)
    with pytest.raises(InputError, match=r"no events: of 8 rows in .*, 8 are invalid and 0 are left out; check"):
        read("table", path, max_rejected=1.0, changes=changes)
    with pytest.raises(InputError, match=r"no events: of 8 rows in .*, 0 are invalid and 8 are left out; check"):
        read("table", path, changes={"sql": {"drop": {"everything": "TRUE"}}})


def test_a_column_of_ids_with_empty_cells_is_not_the_track(tmp_path: Path) -> None:
    head = "user,timestamp,track,artist,track_mbid\n"
    text = head + "".join(f"1,{1_700_000_000 + n},T{n},A{n},{n % 2 * 'mbid'}\n" for n in range(10))
    assert read("table", write(tmp_path, text)).reading.columns["title"] == "track"
    of_listener = read("table", write(tmp_path, text.replace("user,", "name,")))
    assert of_listener.reading.columns["title"] == "track"
    named = read("table", write(tmp_path, text.replace(",track,", ",name,").replace(",,", ",x,")))
    assert named.reading.columns["title"] == "name"


@pytest.mark.parametrize(("column", "hint"), [("usr", "did you mean user"), ("zzzzz", "name one of them, or null")])
def test_a_missing_column_is_named_with_the_nearest_one(tmp_path: Path, column: str, hint: str) -> None:
    message = rf"datamodule.columns.user={column}: .*plays.csv has no such column, it has user, timestamp, .*; {hint}"
    with pytest.raises(InputError, match=message):
        read_text(tmp_path, GOOD, columns={"user": column})


NAMES_OF_COLUMNS = (
    *("my.track", "tr ack", "tr'ack", 'tr"ack', "Trück", "select", "track]", "[track", "a;b", "{x}", "$files", "line"),
    *("file", "fields", "row", "place", "item", "items", "share", "reason", "dropped", "position", "rowid", "texts"),
    *("who.id", "x\\y", "%s", "{}", "*", "file_name", '"; DROP TABLE parsed; --', "x'); DROP TABLE parsed; --", "🎵"),
)


@pytest.mark.parametrize("start", range(0, len(NAMES_OF_COLUMNS), 5))
def test_a_column_may_have_any_name(tmp_path: Path, start: int) -> None:
    """Five odd names at a time."""
    names = (NAMES_OF_COLUMNS * 2)[start : start + 5]
    columns = dict(zip(NAMES, names, strict=True))
    header = ",".join('"' + name.replace('"', '""') + '"' for name in names)
    check_good(read_text(tmp_path, GOOD.replace(HEADER, f"{header}\n"), columns=columns))
    rows = [dict(zip(names, row.values(), strict=True)) for row in objects()]
    check_good(read_text(tmp_path, as_lines(rows), "plays.jsonl", columns=columns))
    check_good(read_text(tmp_path, json.dumps(rows), "plays.json", columns=columns))


def test_a_column_of_a_reserved_name_is_refused(tmp_path: Path) -> None:
    message = r"plays.csv has a column file_index, a name that DuckDB or Segue uses; rename it"
    with pytest.raises(InputError, match=message):
        read_text(tmp_path, GOOD.replace("artist", "file_index", 1))


def test_values_may_have_sql_in_them(tmp_path: Path) -> None:
    evil = "'); DROP TABLE parsed; --"
    log = read_text(tmp_path, GOOD.replace("Ann", evil).replace("\n2,", f"\n{evil},"))
    assert log.catalog.artists.tolist() == [evil]
    assert {row[0] for row in log.rows} == {"1", evil}


def test_an_unnamed_first_or_last_column_is_no_row_of_data(tmp_path: Path) -> None:
    indexed = "".join(f"{n if n else ''},{line}\n" for n, line in enumerate(GOOD.splitlines()))
    check_good(read_text(tmp_path, indexed))
    check_good(read_text(tmp_path, GOOD.replace("\n", ",\n")))


ODD_PATHS = (
    *("br[ack]et.csv", "quo'te.csv", 'dq"x.csv', "st ar.csv", "qu?est.csv", "a*b.csv", "ü.csv", "{a,b}.csv"),
    *("dol$x.csv", "new\nline.csv", "plays.csv.1", "plays.1.csv", "[!x].csv", "back\\slash.csv", "[x] 'y'/p.csv"),
)


def test_a_path_may_have_any_characters(tmp_path: Path) -> None:
    paths = [write(tmp_path, GOOD + "1,2\n1,x,10,S,A\n", name) for name in ODD_PATHS]
    log = read("table", tmp_path, max_rejected=1.0)
    assert (log.reading.num_events, log.reading.num_rejected) == (8 * len(paths), 2 * len(paths))
    found = sorted((line["file"], line.get("line", line.get("row"))) for line in rejected_lines(tmp_path))
    assert found == sorted((str(path), place) for path in paths for place in (9, 10))  # row 9 and line 10
    for path in (paths[0], paths[5], paths[-1]):
        assert read("table", path, max_rejected=1.0).reading.num_events == 8


def test_a_glob_reads_the_files_that_it_matches(tmp_path: Path) -> None:
    for name in ("p1.csv", "p2.csv", "deep/er/p3.csv", "q.csv"):
        write(tmp_path, GOOD if name != "q.csv" else "junk\n", name)
    assert read("table", f"{tmp_path}/p*.csv").reading.num_rows == 16
    assert read("table", f"{tmp_path}/p[2].csv").reading.num_rows == 8
    assert read("table", f"{tmp_path}/**/p*.csv").reading.num_rows == 24
    with pytest.raises(InputError, match=r"z\*.csv: no such file or folder; did you mean"):
        read("table", f"{tmp_path}/z*.csv")


def test_a_folder_with_two_layouts_is_refused(tmp_path: Path) -> None:
    write(tmp_path, GOOD, "a.csv")
    write(tmp_path, GOOD.replace(",", ";"), "b.csv")
    with pytest.raises(InputError, match=r"a.csv and .*b.csv have different columns: .*; choose .*files.pattern="):
        read("table", tmp_path)
    (tmp_path / "b.csv").rename(tmp_path / "b.jsonl")
    with pytest.raises(InputError, match=r"files of several formats: .*a.csv \(csv\) and .*b.jsonl \(jsonl\); choose"):
        read("table", tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"files": {"encoding": "utf-99"}}, "files.encoding must be auto or an encoding that Python knows, such as"),
        ({"share": "gap"}, "datamodule.share=gap needs the columns timestamp and duration; give datamodule.columns."),
        ({"sql": {"columns": {"x": "absent + 1"}}}, "datamodule.sql does not fit .*plays.csv: .*absent"),
        ({"zone": "../etc"}, "datamodule.zone must be a time zone such as UTC or Europe/Berlin, got '../etc'"),
        ({"share": "ratio"}, "datamodule.share=ratio needs a column; give datamodule.columns.played_ratio=<column>"),
        ({"units": {"timestamp": "%Q"}}, "datamodule.units.timestamp must be .*, got '%Q': Failed to parse format"),
        ({"files": {"encoding": "utf-16"}}, r"plays.csv: it is not utf-16 \(.*\); give datamodule.files.encoding="),
        ({"sql": {"drop": {"x": "1 END FROM rows; COPY rows TO 'x'; SELECT CASE WHEN 1"}}}, "drop.x must be one SQL"),
        ({"catalogue": {"file": "x", "columns": {"track": "y"}, "sql": {"y": "1, 2"}}}, "catalogue.sql.y must be one"),
    ],
)
def test_wrong_settings_are_named_with_their_value(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_text(tmp_path, GOOD, **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("artist", "first"),
    [
        (["A, B", "C"], "A, B"),
        ([], ""),
        ([None, "Bob"], ""),
        ("[Unknown]", "[Unknown]"),
        ("Zoe ; Ann", "Zoe"),
        (";A", ""),
    ],
)
def test_the_first_artist_of_a_list_or_of_a_text_with_a_separator_counts(
    tmp_path: Path, artist: Any, first: str
) -> None:
    """Unknown artists need not be the same."""
    text = as_lines([{**row, "artist": artist} for row in objects()])
    artists = read_text(tmp_path, text, "plays.jsonl", artist_separator=";").catalog.artists.tolist()
    assert artists == [first] * (1 if first else 4)


PARQUET = """SELECT {user} AS user, {timestamp} AS timestamp, {track} AS track, 'S' || i AS title, {artist} AS artist,
    {played} AS played, {duration} AS duration FROM range(4) r(i)"""
USUAL = {"user": "7", "timestamp": "1700000000 + i", "track": "10 + i", "artist": "'Ann'"}
USUAL |= {"played": "30", "duration": "200"}


@pytest.mark.parametrize(
    "columns",
    [
        {"timestamp": "make_timestamp(1700000000000000 + i * 1000000)"},
        {"timestamp": "make_timestamp(1700000000000000 + i * 1000000)::TIMESTAMPTZ"},
        {"timestamp": "make_timestamp(1700000000000000 + i * 1000000)::TIMESTAMP_NS"},
        {"timestamp": "strftime(make_timestamp(1700000000000000 + i * 1000000), '%Y-%m-%dT%H:%M:%SZ')"},
        {"timestamp": "(1700000000 + i)::DECIMAL(18, 3)", "played": "30::DECIMAL(9, 2)"},
        {"user": "7::HUGEINT", "track": "(10 + i)::USMALLINT", "played": "30::UTINYINT", "duration": "200::FLOAT"},
        {"artist": "['Ann', 'Bob']", "user": "'7'", "track": "(10 + i)::VARCHAR"},
    ],
)
def test_parquet_columns_may_have_any_type(tmp_path: Path, columns: dict[str, str]) -> None:
    duckdb.execute(f"COPY ({PARQUET.format(**{**USUAL, **columns})}) TO '{tmp_path}/plays.parquet'")
    log = read("table", tmp_path / "plays.parquet")
    share = pytest.approx(0.15)
    assert log.rows == [(7, 1_700_000_000_000 + 1000 * n, n, share, False) for n in range(4)]
    assert log.catalog.track_ids.tolist() == [10, 11, 12, 13]
    assert log.catalog.artists.tolist() == ["Ann"]


def test_wrong_values_in_parquet_are_rejected_with_their_row(tmp_path: Path) -> None:
    columns = {
        **USUAL,
        "timestamp": "CASE i WHEN 1 THEN 'infinity'::TIMESTAMP ELSE make_timestamp(1700000000000000) END",
        "duration": "CASE i WHEN 2 THEN 'nan'::DOUBLE ELSE 200 END",
        "user": "CASE i WHEN 3 THEN NULL ELSE 7 END",
    }
    duckdb.execute(f"COPY ({PARQUET.format(**columns)}) TO '{tmp_path}/plays.parquet'")
    log = read("table", tmp_path / "plays.parquet", max_rejected=1.0)
    assert log.reading.num_events == 1
    assert [(line["row"], line["reason"]) for line in rejected_lines(tmp_path)] == [
        (2, "timestamp must be a time, from 1970 to 2099, got infinity"),
        (3, "duration must be a number of seconds, at least 0, got nan"),
        (4, "user must be a whole number"),
    ]


def test_nested_values_are_named_by_dots(tmp_path: Path) -> None:
    nested = [
        {"who": {"id": row["user"]}, "at": {"s": row["timestamp"]}, "song": {"of": row}, "a.b": row["track"]}
        for row in objects()
    ]
    columns = {"user": "who.id", "timestamp": "at.s", "track": "a.b", "title": "song.of.title"}
    check_good(read_text(tmp_path, as_lines(nested), "plays.jsonl", columns={**columns, "artist": "song.of.artist"}))


def test_an_address_that_cannot_be_opened_is_named_without_its_secrets() -> None:
    address = "ftp://nowhere/plays.csv?signature=hidden"
    with pytest.raises(InputError, match=r"cannot read ftp://nowhere/plays.csv: ") as caught:
        read("table", address)
    assert "hidden" not in str(caught.value)


def test_a_key_of_json_that_only_late_rows_have_is_read(tmp_path: Path) -> None:
    rows = [{"ts": 1_700_000_000 + play, "track": play % 7} for play in range(11_000)]
    rows[-1]["skipped"] = True
    path = write(tmp_path, as_lines(rows), "plays.jsonl")
    log = read("table", path, changes={"columns": {"skipped": "skipped"}})
    assert [share for *_, share, _ in log.rows[-2:]] == [None, 0.0]


def test_an_endless_play_is_one_rejected_row(tmp_path: Path) -> None:
    text = "ts,track,played,duration\n1700000000,1,inf,200\n1700000300,1,1e12,200\n1700000600,2,100,200\n"
    changes = {"clock": "end", "units": {"played": "s", "duration": "s"}}
    log = read("table", write(tmp_path, text), changes=changes, max_rejected=0.9)
    assert [(time, share) for _, time, _, share, _ in log.rows] == [(1_700_000_500_000, 0.5)]
    assert log.reading.num_rejected == 2


def test_shares_above_one_are_counted(tmp_path: Path) -> None:
    text = "ts,track,played_ratio\n" + "".join(f"{1_700_000_000 + n},{n},{[0.5, 1.5][n % 5 == 0]}\n" for n in range(10))
    assert read("table", write(tmp_path, text)).reading.num_capped == 2


def test_gaps_cannot_be_used_with_plays_left_out(tmp_path: Path) -> None:
    text = "ts,track,played,duration\n1700000000,1,10,200\n1700000300,2,100,200\n"
    with pytest.raises(InputError, match=r"min_seconds=30 cannot be used with datamodule.share=gap"):
        read("table", write(tmp_path, text), changes={"share": "gap"}, min_seconds=30)
