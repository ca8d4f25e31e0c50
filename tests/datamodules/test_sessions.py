"""Where sessions are cut; `test_pairs.py` holds whole logs to slow loops."""

from pathlib import Path
from typing import Any

import numpy as np

from segue.datamodules.pairs.sessions import Sessions, cut_sessions
from tests.conftest import event, write_log
from tests.datamodules.reading import opened, rules_of

GAP_MS = 30 * 60_000


def sessions_of(folder: Path, events: list[dict[str, Any]], gap_minutes: float = 30.0) -> Sessions:
    with opened("botify", write_log(folder, range(4), events)) as source:
        return cut_sessions(source, rules_of(session_gap_minutes=gap_minutes))


def test_a_pause_of_exactly_the_gap_does_not_end_a_session(tmp_path: Path) -> None:
    times = [0, GAP_MS, 2 * GAP_MS + 1]
    sessions = sessions_of(tmp_path, [event(1, time, 100 + row) for row, time in enumerate(times)])
    assert sessions.key.tolist() == ["1/1", "1/2"]
    assert sessions.listens.session.tolist() == [0, 0, 1]


def test_sessions_come_in_the_order_of_their_start_with_their_listener(tmp_path: Path) -> None:
    events = [
        event(7, 1000, 100),
        event(5, 2000, 101, 0.5),
        event(7, 3000, 102, message="last"),
        event(5, 4000, 103, message="last"),
        event(7, 5000, 100),
    ]
    sessions = sessions_of(tmp_path, events)
    assert sessions.key.tolist() == ["7/1", "5/1", "7/2"]
    assert sessions.listener.tolist() == [1, 0, 1]
    assert sessions.listens.session.tolist() == [0, 0, 1, 1, 2]
    assert sessions.listens.track.tolist() == [0, 2, 1, 3, 0]
    assert sessions.listens.played_ratio.tolist() == [1.0, 1.0, 0.5, 1.0, 1.0]
    assert sessions.place.tolist() == [0, 1, 0, 1, 0]
    assert sessions.has_clock


def sessions_of_table(folder: Path, text: str, **changes: Any) -> Sessions:
    """Of a table whose times are in seconds."""
    (folder / "plays.csv").write_text(text)
    units = {"timestamp": "s", "duration": "s"}
    with opened("table", folder / "plays.csv", changes={"units": units, **changes}) as source:
        return cut_sessions(source, rules_of())


def test_a_share_is_the_part_of_a_track_that_fits_before_the_next_one_starts(tmp_path: Path) -> None:
    """It is unknown for the last track of a session."""
    text = "user,timestamp,track,duration\n1,1000,a,100\n1,1025,b,100\n1,1225,a,100\n1,9000,b,100\n2,1000,a,100\n"
    sessions = sessions_of_table(tmp_path, text, share="gap")
    shares = dict(zip(sessions.key.tolist(), np.split(sessions.listens.played_ratio, [3, 4]), strict=True))
    assert sessions.key.tolist() == ["1/1", "2/1", "1/2"]
    np.testing.assert_array_equal(shares["1/1"], np.array([0.25, 1.0, np.nan], np.float32))
    assert np.isnan([*shares["2/1"], *shares["1/2"]]).all()


def test_sessions_of_a_source_stay_together_although_their_events_alternate(tmp_path: Path) -> None:
    text = "user,timestamp,track,session\n1,1000,a,x\n1,1001,b,y\n1,1002,c,x\n1,1003,d,y\n1,1004,e,x\n"
    sessions = sessions_of_table(tmp_path, text)
    assert sessions.listens.session.tolist() == [0, 0, 0, 1, 1]
    assert sessions.timestamp.tolist() == [1_000_000, 1_002_000, 1_004_000, 1_001_000, 1_003_000]
