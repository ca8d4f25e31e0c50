from pathlib import Path

from tests.datamodules.reading import read, rejected_lines


def test_seconds_played_become_a_share_of_the_duration(tmp_path: Path) -> None:
    (tmp_path / "tracks.csv").write_text(
        'item_id,duration_ms,title,artist\n1,200000.0,"One, two",Ann\n2,50000.0,Two,\n3,,Three,Ann\n'
    )
    (tmp_path / "stage1.csv").write_text(
        "user_id,item_id,timestamp,duration\n1,1,1000,50\n1,2,1100,60.5\n1,1,1200,\n1,1,1300,-5\n1,3,1400,5\n"
    )
    log = read("situnes", tmp_path)
    assert log.rows == [
        (1, 1000000, 0, 0.25, False),
        (1, 1100000, 1, 1.0, False),
        (1, 1200000, 0, None, False),
        (1, 1400000, 2, None, False),
    ]
    kept = rejected_lines(tmp_path)
    assert [line["reason"] for line in kept] == ["duration must be a number of seconds, at least 0, got -5"]
