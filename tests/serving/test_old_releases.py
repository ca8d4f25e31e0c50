"""Stores that commit 0e2454a wrote, in which numbers replaced ids that are texts.

`stores_of_0e2454a.zip` has two stores with the same five tracks, one of a source with texts as ids, one with whole
numbers, each with the recommendations that its two releases were loaded from.
"""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from segue.serving.prepared_release import prepare_release
from segue.serving.release_store import FolderStore, Index

TEXTS = ["track:ü", "7f9c-b", "track:a", "zz/1", "01"]
TITLES = ["One", "Two", "Three", "Four", "Five"]
OLD = ["fff04079cc33", "c61b5dae27db"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The stores, in a place where their recommendations are found."""
    with zipfile.ZipFile(Path(__file__).with_name("stores_of_0e2454a.zip")) as file:
        file.extractall(tmp_path)
    for path in tmp_path.glob("*/store/*/release.json"):
        head = json.loads(path.read_text())
        head["provenance"]["lists_C"] = str(path.parents[2] / "recommendations.jsonl")
        path.write_text(json.dumps(head))
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_store_of_texts_gets_the_ids_of_its_source_once_and_a_copy_is_kept(folder: Path) -> None:
    store, before = FolderStore(folder / "texts" / "store", keep=5), contents(folder / "texts" / "store")
    lines = store.convert()
    first, second = store.index().versions
    assert lines == [
        f"release {old} of an older version has the ids of its source now, as {new}"
        for old, new in zip(OLD, (first, second), strict=True)
    ]
    assert store.index() == Index(second, [first, second])
    assert contents(folder / "texts" / "store.before") == before
    for version in (first, second):
        assert store.is_whole(version)
    release = store.open()
    assert sorted(release.track(row)["track"] for row in range(5)) == sorted(TEXTS)
    for row in range(5):
        number = TEXTS.index(str(release.id_of(row)))
        assert release.title(row) == TITLES[number]
        expected = [[1, 2], [0, 3], [4, 0], [2, 1], [3, 2]][number]
        assert release.recommended_ids(row) == [TEXTS[other] for other in expected]
    assert [release.id_of(row) for row in release.top_tracks.tolist()] == ["zz/1", "track:ü"]
    assert release.kept.tolist() == []
    assert store.convert() == []
    assert store.index() == Index(second, [first, second])
    assert store.rollback() == first


def test_a_store_of_whole_numbers_stays_as_it_is(folder: Path) -> None:
    store, before = FolderStore(folder / "numbers" / "store", keep=5), contents(folder / "numbers" / "store")
    assert store.convert() == []
    assert contents(folder / "numbers" / "store") == before
    assert store.open().track(3) == {"artist": None, "title": "Four", "track": 3}
    assert len(store.open().catalogue) == 12
    assert store.rollback() == OLD[0]


def test_a_release_of_whole_numbers_is_written_as_before_byte_for_byte(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder / "numbers")
    arms = {"C": "recommendations.jsonl", "T1": "popular"}
    usual: dict[str, Any] = {"context": None, "num_lists": 1, "max_tracks": 10, "tracks": None}
    prepared = prepare_release(
        arms, experiment="OLD", pick="ranked", artist_gap=0, world=lambda: None, locate=Path, **usual
    )
    (new := tmp_path / "new").mkdir()
    assert prepared.write(new, provenance={}) == OLD[1]
    head, before = (contents(at).pop for at in (new, folder / "numbers" / "store" / OLD[1]))
    added = json.loads(head("release.json")).keys() - json.loads(before("release.json")).keys()
    assert added == {"catalogue"}
    arrays, arrays_before = contents(new), contents(folder / "numbers" / "store" / OLD[1])
    assert {**arrays, "release.json": b""} == {**arrays_before, "release.json": b""}


@pytest.mark.parametrize("change", ["gone", "another song"])
def test_numbers_stay_ids_where_the_recommendations_are_gone_or_are_others(folder: Path, change: str) -> None:
    store, lists = FolderStore(folder / "texts" / "store", keep=5), folder / "texts" / "recommendations.jsonl"
    if change == "gone":
        lists.unlink()
    else:
        lists.write_text(lists.read_text().replace("Three", "3"))
    lines = [
        f"release {old} of an older version keeps its numbers 0 to 4 as ids; if they replaced texts, the texts are "
        f"lost with {lists}"
        for old in OLD
    ]
    assert store.convert() == lines * (change == "gone")
    assert store.index().versions == OLD
    assert store.open().track(3)["track"] == 3
