"""Line ends, quotes, encodings and archives of exports that nobody tuned for: the rows are those that were written."""

import csv
import gzip
import io
import random
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.datamodules.reading.files import find_files
from segue.datamodules.reading.raw_rows import open_rows
from segue.datamodules.reading.table import _database
from segue.errors import InputError
from tests.conftest import settings_of
from tests.datamodules.reading import read, rejected_lines, zipped

NAMES = ["user", "timestamp", "track", "title"]
ENDS = ["\n", "\r", "\r\n"]
TEXTS = st.text(st.sampled_from('ab ,;"\n\r\u00e9'), max_size=8)
Rows = list[list[str]]
Quoting = Literal[0, 1, 2, 3]


def plays(num: int = 40, title: str = "Song {}") -> Rows:
    return [[f"u{n // 10}", str(1_700_000_000 + 60 * n), f"t{n % 20}", title.format(n % 20)] for n in range(num)]


def as_csv(rows: Rows, *, end: str = "\n", quoting: Quoting = csv.QUOTE_MINIMAL, delimiter: str = ",") -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=end, quoting=quoting, delimiter=delimiter).writerows([NAMES, *rows])
    return text.getvalue()


def cells_of(path: Path) -> Rows:
    """The cells of a file, as DuckDB gets them, with LF for every end of a line."""
    of_table = settings_of("table")
    with _database(of_table, str(path)) as (database, folder):
        files = find_files(str(path), of_table.files, patterns="**/*", unpacked=folder / "unpacked")
        rows = open_rows(database, files, of_table.files)
        found = rows.run(f"SELECT * EXCLUDE (place_of_file) FROM ({rows.relation()})").fetchall()
        return [[(cell or "").replace("\r\n", "\n") for cell in row] for row in found]


def cells_of_csv(text: str) -> Rows:
    """The cells that Python's csv reads, with LF for every end of a line, of complete rows without the names."""
    rows = csv.reader(io.StringIO(text, newline=None), strict=True)
    return [row for row in rows if len(row) == len(NAMES)][1:]


