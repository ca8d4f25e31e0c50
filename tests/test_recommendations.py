import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.errors import InputError
from src.recommendations import Recommendations, check_k
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
    recommendations.write(path, catalog)
    again = Recommendations.read(path, catalog)
    np.testing.assert_array_equal(again.rows, recommendations.rows)
    np.testing.assert_allclose(again.scores, recommendations.scores, atol=5e-7)
    assert [p.name for p in path.parent.iterdir()] == ["recommendations.jsonl"]


def test_a_line_is_what_botify_loads(tmp_path: Path) -> None:
    path = tmp_path / "recommendations.jsonl"
    rows = np.array([[1, 2], [2, 0], [0, 1]])
    Recommendations(rows=rows, scores=np.full((3, 2), 0.5, np.float32)).write(path, make_catalog([0, 0, 1]))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[0] == {
        "artist": "Artist 0",
        "title": "Title 0",
        "track": 100,
        "recommendations": [101, 102],
        "scores": [0.5, 0.5],
    }
    assert len(lines) == 3


def test_a_file_of_botify_without_scores_and_with_short_lists_is_read(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text(
        '{"artist": "Artist 0", "title": "Title 1", "track": 101, "recommendations": [100, 102]}\n'
        '{"artist": "Artist 0", "title": "Title 0", "track": 100, "recommendations": [102]}\n'
    )
    recommendations = Recommendations.read(path, make_catalog([0, 0, 0]))
    assert recommendations.rows.tolist() == [[2, -1], [0, 2], [-1, -1]]
    assert np.isnan(recommendations.scores).all()


GOOD = '{"track": 100, "recommendations": [101], "scores": [0.5]}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "\n{", "line 2 is damaged: not JSON"),
        (GOOD + "\n" + GOOD, "line 2: track 100 has two lines"),
        ("[1]", 'line 1 is damaged: expected an object with a whole number under "track"'),
        ('{"track": true, "recommendations": []}', 'whole number under "track"'),
        ('{"track": 100}', '"recommendations" must be a list of track ids'),
        ('{"track": 100, "recommendations": [101, "x"]}', "must be a list of track ids"),
        ('{"track": 100, "recommendations": [101, 101]}', "distinct tracks other than 100"),
        ('{"track": 100, "recommendations": [100]}', "distinct tracks other than 100"),
        ('{"track": 100, "recommendations": [101], "scores": []}', "one finite number for each"),
        ('{"track": 100, "recommendations": [101], "scores": [NaN]}', "one finite number for each"),
        ('{"track": 100, "recommendations": [101], "scores": [1' + "0" * 400 + "]}", "one finite number for each"),
        ("[" * 100_000, "line 1 is damaged"),
        ('{"track": 100, "recommendations": [999]}', "line 1: track 999 is not in the catalogue of 3 tracks"),
        (GOOD + '\n{"track": 7, "recommendations": [101]}', "line 2: track 7 is not in the catalogue"),
        ('{"track": 1' + "0" * 30 + ', "recommendations": []}', 'whole number under "track"'),
        ("", "is empty"),
        (b"\xff\xfe", "line 1 is damaged"),
    ],
)
def test_a_damaged_file_is_refused_with_file_and_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = tmp_path / "recommendations.jsonl"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=message) as error:
        Recommendations.read(path, make_catalog([0, 0, 1]))
    assert str(path) in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read recommendations from .*gone.jsonl: No such file"):
        Recommendations.read(tmp_path / "gone.jsonl", make_catalog([0]))


@pytest.mark.parametrize("k", [0, 3, -1])
def test_a_list_longer_than_the_catalogue_is_refused(k: int) -> None:
    with pytest.raises(
        InputError,
        match=f"k must be a whole number of at least 1 and at most 2, got {k}; a list of a catalogue of 3 tracks",
    ):
        check_k(k, 3)


@pytest.mark.parametrize("names", ['"artist": "Artist 0", "title": "Other"', '"artist": "Other", "title": "Title 1"'])
def test_a_file_with_other_names_than_the_catalogue_is_refused(tmp_path: Path, names: str) -> None:
    path = tmp_path / "other.jsonl"
    path.write_text(f'{{{names}, "track": 101, "recommendations": [100]}}\n')
    with pytest.raises(
        InputError, match=r"line 1: track 101 is .*use the catalogue that these recommendations were made"
    ):
        Recommendations.read(path, make_catalog([0, 0]))
