"""A release has what was written, in the order of the numbers of ids; a damaged one is refused."""

import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.catalog import Catalog, key_of
from segue.errors import InputError
from segue.runs.recommendations import Recommendations
from segue.serving.release import HEAD, Release, ReleaseContents
from tests.conftest import make_catalog
from tests.serving.conftest import arm, lists_of, make_release

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@st.composite
def materials(draw: st.DrawFn) -> dict[str, Any]:
    """Ids in any order, tracks without artists, short lists, scores or none."""
    texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=9)
    ids = draw(st.lists(st.integers(0, 2**63 - 1) | texts, min_size=1, max_size=10, unique_by=str))
    num = len(ids)
    arms = {}
    for name in draw(st.sampled_from([["C"], ["C", "T1"], ["C", "T1", "T2"]])):
        rows = [draw(st.permutations(range(num)))[: draw(st.integers(0, num))] for _ in range(num)]
        arms[name] = (
            draw(st.sampled_from(["uniform", "ranked"])),
            draw(st.none() | st.just(rows)),
            draw(st.booleans()),
        )
    return {
        "ids": ids,
        "titles": draw(st.lists(TEXT, min_size=num, max_size=num)),
        "artists": draw(
            st.lists(st.none() | st.sampled_from(["ABBA", "Ñandú 🎵", "Ленин"]), min_size=num, max_size=num)
        ),
        "experiment": draw(TEXT.filter(bool)),
        "arms": arms,
        "top_tracks": draw(st.lists(st.integers(0, num - 1), unique=True)),
    }


