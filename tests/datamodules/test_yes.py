from pathlib import Path

from tests.datamodules.reading import read, rejected_lines


def test_radio_playlists_become_one_user_each(tmp_path: Path) -> None:
    (tmp_path / "song_hash.txt").write_text('5\tA "quoted" title\tBob\n6\tTwo\tBob\n7\tThree\tEve\n')
    (tmp_path / "train.txt").write_text("1 2 3\n9 9 9\n5 6 7 \n6 \n7 x\n5 99 6\n7 7\n")
    log = read("yes", tmp_path)
    assert log.catalog.titles[0] == 'A "quoted" title'
    assert log.catalog.artist_of.tolist() == [0, 0, 1]
    playlists: dict[object, list[object]] = {}
    for user, _, track, played_ratio, _ in log.rows:
        playlists.setdefault(user, []).append(track)
        assert played_ratio is None
    assert list(playlists.values()) == [[0, 1, 2], [1], [2, 2]]
    kept = rejected_lines(tmp_path)
    assert [(line["line"], line["reason"]) for line in kept] == [
        (5, "song must be a whole number"),
        (6, "track 99 is not in song_hash.txt"),
    ]
