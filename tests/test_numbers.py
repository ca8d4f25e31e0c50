"""Numbers of the pages are those of the results files, to the digits shown. CONTRIBUTING.md explains the markers."""

import csv
import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import ROOT, build_datamodule
from tests.pages import PAGES
from tests.test_docs import faults, without_code

MARKER = re.compile(r"<!-- (numbers?): ((?:(?!-->).)*) -->", re.DOTALL)
NUMBER = re.compile(r"[+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]\d+)?")
WRITTEN_OUT = re.compile(r"(?<![\w.-])(?:\d+\.\d+|\d{1,3}(?:,\d{3})+)")
"""Numbers in prose that a study could have measured: with decimals, or above 999."""


LOST = {"06308e40d", "368a11843", "75d01011a", "8638f69ba", "cce706de7"}
"""Commits of branches that were rewritten; experiments/online/README.md says which rows name them."""


def plain(text: str) -> str:
    """A cell without markup, with an ordinary minus."""
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text).replace("*", "").replace("`", "").replace("−", "-").strip()


def cells_of(line: str) -> list[str]:
    return [plain(cell) for cell in line.strip().strip("|").split("|")]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of a page.

    Args:
        line: number of the line of its headings.
        section: heading of the section.
        marker: what its marker says; empty if it has none.
        columns: headings of the columns; the second of the same name ends in 2.
        rows: the cells below.
    """

    line: int
    section: str
    marker: str
    columns: list[str]
    rows: list[list[str]]

    @property
    def has_numbers(self) -> bool:
        return any(is_number(cell) for row in self.rows for cell in row)


def is_number(cell: str) -> bool:
    return NUMBER.fullmatch(cell.removesuffix("%").strip()) is not None


def read(path: Path) -> str:
    """A page without its blocks of code; the lines keep their numbers."""
    blocks = re.compile(r"^ *```.*?^ *```", flags=re.DOTALL | re.MULTILINE)
    return blocks.sub(lambda block: "\n" * block[0].count("\n"), path.read_text(encoding="utf-8"))


def tables(text: str) -> Iterator[Table]:
    """The tables of a page."""
    lines, section, first = text.split("\n"), "", 0
    while first < len(lines):
        last = first
        while last < len(lines) and lines[last].startswith("|"):
            last += 1
        if lines[first].startswith("#"):
            section = plain(lines[first].lstrip("# "))
        if last > first + 1:
            marker = re.search(MARKER.pattern + r"\s*\Z", "\n".join(lines[:first]), re.DOTALL)
            said = " ".join(marker[2].split()) if marker and marker[1] == "numbers" else ""
            head, _, *rows = (cells_of(line) for line in lines[first:last])
            seen = [head[: place + 1].count(name) for place, name in enumerate(head)]
            columns = [name if times == 1 else f"{name} {times}" for name, times in zip(head, seen, strict=True)]
            yield Table(line=first + 1, section=section, marker=said, columns=columns, rows=rows)
        first = max(last, first + 1)


@cache
def records(file: str) -> list[dict[str, str]]:
    """The rows of the tables of a results file, each with the heading of its section."""
    path = ROOT / file
    if path.suffix == ".csv":
        return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    found = tables(read(path))
    return [
        {"section": table.section, **dict(zip(table.columns, row, strict=True))}
        for table in found
        for row in table.rows
    ]


def agrees(shown: str, given: str) -> bool:
    """Whether a value is what is shown: a text is the same, a number is the same to the digits shown."""
    if not is_number(shown):
        return shown == given
    number, value = shown.removesuffix("%").strip(), NUMBER.match(given)
    half = 0.5 * 10.0 ** -len(number.partition(".")[2])
    return value is not None and abs(float(number.replace(",", "")) - float(value[0].replace(",", ""))) <= half + 1e-9


def without_origin(table: Table) -> list[str]:
    """The rows of a table that are no rows of its file.

    A marker names the file, and then what is called otherwise there: columns, or words of a cell. A column that is
    `none` there has no origin. `*` are the columns that are cells there: it names the column with their numbers.
    """
    file, *renamed = table.marker.split(" | ")
    there, known = dict(pair.split(" == ") for pair in renamed), records(file)
    spread = there.get("*")
    lost = []
    for row in table.rows:
        cells = [(there.get(name, name), there.get(cell, cell)) for name, cell in zip(table.columns, row, strict=True)]
        own = {name: cell for name, cell in cells if name != "none"}
        wanted = [(own, "")]
        if spread:
            of_row = {name: cell for name, cell in own.items() if any(name in record for record in known)}
            wanted = [({**of_row, spread: cell}, name) for name, cell in own.items() if cell and name not in of_row]
        if not all(any(has(record, one, cell) for record in known) for one, cell in wanted):
            lost.append(" | ".join(row))
    return lost


def has(record: dict[str, str], wanted: dict[str, str], cell: str) -> bool:
    """Whether a row of a file has these columns, which agree, and, unless it is empty, a cell."""
    agree = all(name in record and agrees(shown, record[name]) for name, shown in wanted.items())
    return agree and (not cell or cell in record.values())


def value_at(address: str) -> str:
    """The value at an address: a file and keys; of a table, the cells of one row and then the column."""
    file, *keys = (part.strip() for part in address.split(" | "))
    if file.endswith(".json"):
        found: Any = json.loads((ROOT / file).read_text(encoding="utf-8"))
        for key in keys:
            found = found[int(key) if isinstance(found, list) else key]
        return str(found)
    *cells, column = keys
    rows = [one for one in records(file) if column in one and all(cell in one.values() for cell in cells)]
    assert len(rows) == 1, f"{len(rows)} rows of {file} have {cells} and a column {column}"
    return rows[0][column]


def paragraphs(text: str) -> Iterator[tuple[dict[str, str], str]]:
    """The paragraphs of a page: the numbers that the markers above name, and the text."""
    for paragraph in re.split(r"\n\s*\n", text):
        markers = [" ".join(said.split()) for kind, said in MARKER.findall(paragraph) if kind == "number"]
        yield dict(said.split(" == ", 1) for said in markers), MARKER.sub("", paragraph)


def tables_without_marker(path: Path) -> list[int]:
    return [table.line for table in tables(read(path)) if table.has_numbers and not table.marker]


def test_a_table_with_numbers_has_a_marker() -> None:
    assert faults(tables_without_marker, PAGES) == {}


def markers_without_place(path: Path) -> list[str]:
    text = read(path)
    of_tables = [kind for kind, _ in MARKER.findall(text)].count("numbers")
    lost = of_tables - sum(bool(table.marker) for table in tables(text))
    missing = [number for named_ones, prose in paragraphs(text) for number in named_ones if number not in prose]
    return missing + [f"{lost} markers are above no table"] * (lost != 0)


def test_a_marker_is_above_what_it_is_about() -> None:
    assert faults(markers_without_place, PAGES) == {}


def lost_rows(path: Path) -> dict[int, list[str]]:
    marked = [table for table in tables(read(path)) if table.marker]
    from_files = [table for table in marked if not table.marker.startswith("none, ")]
    return {table.line: rows for table in from_files if (rows := without_origin(table))}


def test_the_numbers_of_a_table_are_those_of_its_file() -> None:
    assert faults(lost_rows, PAGES) == {}


def other_numbers(path: Path) -> list[tuple[str, str, str]]:
    marked = [pair for named_ones, _ in paragraphs(read(path)) for pair in named_ones.items()]
    from_files = [(number, address) for number, address in marked if not address.startswith("none, ")]
    found = [(number, address, value_at(address)) for number, address in from_files]
    return [line for line in found if not agrees(plain(line[0]), plain(line[2]))]


def test_the_marked_numbers_of_the_prose_are_those_of_their_files() -> None:
    assert faults(other_numbers, PAGES) == {}


def test_the_numbers_in_the_prose_of_the_front_page_have_markers() -> None:
    unmarked = []
    for named_ones, prose in paragraphs(read(ROOT / "README.md")):
        words = re.sub(r"^\|.*$|\]\([^)]*\)", "", without_code(prose), flags=re.MULTILINE)
        marked = [number.lstrip("+−") for number in named_ones]
        unmarked += [number for number in WRITTEN_OUT.findall(words) if number not in marked]
    assert unmarked == []


@pytest.mark.parametrize(
    ("shown", "given", "same"),
    [
        ("5.64", "5.6437", True),
        ("5.64", "5.6451", False),
        ("+6 %", "6.4", True),
        ("−0.9", "-0.96", False),
        ("18,276", "18,276 (17,372–19,419)", True),
        ("mean", "artist", False),
        ("1,170", "1.17e+03", True),
    ],
)
def test_a_number_is_compared_to_the_digits_shown(shown: str, given: str, same: bool) -> None:
    assert agrees(plain(shown), given) is same


def test_a_changed_number_and_an_exchanged_row_are_found() -> None:
    page = (
        "<!-- numbers: experiments/online/sessions.md | time == time per session -->\n"
        "| context | pick | time |\n|---|---|--:|\n| last | uniform | {0} |\n| last | ranked | {1} |\n"
    )
    same, changed, exchanged = (
        [without_origin(table) for table in tables(page.format(*times))]
        for times in (("5.64", "7.15"), ("5.65", "7.15"), ("7.15", "5.64"))
    )
    assert same == [[]]
    assert changed == [["last | uniform | 5.65"]]
    assert len(exchanged[0]) == 2


def commits_of(file: Path) -> set[str]:
    """The commits that a results file names, without the mark of uncommitted changes."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".csv":
        named_ones = [row["commit"] for row in csv.DictReader(text.splitlines()) if "commit" in row]
    else:
        named_ones = re.findall(r'"git_commit": "(\w+)"', text)
    return {commit.removesuffix("-dirty") for commit in named_ones}


