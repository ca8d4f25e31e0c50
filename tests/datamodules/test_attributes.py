"""Attributes of tracks: every kind from every kind of file, and what is refused."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.attributes import Attribute, Values, Vectors
from segue.errors import InputError
from tests.conftest import write_lines
from tests.datamodules.reading import read

PLAYS = ["user,track,timestamp", "1,10,1700000000", "1,11,1700000060", "2,12,1700000120", "2,10,1700000180"]


def read_table(folder: Path, attributes: Any, plays: list[str] = PLAYS) -> Mapping[str, Attribute]:
    write_lines(folder / "plays.csv", plays)
    return read("table", folder / "plays.csv", changes={"attributes": attributes}).catalog.attributes


def read_tracks(folder: Path, attributes: Mapping[str, Any], tracks: list[dict[str, Any]]) -> Mapping[str, Attribute]:
    lines = [{"track": 10 + row, "title": "", "artist": "Bob"} | track for row, track in enumerate(tracks)]
    write_lines(folder / "tracks.json", lines)
    event = '{"message": "next", "timestamp": 1000, "user": 1, "track": 10, "time": 1.0}'
    write_lines(folder / "logs" / "data.json", [event])
    return read("botify", folder, changes={"attributes": attributes}).catalog.attributes


def values_of(attribute: Attribute) -> list[list[str]]:
    assert isinstance(attribute, Values)
    return attribute.lists()


def vectors_of(attribute: Attribute) -> list[list[float] | None]:
    assert isinstance(attribute, Vectors)
    vectors = attribute.take(np.arange(len(attribute.places))).tolist()
    return [vector if known else None for vector, known in zip(vectors, attribute.known, strict=True)]


@given(st.lists(st.lists(st.sampled_from("abcde"), unique=True), min_size=1))
def test_values_give_back_the_lists_they_were_built_from(lists: list[list[str]]) -> None:
    values = Values.from_lists(lists)
    assert values.lists() == lists
    assert values.known.tolist() == [bool(part) for part in lists]
    assert values.counts.tolist() == list(map(len, lists))
    assert values.tracks_of_values().sum() == sum(map(len, lists))


def test_the_tags_of_radio_songs_are_those_of_their_lines(tmp_path: Path) -> None:
    (tmp_path / "song_hash.txt").write_text("5\tOne\tBob\n6\tTwo\tBob\n7\tThree\tEve\n8\tFour\tEve\n")
    (tmp_path / "train.txt").write_text("1 2 3\n9 9 9\n5 6 7 \n")
    assert read("yes", tmp_path).catalog.attributes == {}
    (tmp_path / "tags.txt").write_text("3 14\n#\n14 2 3\n7\n")
    assert values_of(read("yes", tmp_path).catalog.attributes["tags"]) == [["3", "14"], [], ["14", "2", "3"], ["7"]]
    (tmp_path / "tags.txt").write_text("3 14\n#\n")
    with pytest.raises(InputError, match=r"tags.txt has 2 entries and the catalogue 4 tracks; .*entry n is"):
        read("yes", tmp_path)


def test_columns_of_tracks_json_become_attributes_of_every_kind(tmp_path: Path) -> None:
    tracks: list[dict[str, Any]] = [
        {"genre": "jazz", "tags": ["b", "a", "b"], "year": 1999, "audio": [0.5, -1]},
        {"genre": None, "tags": [], "year": None},
        {"genre": "rock", "tags": ["a"], "year": 2001.5, "audio": [1, 2]},
    ]
    kinds = {"genre": "value", "tags": {"kind": "values", "most_shared": 1.0}, "year": "number", "audio": "vector"}
    found = read_tracks(tmp_path, kinds, tracks)
    assert values_of(found["genre"]) == [["jazz"], [], ["rock"]]
    assert values_of(found["tags"]) == [["b", "a"], [], ["a"]]
    assert vectors_of(found["year"]) == [[1999.0], None, [2001.5]]
    assert vectors_of(found["audio"]) == [[0.5, -1.0], None, [1.0, 2.0]]


def test_columns_of_plays_become_attributes_of_their_tracks(tmp_path: Path) -> None:
    head = "user,track,timestamp,genres,bpm"
    plays = [f"{play},{rest}" for play, rest in zip(PLAYS[1:], ("a;b,90", ",", "?; d,100.5", "c,91"), strict=True)]
    kinds = {"tags": {"kind": "values", "column": "genres", "separator": ";", "unknown": ["?"]}, "bpm": "number"}
    found = read_table(tmp_path, kinds, [head, *plays])
    assert values_of(found["tags"]) == [["a", "b"], [], ["d"]]
    assert vectors_of(found["bpm"]) == [[90.0], None, [100.5]]


def test_a_file_with_ids_is_joined_by_them(tmp_path: Path) -> None:
    write_lines(tmp_path / "labels.tsv", ["id\tlabel", "12\tBlue Note", "99\tMotown", "10\tStax"])
    found = read_table(tmp_path, {"label": {"kind": "value", "file": "labels.tsv", "track": "id"}})
    assert values_of(found["label"]) == [["Stax"], [], ["Blue Note"]]


@pytest.mark.parametrize("bits", [np.float16, np.float32])
def test_vectors_are_read_from_parquet_and_from_npy_which_keeps_its_bits(tmp_path: Path, bits: Any) -> None:
    data = np.array([[1, 0.5], [2, -1], [3, 0.25]], bits)
    np.save(tmp_path / "audio.npy", data)
    (tmp_path / "ids.txt").write_text("12\n99\n10\n")
    column = pa.FixedSizeListArray.from_arrays(pa.array(data.ravel()), 2)
    pq.write_table(pa.table({"id": [12, 99, 10], "audio": column}), tmp_path / "audio.parquet")
    for given_as in ({"file": "audio.npy", "ids": "ids.txt"}, {"file": "audio.parquet", "track": "id"}):
        audio = read_table(tmp_path, {"audio": {"kind": "vector", **given_as}})["audio"]
        assert isinstance(audio, Vectors)
        is_mapped = given_as["file"].endswith(".npy")
        assert audio.data.dtype == (bits if is_mapped else np.float32)
        assert isinstance(audio.data, np.memmap) == is_mapped
        assert vectors_of(audio) == [[3.0, 0.25], None, [1.0, 0.5]]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"kind": "vector", "file": "nan.npy"}, r"nan.npy: entry 2 of a has a number that is NaN or infinite"),
    ({"kind": "vector", "file": "two.npy"}, r"two.npy has 2 entries and the catalogue 3 tracks.*a.ids=<file>"),
    ({"kind": "vector", "file": "two.npy", "ids": "strange.txt"}, r"none of its 2 ids of tracks, such as x, .*a.ids"),
    ({"kind": "vector", "file": "two.npy", "ids": "one.txt"}, r"two.npy has 2 rows and one.txt 1 ids"),
    ({"kind": "vector", "file": "pickle.npy"}, r"pickle.npy: it is no whole .npy file of numbers"),
    ({"kind": "vector", "file": "wide.jsonl", "track": "id", "column": "v"}, r"track 3 has 3 numbers"),
    ({"kind": "value", "file": "two.npy"}, r"kind=value: a .npy file has numbers; give .*kind=vector"),
    ({"kind": "value", "file": "strange.csv", "track": "id"}, r"none of its 2 ids of tracks, such as 7, .*a.track"),
    ({"kind": "value", "file": "twice.csv", "track": "id"}, r"twice.csv: track 10 occurs twice"),
    ({"kind": "value", "column": "uzer"}, r"attributes.a.column=uzer: .*did you mean user\?"),
    ({"kind": "value", "column": "user"}, r"67% of the tracks have the same a, '1', above .*most_shared=0.5; if it"),
    ({"kind": "value", "column": "user", "unknown": ["1", "2"]}, r"plays.csv gives no track the attribute a"),
    ({"kind": "number", "column": "word"}, r"the a of a track must be a finite number, got 'NaN'"),
    ({"kind": "value", "track": "user"}, r"a.track belongs to .*a.file, which is not given"),
    ({"kind": "value", "file": "strange.csv", "ids": "ids.txt"}, r"a.ids belongs to a .npy file"),
]


@pytest.mark.parametrize(("settings", "message"), BAD)
def test_bad_attributes_are_refused_in_one_line(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    plays = ["user,track,timestamp,word", "1,10,1700000000,NaN", "1,11,1700000060,2", "2,12,1700000120,3"]
    np.save(tmp_path / "nan.npy", np.array([[1], [np.nan], [2]], np.float32))
    np.save(tmp_path / "two.npy", np.ones((2, 3), np.float16))
    np.save(tmp_path / "pickle.npy", np.array([{}, {}, {}], object))
    (tmp_path / "strange.txt").write_text("x\ny\n")
    (tmp_path / "one.txt").write_text("x\n")
    write_lines(tmp_path / "wide.jsonl", [{"id": 10, "v": [1, 2]}, {"id": 12, "v": [1, 2, 3]}])
    write_lines(tmp_path / "strange.csv", ["id,a", "7,x", "8,y"])
    write_lines(tmp_path / "twice.csv", ["id,a", "7,x", "7,x", "10,x", "10,y", "11,z"])
    with pytest.raises(InputError, match=message) as caught:
        read_table(tmp_path, {"a": settings}, plays)
    assert "\n" not in str(caught.value)


def test_an_attribute_may_not_have_the_name_of_what_every_catalogue_has(tmp_path: Path) -> None:
    for name in ("artist", "track", "a-b"):
        with pytest.raises(InputError, match="an attribute needs a name of letters"):
            read_table(tmp_path, {name: "value"})
    with pytest.raises(InputError, match=r"must be a mapping.*; a kind for each name, such as"):
        read_table(tmp_path, ["genre"])