@settings(max_examples=30, deadline=None)
@given(
    cells=st.lists(st.lists(TEXTS, min_size=3, max_size=3), min_size=1, max_size=6),
    ends=st.lists(st.sampled_from(ENDS), min_size=1, max_size=3),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_what_the_csv_module_reads_is_read(
    tmp_path_factory: pytest.TempPathFactory, cells: Rows, ends: list[str], quoting: Quoting, encoding: str
) -> None:
    """Lines end in several ways, in one file and inside of cells."""
    rows = [["id", *row] for row in cells]
    text = "".join(
        as_csv([row], end=ends[place % len(ends)], quoting=quoting)[0 if place == 0 else len(header) :]
        for place, row in enumerate(rows)
        if (header := as_csv([], end=ends[place % len(ends)], quoting=quoting))
    )
    path = tmp_path_factory.mktemp("csv") / "plays.csv"
    path.write_bytes(text.encode(encoding))
    assert cells_of(path) == cells_of_csv(text)


def test_many_cells_with_ends_of_lines_are_read_as_by_csv(tmp_path: Path) -> None:
    """Several threads of DuckDB begin at lines inside of cells, and read other rows."""
    rng = random.Random(1)
    rows = plays(150_000)
    for row in rows[::500]:
        row[3] = "\n".join(f"{n},1700000000,t{n},x" for n in range(rng.randint(2, 2000)))
    text = as_csv(rows)
    path = tmp_path / "plays.csv"
    path.write_text(text, encoding="utf-8", newline="")
    pairs = zip(cells_of(path), cells_of_csv(text), strict=True)
    assert next((pair for pair in pairs if pair[0] != pair[1]), None) is None


def test_a_row_of_an_empty_cell_does_not_hide_the_delimiter(tmp_path: Path) -> None:
    text = as_csv([[""], *plays()], delimiter=";")
    (tmp_path / "plays.csv").write_text(text, encoding="utf-8")
    assert cells_of(tmp_path / "plays.csv") == plays()


def test_zero_bytes_in_the_names_of_columns_are_refused(tmp_path: Path) -> None:
    (tmp_path / "plays.csv").write_text(as_csv(plays()).replace("title", "ti\0tle"), encoding="utf-8")
    with pytest.raises(InputError, match=r"the columns of .*plays.csv have zero bytes.*encoding=utf-16-le"):
        read("table", tmp_path / "plays.csv")


def test_names_of_columns_may_have_ends_of_lines(tmp_path: Path) -> None:
    text = as_csv([*plays(), ["u9", "soon", "t1", "x"]]).replace("title", '"title\nof the song"', 1)
    (tmp_path / "plays.csv").write_text(text, encoding="utf-8")
    changes = {"columns": {"title": "title\nof the song"}}
    assert read("table", tmp_path / "plays.csv", changes=changes).catalog.titles[0] == "Song 0"
    assert [row["row"] for row in rejected_lines(tmp_path)] == [41]


@pytest.mark.parametrize(
    ("title", "encoding"),
    [("\u0417\u0435\u043c\u0444\u0438\u0440\u0430 {}", "windows-1251"), ("Caf\u00e9 \u2013 {}", "windows-1252")],
)
def test_an_encoding_is_given(tmp_path: Path, title: str, encoding: str) -> None:
    (tmp_path / "plays.csv").write_bytes(as_csv(plays(title=title)).encode(encoding))
    message = r"plays.csv line 2 is not UTF-8; give datamodule.files.encoding=<name>, such as windows-1252"
    with pytest.raises(InputError, match=message):
        read("table", tmp_path / "plays.csv")
    log = read("table", tmp_path / "plays.csv", changes={"files": {"encoding": encoding}})
    assert log.catalog.titles[0] == title.format(0)


@pytest.mark.parametrize(("given_as", "encoding"), [("auto", "utf-8"), ("windows-1252", "windows-1252")])
def test_a_byte_that_the_encoding_lacks_rejects_its_line(tmp_path: Path, given_as: str, encoding: str) -> None:
    good = "Caf\u00e9 7\n".encode(encoding)
    text = as_csv(plays(400, "Caf\u00e9 {}")).encode(encoding).replace(good, b"Caf\xe9\x81 7\n", 1)
    (tmp_path / "plays.csv").write_bytes(text)
    changes = {"files": {"encoding": given_as}}
    assert read("table", tmp_path / "plays.csv", changes=changes).reading.encoding == encoding
    reason = f"the line is not {encoding.upper()}; give datamodule.files.encoding=<name>, such as windows-1252"
    assert [(row["line"], row["reason"]) for row in rejected_lines(tmp_path)] == [(9, reason)]


def test_archives_of_a_folder_are_read_and_what_is_no_table_is_named(tmp_path: Path) -> None:
    other = {"README.txt": "about", "__MACOSX/._plays.csv": "x", "cover.jpg": "x"}
    (tmp_path / "2024.zip").write_bytes(zipped({"plays.csv": as_csv(plays(40)), **other}))
    more = gzip.compress(as_csv([["u9", "soon", "t1", "x"], *plays(80)[40:]]).encode())
    (tmp_path / "2025.ZIP").write_bytes(zipped({"deep/plays.csv.gz": more}))
    (tmp_path / "notes.md").write_text("x")
    log = read("table", tmp_path)
    assert log.reading.num_events == 80
    assert rejected_lines(tmp_path)[0]["file"] == f"{tmp_path}/2025.ZIP/deep/plays.csv.gz"
    [remark] = log.reading.remarks
    named = "notes.md, 2024.zip/README.txt, 2024.zip/__MACOSX, 2024.zip/cover.jpg"
    assert remark == f"files        not read: {named}; datamodule.files.pattern=<glob> chooses the files"


def test_a_pattern_is_that_of_each_archive(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zipped({"logs/plays.csv": as_csv(plays()), "logs/x.csv": "a,b\n1,2\n"}))
    log = read("table", tmp_path, changes={"files": {"pattern": "logs/p*.csv"}})
    assert (log.reading.num_rows, log.reading.remarks) == (40, [])