def test_the_commits_of_results_are_in_the_history() -> None:
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    if git("rev-parse", "--is-shallow-repository").strip() != "false":
        pytest.skip("this is no checkout with its whole history")
    history = git("rev-list", "HEAD").split()
    files = [*(ROOT / "experiments").rglob("*.csv"), *(ROOT / "experiments").rglob("*.json")]
    named_ones = {commit for file in files for commit in commits_of(file)}
    assert {one for one in named_ones if not any(commit.startswith(one) for commit in history)} == LOST


def test_the_map_of_the_front_page_has_the_artists_and_pairs_of_the_data(real_data: Path, tmp_path: Path) -> None:
    datamodule = build_datamodule(real_data / "yes-small", tmp_path, source="yes", split="auto")
    datamodule.setup()
    vocabulary, artist_of = datamodule.vocabulary, datamodule.catalog.artist_of
    in_pairs = vocabulary.previous_counts + vocabulary.next_counts > 0
    drawn, of_training = (len(np.unique(artist_of[some])) for some in (in_pairs, vocabulary.plays > 0))
    page = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"Map of {drawn:,} artists" in page
    assert f"which song followed which, {vocabulary.next_counts.sum():,} times" in page
    assert f"Training has {of_training:,} artists" in page


OUTPUT = re.compile(r"<!-- output: (\S+) -->\n```\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
"""A block that a program printed, and the file that has its output."""


def not_printed(block: str, output: str) -> list[str]:
    """The lines of a block that are not in an output, in this order; `…` and `<word>` stand for anything."""
    rest, missing = output.split("\n"), []
    for line in filter(str.strip, block.split("\n")):
        pattern = ".*".join(map(re.escape, re.split(r"…|<\w+>", line.rstrip())))
        place = next((place for place, text in enumerate(rest) if re.fullmatch(pattern, text.rstrip())), None)
        if place is None:
            missing.append(line)
        elif line.strip() != "…":
            rest = rest[place + 1 :]
    return missing


@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md", "docs/evaluation.md"])
def test_what_a_page_shows_of_the_first_run_is_what_it_printed(page: str) -> None:
    blocks = OUTPUT.findall((ROOT / page).read_text(encoding="utf-8"))
    assert blocks
    for file, block in blocks:
        assert not_printed(block, (ROOT / file).read_text(encoding="utf-8")) == []


def test_a_line_that_was_not_printed_is_found() -> None:
    output = "mae  0.23\nrun  run:12\nmse  0.1\n"
    assert not_printed("mae  0.23\n…\nmse  0.1\n", output) == []
    assert not_printed("mae  0.24\nrun  …\nmae  0.23\n", output) == ["mae  0.24", "mae  0.23"]
