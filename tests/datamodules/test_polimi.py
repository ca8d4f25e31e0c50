from pathlib import Path

import pytest

from segue.errors import InputError
from tests.datamodules.reading import read, rejected_lines


def test_ordered_playlists_are_sessions_of_the_source(tmp_path: Path) -> None:
    (tmp_path / "tracks.csv").write_text("track_id,album_id,artist_id,duration_sec\n10,1,3,100\n11,1,4,100\n")
    (tmp_path / "train_sequential.csv").write_text("playlist_id,track_id\n7,11\n7,10\n9,10\n9,x\n9,10,1\n9,12\n")
    log = read("polimi", tmp_path, max_rejected=0.6)
    assert [(user, track) for user, _, track, _, _ in log.rows] == [(7, 1), (7, 0), (9, 0)]
    assert log.catalog.artists.tolist() == ["3", "4"]
    kept = rejected_lines(tmp_path)
    assert [(line["line"], line["reason"]) for line in kept] == [
        (5, "track_id must be a whole number"),
        (6, "a line must have 2 columns, got 3"),
        (7, "track 12 is not in tracks.csv"),
    ]


def test_a_wrong_header_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tracks.csv").write_text("track_id,album_id,artist_id,duration_sec\n10,1,3,100\n")
    (tmp_path / "train_sequential.csv").write_text("track,playlist\n10,7\n")
    message = r"datamodule.columns.user=playlist_id: .*it has track, playlist; did you mean playlist\?"
    with pytest.raises(InputError, match=message):
        read("polimi", tmp_path)
