import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.catalog import Catalog, Id, key_of
from segue.errors import InputError
from segue.runs.recommendations import FORMATS, Recommendations, check_k, key_of_lines, lists_of
from tests.conftest import make_catalog


@st.composite
def lists(draw: st.DrawFn) -> Recommendations:
    num_tracks = draw(st.integers(3, 12))
    k = draw(st.integers(1, num_tracks - 1))
    rows = np.array(
        [draw(st.permutations([c for c in range(num_tracks) if c != row]))[:k] for row in range(num_tracks)], np.int64
    )
    score = st.floats(-1, 1, width=32).map(lambda s: round(s, 6))
    scores = np.array([[draw(score) for _ in range(k)] for _ in range(num_tracks)], np.float32)
    return Recommendations(rows=rows, scores=scores)


@given(recommendations=lists())
def test_what_is_written_is_read_back(
    recommendations: Recommendations, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("r") / "recommendations.jsonl"
    catalog = make_catalog(range(len(recommendations.rows)))
    recommendations.write(path, catalog, format="botify")
    again = Recommendations.read(path, catalog)
    np.testing.assert_array_equal(again.rows, recommendations.rows)
    np.testing.assert_allclose(again.scores, recommendations.scores, atol=5e-7)
    assert [p.name for p in path.parent.iterdir()] == ["recommendations.jsonl"]


def test_a_file_of_botify_without_scores_and_with_short_lists_is_read(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text(
        '{"artist": "Artist 0", "title": "Title 1", "track": 101, "recommendations": [100, 102]}\n'
        '{"artist": "Artist 0", "title": "Title 0", "track": 100, "recommendations": [102]}\n'
    )
    recommendations = Recommendations.read(path, make_catalog([0, 0, 0]))
    assert recommendations.rows.tolist() == [[2, -1], [0, 2], [-1, -1]]
    assert np.isnan(recommendations.scores).all()


@pytest.mark.parametrize(("format", "key"), [("botify", "track"), ("botify_2026", "item_id")])
def test_a_line_is_what_botify_loads_and_every_form_is_read_alike(tmp_path: Path, format: str, key: str) -> None:
    catalog, rows, path = make_catalog([0, 0, 1]), np.array([[1, 2], [2, -1], [-1, -1]]), tmp_path / "r.jsonl"
    assert {*FORMATS} == {"botify", "botify_2026"}
    written = Recommendations(rows=rows, scores=np.where(rows >= 0, 0.5, np.nan).astype(np.float32))
    written.write(path, catalog, format=format)
    first, *others = (json.loads(line) for line in path.read_text().splitlines())
    names = {"artist": "Artist 0", "title": "Title 0", key: 100}
    assert first == {**names, "recommendations": [101, 102], "scores": [0.5, 0.5]}
    assert [line["recommendations"] for line in others] == [[102], []]
    read = Recommendations.read(path, catalog)
    assert (read.rows.tolist(), read.users) == (rows.tolist(), None)
    again, named = Recommendations.read_with_catalog(path)
    assert (again.rows.tolist(), named.titles.tolist()) == (rows.tolist(), catalog.titles.tolist())


def test_a_line_of_2026_without_names_is_read_and_its_catalogue_has_none(tmp_path: Path) -> None:
    path = tmp_path / "i2i.jsonl"
    path.write_text('{"item_id": 0, "recommendations": [2, 1]}\n{"item_id": 2, "recommendations": []}\n')
    with pytest.raises(InputError, match="line 1: track 1 is not in the catalogue of 2 tracks"):
        Recommendations.read_with_catalog(path)
    path.write_text(path.read_text() + '{"item_id": 1, "recommendations": [0]}\n')
    lists, catalog = Recommendations.read_with_catalog(path)
    assert catalog.track_ids.tolist() == [0, 2, 1]
    assert lists.rows.tolist() == [[1, 2], [-1, -1], [0, -1]]
    assert catalog.num_artists == 3, "each track has an artist of its own"


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=9)
ORDERS = st.permutations(range(5))


@given(
    users=st.dictionaries(st.integers(0, 2**63 - 1), ORDERS, min_size=1, max_size=8)
    | st.dictionaries(TEXTS, ORDERS, min_size=1, max_size=8)
)
def test_lists_of_users_are_those_of_the_lines_and_others_have_none(
    users: dict[Id, list[int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path, asked = tmp_path_factory.mktemp("u") / "users.json", [*users, "ten letters", 2**63 - 2]
    lists = {user: order[: order[0]] for user, order in users.items()}  # 0 to 4 tracks
    lines = ({"user": user, "tracks": [100 + row for row in rows]} for user, rows in lists.items())
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert key_of_lines(path) == "user"
    read = Recommendations.read(path, make_catalog([0] * 5))
    assert read.users is not None
    assert read.users.tolist() == sorted(map(key_of, users))
    found = lists_of(np.array([*map(key_of, asked)]), read.users, read.rows).tolist()
    assert [[row for row in rows if row >= 0] for rows in found] == [lists.get(user, []) for user in asked]


def test_lists_of_users_bring_no_catalogue(tmp_path: Path) -> None:
    path = tmp_path / "users.json"
    path.write_text('{"user": 7, "tracks": [100]}\n')
    with pytest.raises(InputError, match=r"has lists of users and therefore no catalogue; .* tracks=<path>"):
        Recommendations.read_with_catalog(path)


def test_a_file_is_read_without_an_object_for_each_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segue.runs.recommendations._NUM_AT_ONCE", 1000)
    num, k = 2000, 50
    rows = np.add.outer(np.arange(num), np.arange(1, k + 1)) % num
    lists = Recommendations(rows=rows, scores=np.full((num, k), 0.25, np.float32))
    lists.write(path := tmp_path / "r.jsonl", make_catalog([0] * num), format="botify")
    tracemalloc.start()
    read, _ = Recommendations.read_with_catalog(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (read.rows == rows).all()
    assert peak < 2 * (read.rows.nbytes + read.scores.nbytes)


GOOD = '{"track": 100, "recommendations": [101], "scores": [0.5]}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "\n{", "line 2 is damaged: Invalid JSON"),
        (GOOD + "\n" + GOOD, "line 2: track 100 has two lines"),
        ("[" * 100_000, "line 1 is damaged"),
        ("", "is empty"),
        ('{"track": 1' + "0" * 30 + ', "recommendations": []}', '"track" must be a whole number from 0 to'),
        ('{"track": 100, "recommendations": [101, 101]}', "distinct tracks"),
        ('{"track": 100, "recommendations": [100]}', "not the one that it is about"),
        ('{"track": 100, "recommendations": [101], "scores": []}', '"scores" must be one number for each candidate'),
        ('{"track": 100, "recommendations": [999]}', "line 1: track 999 is not in the catalogue of 3 tracks"),
        (GOOD + '\n{"track": 101, "recommendations": ["100"]}', "line 2 is damaged: its ids must be of the kind"),
        (GOOD + '\n{"track": "101", "recommendations": [100]}', "line 2 is damaged: its ids must be of the kind"),
        ('{"item_id": 100}', "line 1 is damaged: it has no 'recommendations'"),
        ('{"item_id": "", "recommendations": []}', '"item_id" must have 1 to 256 bytes, and has 0'),
        ('{"track": "100", "recommendations": ["a\\u0000b"]}', r"track 'a\\x00b' is not in the catalogue"),
        ('{"user": 7, "recommendations": [100]}', "it has no 'tracks'"),
        ('{"user": 7, "tracks": [100, 100]}', "line 1 is damaged: the list must name distinct tracks"),
        ('{"user": 7, "tracks": [100]}\n{"user": 7, "tracks": [101]}', "line 2: user 7 has two lines"),
        (GOOD + '\n{"item_id": 101, "recommendations": [100]}', "line 2 is damaged: it has no 'track'"),
    ],
)
def test_a_damaged_file_is_refused_with_file_and_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = tmp_path / "recommendations.jsonl"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=message) as error:
        Recommendations.read(path, make_catalog([0, 0, 1]))
    assert str(path) in str(error.value)


@pytest.mark.parametrize("k", [0, 3, -1])
def test_a_list_longer_than_the_catalogue_is_refused(k: int) -> None:
    with pytest.raises(InputError, match=f"k must be .* at least 1 and at most 2, got {k}; a list of a catalogue of 3"):
        check_k(k, 3)


@pytest.mark.parametrize("names", ['"artist": "Artist 0", "title": "Other"', '"artist": "Other", "title": "Title 1"'])
def test_a_file_with_other_names_than_the_catalogue_is_refused(tmp_path: Path, names: str) -> None:
    path = tmp_path / "other.jsonl"
    path.write_text(f'{{{names}, "track": 101, "recommendations": [100]}}\n')
    with pytest.raises(InputError, match=r"line 1: track 101 is .*use the catalogue that"):
        Recommendations.read(path, make_catalog([0, 0]))


def test_ids_that_are_texts_are_written_in_both_places_and_read_back(tmp_path: Path) -> None:
    catalog = Catalog.from_columns(["spotify:a", "é"], ["A", "B"], ["x", "y"], source="plays.csv")
    lists = Recommendations(rows=np.array([[1], [0]]), scores=np.full((2, 1), 0.5, np.float32))
    lists.write(path := tmp_path / "recommendations.jsonl", catalog, format="botify")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [(line["track"], line["recommendations"]) for line in lines] == [("spotify:a", ["é"]), ("é", ["spotify:a"])]
    again, named = Recommendations.read_with_catalog(path)
    assert (again.rows.tolist(), named.track_ids.tolist()) == ([[1], [0]], ["spotify:a", "é"])
