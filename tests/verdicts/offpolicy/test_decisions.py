"""From event logs to decisions: what is read, and what is left out."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segue.assignment import GUESTS
from segue.errors import InputError
from segue.verdicts.offpolicy.decisions import LEFT_OUT, Decisions, left_out_text, read_decisions
from tests.conftest import event, make_catalog, write_lines

CATALOG = make_catalog(range(20))


def session(
    user: int, start: int, shares: tuple[float, ...] = (1.0, 0.5, 0.25), *, propensity: Any = 0.1, release: str = "a"
) -> list[dict[str, Any] | str]:
    """Tracks 100, 101, …, each recommended by the line before it."""
    lines: list[dict[str, Any] | str] = []
    for step, share in enumerate(shares):
        is_last = step == len(shares) - 1
        line = event(user, start + step, 100 + step, share, "last" if is_last else "next")
        if not is_last:
            line |= {"recommendation": 101 + step, "propensity": propensity, "release": release}
        lines.append(line)
    return lines


def read(folder: Path, lines: list[dict[str, Any] | str]) -> Decisions:
    write_lines(folder / "data.json", lines)
    return read_decisions(folder, CATALOG, max_rejected=0.01, session_gap_minutes=30)


def test_a_propensity_belongs_to_the_track_that_is_played_next(tmp_path: Path) -> None:
    late, early = session(1, 500), session(2, 0, (1.0, 0.0), propensity=0.2)
    found = read(tmp_path, [*early, *late])
    assert found.users.tolist() == [2, 1]
    assert found.started_ms.tolist() == [0, 500]
    assert found.lengths.tolist() == [2, 3]
    assert [found.settings[s] for s in found.setting.tolist()] == [('{"TEST":"C"}', "a")] * 2
    tracks, propensities = (
        [column[start : start + length].tolist() for start, length in zip(found.first, found.lengths, strict=True)]
        for column in (found.tracks, found.propensities)
    )
    assert tracks == [[0, 1], [0, 1, 2]]
    assert propensities == [pytest.approx([np.nan, 0.2], nan_ok=True), pytest.approx([np.nan, 0.1, 0.1], nan_ok=True)]
    assert not any(found.left_out.values())
    assert found.where(np.array([False, True])).users.tolist() == [1]


def other_track(lines: list[dict[str, Any] | str]) -> list[dict[str, Any] | str]:
    return [
        {**line, "recommendation": 119} if isinstance(line, dict) and line["track"] == 100 else line for line in lines
    ]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (session(GUESTS[7], 0), "guests"),
        (session(9, 0)[:2], "without_end"),
        (session(9, 0)[-1:], "without_recommendation"),
        (other_track(session(9, 0)), "ignored_recommendations"),
        ([*session(9, 0, (1.0,) * 22)], "unknown_tracks"),
        (session(9, 0, (1.0, 1.5)), "bad_shares"),
        (session(9, 0, propensity=None), "without_propensity"),
        (session(9, 0, propensity=0.0), "without_propensity"),
        ([*session(9, 0)[:1], *session(9, 0, release="b")[1:]], "several_releases"),
    ],
)
def test_each_reason_is_counted(tmp_path: Path, lines: list[Any], reason: str) -> None:
    found = read(tmp_path, [*session(1, 0), *lines])
    assert found.users.tolist() == [1]
    assert {name: num for name, num in found.left_out.items() if num} == {reason: 1}
    assert left_out_text(found.left_out) == f"1 {LEFT_OUT[reason]}"
    assert found.num_sessions == 2


def test_sessions_of_a_user_at_the_same_time_are_separated(tmp_path: Path) -> None:
    one = session(1, 0)
    other = [{**line, "track": line["track"] + 10} for line in session(1, 0) if isinstance(line, dict)]
    other = [
        line | {"recommendation": line["recommendation"] + 10} if line["recommendation"] else line for line in other
    ]
    lines = [line for pair in zip(one, other, strict=True) for line in pair]
    found = read(tmp_path, lines)
    assert len(found) == 2
    assert not any(found.left_out.values())


def test_a_session_whose_end_was_lost_does_not_lengthen_the_next_one(tmp_path: Path) -> None:
    hour = 3_600_000
    found = read(tmp_path, [*session(1, 0)[:2], *session(1, hour)])
    assert (found.num_sessions, found.left_out["without_end"], found.left_out["ignored_recommendations"]) == (2, 1, 0)
    assert found.started_ms.tolist() == [hour]


@pytest.mark.parametrize(
    ("folder", "lines", "message"),
    [
        ("nowhere", [], "no such folder; name a folder with data.json files"),
        ("", None, "no data.json in it or below it"),
        ("", [event(1, 0, 100), event(1, 1, 101, 1.0, "last")], "no line has a propensity; an estimate needs logs"),
    ],
)
def test_logs_without_propensities_are_refused(tmp_path: Path, folder: str, lines: Any, message: str) -> None:
    if lines is not None:
        write_lines(tmp_path / "data.json", lines)
    with pytest.raises(InputError, match=message):
        read_decisions(tmp_path / folder, CATALOG, max_rejected=0.01, session_gap_minutes=30)


def test_lines_that_are_not_events_are_counted_and_too_many_are_refused(tmp_path: Path) -> None:
    lines = [line for user in range(40) for line in session(user, 10 * user)]
    damaged = [*lines, '{"message": "next", "timest']
    found = read(tmp_path, damaged)
    assert (found.lines_rejected, len(found)) == (1, 40)
    with pytest.raises(InputError, match=r"logs=.*: 2 of 122 lines are not events, more than max_rejected=0.01 allows"):
        read(tmp_path, [*damaged, event(1, 0, 100) | {"message": "pause"}])
    for wrong in ({"user": True}, {"user": 1.0}, {"track": 100.5}, {"timestamp": "7"}, {"recommendation": 1.5}):
        assert read(tmp_path, [*lines, event(1, 0, 100) | wrong]).lines_rejected == 1
    with pytest.raises(InputError, match="max_rejected must be a number of at least 0 and at most 1, got 2"):
        read_decisions(tmp_path, CATALOG, max_rejected=2, session_gap_minutes=30)


def test_propensities_may_begin_anywhere_in_the_log(tmp_path: Path) -> None:
    old = [line for user in range(7000) for line in session(user, 10 * user)]
    for line in old:
        assert isinstance(line, dict)
        line.pop("propensity", None)
    found = read(tmp_path, [*old, *session(9000, 10**6)])
    assert found.users.tolist() == [9000]
    assert found.left_out["without_propensity"] == 7000
