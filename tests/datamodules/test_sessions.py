"""Where sessions are cut; `test_pairs.py` holds whole logs to slow loops."""

from pathlib import Path
from typing import Any

import pytest

from segue.datamodules.pairs.sessions import Sessions, cut_sessions
from segue.errors import InputError
from tests.conftest import event, write_lines, write_tracks
from tests.datamodules.reading import opened, rules_of

GAP_MS = 30 * 60_000


def sessions_of(folder: Path, events: list[dict[str, Any]], gap_minutes: float = 30.0) -> Sessions:
    write_tracks(folder, range(4))
    write_lines(folder / "logs" / "data.json", events)
    with opened("botify", folder) as source:
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


def test_a_gap_out_of_range_is_refused(tmp_path: Path) -> None:
    message = "session_gap_minutes must be a number above 0 and at most 1000000000, got 0"
    with pytest.raises(InputError, match=message):
        sessions_of(tmp_path, [event(1, 0, 100)], gap_minutes=0.0)