def built(drawn: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `ReleaseContents`; not in the strategy, where beartype must not draw its samples."""
    arms, lists = {}, {}
    for name, (how, rows, has_scores) in drawn["arms"].items():
        arms[name] = arm("random" if rows is None else "lists", how)
        if rows is not None:
            lists[name] = lists_of(rows)
            ranks = np.arange(lists[name].rows.shape[1])
            lists[name].scores[...] = np.where((lists[name].rows >= 0) & has_scores, 1 - ranks / 8, np.nan)
    return {
        "experiment": drawn["experiment"],
        "arms": arms,
        "catalog": Catalog.from_columns(drawn["ids"], drawn["titles"], drawn["artists"], source="tracks.json"),
        "top_tracks": np.array(drawn["top_tracks"], np.int64),
        "lists": lists,
        "vectors": {},
    }


@settings(max_examples=60)
@given(drawn=materials(), num_at_once=st.integers(1, 12))
def test_what_is_written_is_read_back(drawn: dict[str, Any], num_at_once: int) -> None:
    given = built(drawn)
    catalog: Catalog = given["catalog"]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("segue.serving.release._NUM_AT_ONCE", num_at_once)
        version = ReleaseContents(**given).write(Path(folder), provenance={"by": "a test"})
        release = Release(Path(folder))
        assert (release.version, release.experiment, release.arms) == (version, given["experiment"], given["arms"])
        assert list(release.arms) == list(given["arms"])
        assert len(release) == len(catalog)
        assert release.keys.tolist() == sorted(catalog.keys.tolist())
        assert release.keys[release.top_tracks].tolist() == catalog.keys[given["top_tracks"]].tolist()
        assert release.has_texts == catalog.has_texts
        for old, track in enumerate(catalog.track_ids.tolist()):
            row = release.row_of(key_of(track))
            artist = catalog.artists[catalog.artist_of[old]]
            assert release.track(row) == {"artist": artist or None, "title": catalog.titles[old], "track": track}
            same = catalog.keys[catalog.artist_of == catalog.artist_of[old]]
            assert sorted(release.keys[release.artists.by(int(release.artist_of[row]))].tolist()) == sorted(
                same.tolist()
            )
            for name in release.arms:
                recommendations: Recommendations | None = given["lists"].get(name)
                entries = release.recommended(name, row)
                if recommendations is None:
                    assert entries == []
                    continue
                kept = recommendations.rows[old] >= 0
                expected = catalog.track_ids[recommendations.rows[old][kept]].tolist()
                assert [entry["track"] for entry in entries] == expected
                if not np.isnan(recommendations.scores).all():
                    assert [entry["score"] for entry in entries] == recommendations.scores[old][kept].tolist()
                else:
                    assert not any("score" in entry for entry in entries)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is of Linux")
def test_a_list_that_is_not_in_memory_is_read_alone(tmp_path: Path) -> None:
    lists = {"C": lists_of([[1], [0]])}
    release = make_release(tmp_path, catalog=make_catalog([0, 0]), arms={"C": arm()}, lists=lists)
    areas = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE)
    mapped = [area for area in areas if str(tmp_path) in area and "lists_" in area]
    assert len(mapped) == 1
    assert re.search(r"^VmFlags:.*\brr\b", mapped[0], re.MULTILINE)  # its pages are read one by one
    assert release.lists["C"].tolist() == [[1], [0]]


def test_a_list_that_the_file_gave_no_scores_has_none(tmp_path: Path) -> None:
    """A recommendations file may have scores on some lines only, and JSON has no NaN."""
    scores = [[0.5, 0.25], [np.nan, np.nan], [0.125, np.nan]]
    release = make_release(
        tmp_path,
        catalog=make_catalog([0, 0, 0]),
        arms={"C": arm()},
        lists={"C": lists_of([[1, 2], [0, 2], [0]], scores)},
    )
    assert [[entry.get("score") for entry in release.recommended("C", row)] for row in range(3)] == [
        [0.5, 0.25],
        [None, None],
        [0.125],
    ]
    assert "score" not in release.recommended("C", 1)[0]


def material() -> dict[str, Any]:
    return {
        "experiment": "TEST",
        "arms": {"C": arm(), "T1": arm(pick="ranked")},
        "catalog": make_catalog([0, 1, 1]),
        "top_tracks": np.array([2, 0]),
        "lists": {
            name: lists_of([[1, 2], [0], []], [[0.5, 0.25], [0.5, np.nan], [np.nan] * 2]) for name in ("C", "T1")
        },
        "vectors": {},
    }


def test_the_contents_alone_decide_the_version(tmp_path: Path) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    for folder in (first, again):
        folder.mkdir()
    version = ReleaseContents(**material()).write(first, provenance={"recommendations": "run:abc"})
    assert ReleaseContents(**material()).write(again, provenance={"recommendations": "/elsewhere/r.jsonl"}) == version
    assert len(version) == 12
    assert version.isalnum()


def renamed(catalog: Catalog) -> Catalog:
    titles = catalog.titles.copy()
    titles[0] = "Another"
    return Catalog(track_ids=catalog.track_ids, titles=titles, artist_of=catalog.artist_of, artists=catalog.artists)


@pytest.mark.parametrize(
    "change",
    [
        lambda given: given | {"arms": {"C": arm(artist_gap=1), "T1": arm(pick="ranked")}},
        lambda given: given | {"catalog": renamed(given["catalog"])},
        lambda given: given | {"top_tracks": np.array([0, 2])},
        lambda given: given | {"lists": given["lists"] | {"C": lists_of([[2, 1], [0], []])}},
    ],
    ids=["gap", "title", "top tracks", "order of a list"],
)
def test_other_contents_are_another_version(tmp_path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    versions = set()
    for name, contents in (("first", material()), ("other", change(material()))):
        (tmp_path / name).mkdir()
        versions.add(ReleaseContents(**contents).write(tmp_path / name, provenance={}))
    assert len(versions) == 2


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    ReleaseContents(**material()).write(folder, provenance={"recommendations": "r.jsonl"})
    return folder


@contextmanager
def restored(path: Path) -> Iterator[bytes]:
    """The bytes of a file that may be damaged in the block, and is as before after it."""
    contents = path.read_bytes()
    try:
        yield contents
    finally:
        path.write_bytes(contents)


def served(folder: Path) -> Any:
    release = Release(folder)
    lists = [[release.recommended(name, row) for row in range(len(release))] for name in release.arms]
    tracks = [release.track(row) for row in range(len(release))]
    return release.version, release.experiment, release.arms, lists, tracks, release.top_tracks.tolist()


def test_any_flipped_byte_of_any_array_is_refused(whole: Path) -> None:
    arrays = sorted(whole.glob("*.npy"))
    assert len(arrays) == 13
    for path in arrays:
        with restored(path) as contents:
            for place in {0, 6, 60, len(contents) // 2, len(contents) - 1}:
                path.write_bytes(contents[:place] + bytes([contents[place] ^ 1]) + contents[place + 1 :])
                with pytest.raises(InputError, match=rf"{path.name} is damaged: .*; load the release again"):
                    Release(whole)
    assert Release(whole).version


def test_any_flipped_byte_of_the_head_is_refused_or_changes_nothing_that_is_served(whole: Path) -> None:
    """Provenance, the digest of the catalogue and white space are not served and may be damaged."""
    path, before = whole / HEAD, served(whole)
    refused, messages = 0, set[str]()
    with restored(path) as contents:
        not_served_at = contents.index(b'"catalogue"')
        for bit, step in ((1, 1), (32, 5)):
            for place in range(0, len(contents), step):
                path.write_bytes(contents[:place] + bytes([contents[place] ^ bit]) + contents[place + 1 :])
                try:
                    after = served(whole)
                except InputError as error:
                    refused += 1
                    messages.add(str(error))
                else:
                    assert after == before, f"byte {place} of {contents[max(place - 20, 0) : place + 20]!r}"
                    assert place >= not_served_at or contents[place : place + 1].isspace()
    assert refused > len(contents) / 2
    assert all(str(whole) in message and "load" in message for message in messages)


@pytest.mark.parametrize("name", ["track_ids.npy", "lists_T1.npy", "titles_ends.npy", HEAD])
@pytest.mark.parametrize("damage", ["is gone", "is empty", "is cut off"])
def test_a_file_that_is_missing_or_cut_off_is_refused(whole: Path, name: str, damage: str) -> None:
    path = whole / name
    message = rf"{name} is damaged.*; load the release again|{name}: No such file"
    with restored(path) as contents:
        if damage == "is gone":
            path.unlink()
        else:
            path.write_bytes(contents[: 0 if damage == "is empty" else len(contents) // 2])
        with pytest.raises(InputError, match=message):
            Release(whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _: [], "does not describe a release; load it again"),
        (lambda head: head | {"version": 5}, "does not describe a release"),
        (lambda head: head | {"arms": {"C": {"recommender": "x"}}}, "damaged"),
        (lambda head: head | {"arrays": {"../../etc/passwd": "abc"}}, "does not describe a release"),
        (lambda head: head | {"arrays": {}}, "damaged"),
        (lambda head: head | {"experiment": "OTHER"}, "damaged"),
        (lambda head: head | {"version": "abcabcabcabc"}, "damaged"),
    ],
)
def test_a_head_that_describes_something_else_is_refused(
    whole: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    path = whole / HEAD
    with restored(path) as contents:
        path.write_text(json.dumps(change(json.loads(contents))))
        with pytest.raises(InputError, match=message):
            Release(whole)
        path.write_bytes(b"[" * 100_000)
        with pytest.raises(InputError, match=rf"{HEAD} is damaged"):
            Release(whole)


def test_a_folder_without_a_release_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"cannot read .*{HEAD}: No such file"):
        Release(tmp_path)
