import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from segue.catalog import Catalog
from segue.errors import InputError
from segue.runs.catalog_files import read_catalog, write_lines
from tests.conftest import make_catalog


def test_rows_and_ids_convert_to_each_other() -> None:
    catalog = make_catalog([0, 1, 0])
    assert catalog.rows_of(np.array([102, 100, 7])).tolist() == [2, 0, -1]
    assert catalog.track_ids[catalog.rows_of(catalog.track_ids)].tolist() == [100, 101, 102]


def test_lines_are_written_one_by_one(tmp_path: Path) -> None:
    """All lines of ten million tracks are more than a gigabyte."""
    records = ({"title": "a" * 10_000} for _ in range(500))
    tracemalloc.start()
    write_lines(tmp_path / "tracks.json", records)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "tracks.json").stat().st_size > 5_000_000
    assert peak < 1_000_000


def test_tracks_of_one_artist_share_its_row() -> None:
    catalog = make_catalog([5, 9, 5])
    assert catalog.artist_of.tolist() == [0, 1, 0]
    assert catalog.artists.tolist() == ["Artist 5", "Artist 9"]


def test_tracks_without_an_artist_share_none() -> None:
    catalog = Catalog.from_columns([1, 2, 3], ["a", None, "c"], [None, "x", None], source="tracks.csv")
    assert len(set(catalog.artist_of.tolist())) == 3
    assert catalog.num_artists == 3
    assert catalog.titles[1] == ""


@pytest.mark.parametrize(("tracks", "message"), [([], "tracks.json is empty"), ([1, 1], "track 1 occurs twice")])
def test_a_damaged_catalogue_is_refused(tracks: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Catalog.from_columns(tracks, ["t"] * len(tracks), ["a"] * len(tracks), source="tracks.json")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is damaged: not JSON"),
        ("[1]", "line 2 is damaged: not JSON"),
        ('{"track": 1.5, "title": "t", "artist": "a"}', 'line 2: .*"track" must be a whole number or a text, got 1.5'),
        ('{"track": 2, "title": "\\ud800", "artist": "a"}', "line 2 is damaged: not JSON"),
    ],
)
def test_a_damaged_line_of_a_catalogue_file_is_refused(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "tracks.json"
    path.write_text('{"track": 1, "title": "t", "artist": "a"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_catalog(path)
