"""Ids of tracks and users: which are of one kind, which are refused; they mean the same in every order of rows."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import pytest

from segue.catalog import derived_id
from segue.datamodules.reading.attribute_files import derived_in_sql
from segue.errors import InputError
from tests.conftest import event, write_lines
from tests.datamodules.reading import Read, read, rejected_lines

Cells = Sequence[tuple[Any, Any]]
SECONDS = {"units": {"timestamp": "s"}}


def as_csv(cells: Cells) -> str:
    rows = (f'"{user}",{1_700_000_000 + n},"{track}"\n' for n, (user, track) in enumerate(cells))
    return "user,timestamp,track\n" + "".join(rows)


def as_jsonl(cells: Cells) -> str:
    rows = ({"user": user, "timestamp": 1_700_000_000 + n, "track": track} for n, (user, track) in enumerate(cells))
    return "".join(json.dumps(row) + "\n" for row in rows)


def read_text(folder: Path, name: str, text: str, **changes: Any) -> Read:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    return read("table", folder / name, max_rejected=1.0, changes={**SECONDS, **changes})


@pytest.mark.parametrize(
    ("tracks", "expected"),
    [
        (["7", "0", "9223372036854775807"], [7, 0, 2**63 - 1]),
        (["7", "007"], ["7", "007"]),
        (["7", "-5"], ["7", "-5"]),
        (["a", "A", "é", "e\u0301", "=1", "<script>", "a/b?c", " x "], None),
    ],
)
def test_ids_are_whole_numbers_if_each_is_one_in_canonical_form(
    tmp_path: Path, tracks: list[str], expected: list[Any] | None
) -> None:
    for name, text in {"plays.csv": as_csv, "plays.jsonl": as_jsonl}.items():
        log = read_text(tmp_path, name, text([(track, track) for track in tracks]))
        ids = log.catalog.track_ids.tolist()
        assert ids == (expected or tracks)
        assert {row[0] for row in log.rows} == set(ids), "the rule is the same for users"
        is_mixed = isinstance(ids[0], str) and expected is not None
        assert [line for line in log.reading.remarks if "beside texts" in line] == log.reading.remarks
        assert len(log.reading.remarks) == is_mixed


def test_whole_numbers_below_0_in_a_typed_column_are_texts(tmp_path: Path) -> None:
    rows = "(VALUES (-1::BIGINT, 1700000000, -5::BIGINT), (1, 1700000001, 6)) AS rows(user, timestamp, track)"
    duckdb.execute(f"COPY (FROM {rows}) TO '{tmp_path}/plays.parquet'")
    for ids in ("auto", "whole", "text"):
        log = read("table", tmp_path / "plays.parquet", changes={**SECONDS, "ids": ids})
        assert log.catalog.track_ids.tolist() == ["-5", "6"]
        assert [row[0] for row in log.rows] == ["-1", "1"]


def test_a_whole_number_and_its_text_are_one_id(tmp_path: Path) -> None:
    log = read_text(tmp_path, "plays.jsonl", as_jsonl([(1, 7), ("1", "7"), (1, "8")]))
    assert log.catalog.track_ids.tolist() == [7, 8]
    assert [row[0] for row in log.rows] == [1, 1, 1]


@pytest.mark.parametrize(
    ("track", "reason"),
    [("", "is empty"), ("é" * 129, "must have 1 to 256 bytes"), ("a\0b", "has a NUL"), ("é" * 128, None)],
)
def test_ids_that_cannot_be_ids_are_rejected(tmp_path: Path, track: str, reason: str | None) -> None:
    for name, cells in {"track": [("u", track), ("v", "x")], "user": [(track, "y"), ("v", "x")]}.items():
        log = read_text(tmp_path / name, "plays.jsonl", as_jsonl(cells))
        assert log.reading.rejected == ({f"{name} {reason}": 1} if reason else {})
        if reason:
            assert log.catalog.track_ids.tolist() == ["x"]


def test_an_unpaired_surrogate_is_no_json(tmp_path: Path) -> None:
    log = read_text(tmp_path, "plays.jsonl", as_jsonl([("u", "\ud800"), ("v", "x")]))
    assert [(line["line"], line["reason"]) for line in rejected_lines(tmp_path)] == [(1, "not a JSON object")]
    assert log.catalog.track_ids.tolist() == ["x"]


TRACKS = [n * n % 11 for n in range(200)]
PLAYS = [(f"user-{n % 7}", n, f"track:{of}", f"Title {of}", f"Artist {of % 3}") for n, of in enumerate(TRACKS)]


def of_plays(log: Read) -> tuple[dict[Any, tuple[str, str]], dict[Any, int]]:
    catalog = log.catalog
    names = zip(catalog.titles.tolist(), catalog.artists[catalog.artist_of].tolist(), strict=True)
    counts: dict[Any, int] = {}
    for row in log.rows:
        id = catalog.track_ids.item(row[2])
        counts[id] = counts.get(id, 0) + 1
    return dict(zip(catalog.track_ids.tolist(), names, strict=True)), counts


@pytest.mark.parametrize("columns", ["user,timestamp,track,title,artist", "user,timestamp,title,artist"])
def test_rows_in_another_order_give_the_same_ids(tmp_path: Path, columns: str) -> None:
    found = []
    for seed in range(2):
        rows = [play if "track" in columns else (*play[:2], *play[3:]) for play in PLAYS]
        random.Random(seed).shuffle(rows)
        text = columns + "\n" + "".join(",".join(map(str, row)) + "\n" for row in rows)
        found.append(of_plays(read_text(tmp_path, "plays.csv", text)))
    assert found[0] == found[1]
    assert len(found[0][0]) > 5
    if "track" not in columns:
        assert all(id == derived_id(*names) for id, names in found[0][0].items())


def test_derived_ids_are_the_same_in_sql() -> None:
    for title, artist in [("Ä'", "b"), ("x", None), ("x", "")]:
        [(found,)] = duckdb.execute(f"SELECT {derived_in_sql('$1', '$2')}", [title, artist]).fetchall()
        assert found == derived_id(title, artist)


def test_an_id_with_several_titles_has_those_of_its_earliest_play_and_this_is_said(tmp_path: Path) -> None:
    plays = [(9, "x y", "Late", "Bob"), (3, "x y", "", ""), (5, "x y", "Early", "Ann"), (4, "z", "Other", "Eve")]
    found = []
    for order in (plays, plays[::-1]):
        rows = (f"u,{second},{track},{title},{artist}\n" for second, track, title, artist in order)
        log = read_text(tmp_path, "plays.csv", "user,timestamp,track,title,artist\n" + "".join(rows))
        found.append(of_plays(log)[0])
        [line] = log.reading.remarks
        assert line.startswith("titles       1 ids of tracks have several titles or artists, such as 'x y'; those of")
    assert found[0] == found[1] == {"x y": ("Early", "Ann"), "z": ("Other", "Eve")}


def botify_log(folder: Path, entries: Sequence[tuple[Any, str, str]]) -> Path:
    """A log of botify with these entries of its catalogue: id, title and artist."""
    names = ("track", "title", "artist")
    write_lines(folder / "tracks.json", [dict(zip(names, entry, strict=True)) for entry in entries])
    write_lines(folder / "logs" / "data.json", [{**event(1, n, 0), "track": id} for n, (id, *_) in enumerate(entries)])
    return folder


def test_the_first_entry_of_an_id_counts_and_another_title_is_reported(tmp_path: Path) -> None:
    first = [(7, "A", "Ann"), (8, "B", "Ann"), (7, "A", "Ann")]
    log = read("botify", botify_log(tmp_path, [*first, (8, "C", "Ann"), (8, "B", "Eve")]))
    assert log.catalog.titles.tolist() == ["A", "B"]
    assert log.reading.remarks == [
        "titles       2 entries of tracks.json have the id of an earlier one and another title or artist, such as "
        "track 8: 'C' by Ann, first 'B' by Ann; the first of each id counts"
    ]
    assert read("botify", botify_log(tmp_path, first)).reading.remarks == []


@pytest.mark.parametrize(("id", "message"), [("", "has no track id"), ("a\0b", "has a track id that has a NUL")])
def test_an_entry_of_a_catalogue_that_has_no_id_is_refused(tmp_path: Path, id: str, message: str) -> None:
    with pytest.raises(InputError, match=f"entry 2 {message}; correct or remove it"):
        read("botify", botify_log(tmp_path, [("a", "A", "Ann"), (id, "B", "Ann")]))
