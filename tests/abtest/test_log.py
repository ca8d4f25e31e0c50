"""From event logs to users: what is read, counted and rejected."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from src.abtest.log import read_users
from src.abtest.unfinished import count_unfinished
from src.assignment import GUESTS
from src.errors import InputError
from tests.conftest import event, write_lines

READING: dict[str, Any] = {"interleaved": "separate", "session_gap_minutes": 30.0, "unfinished": "drop"}


def log(folder: Path, lines: list[dict[str, Any] | str]) -> Path:
    write_lines(folder / "data.json", lines)
    return folder


def session(
    user: int, start: int, shares: tuple[float, ...] = (1.0, 0.5), arm: str = "C"
) -> list[dict[str, Any] | str]:
    lines: list[dict[str, Any] | str] = []
    for step, share in enumerate(shares):
        message = "last" if step == len(shares) - 1 else "next"
        lines.append({**event(user, start + step, 100 + step, share, message), "experiments": {"TEST": arm}})
    return lines


CLEAN = [*session(1, 0), *session(2, 0), *session(3, 0, arm="T1"), *session(4, 0, arm="T1")]


@pytest.mark.parametrize(
    ("more", "guard", "count", "users"),
    [
        (session(5, 0) + session(5, 100, arm="T1"), "users_in_two_arms", 1, [1, 2, 3, 4]),
        (session(1, 0), "duplicate_lines", 2, [1, 2, 3, 4]),
        ([*session(1, 0), *session(1, 0)], "duplicate_lines", 4, [1, 2, 3, 4]),
        (session(1, 100, (1.0, 1.5)), "sessions_with_bad_shares", 1, [1, 2, 3, 4]),
        (session(1, 100, (1.0, -0.5, 0.5)), "sessions_with_bad_shares", 1, [1, 2, 3, 4]),
        (session(1, 100, (0.5,)), "ends_without_session", 1, [1, 2, 3, 4]),
        (session(1, 100, (1.0, 0.5, 0.5))[:2], "sessions_without_end", 1, [1, 2, 3, 4]),
        (session(1, -100), "lines_behind_the_clock", 1, [1, 2, 3, 4]),
        (["{", *[*session(1, 100)] * 0], "lines_rejected", 1, [1, 2, 3, 4]),
        ([*session(GUESTS[0], 0), *session(GUESTS[-1], 0, arm="T1")], "lines_of_guests", 4, [1, 2, 3, 4]),
        ([{**event(9, 0, 100), "experiments": {"OTHER": "C"}}], "lines_of_other_experiments", 1, [1, 2, 3, 4]),
    ],
)
def test_each_fault_of_a_log_is_counted_and_left_out(
    tmp_path: Path, more: list[Any], guard: str, count: int, users: list[int]
) -> None:
    read = read_users(log(tmp_path, [*CLEAN, *more]), experiment="TEST", max_rejected=0.2, **READING)
    assert {name: number for name, number in read.guards.items() if number} == {guard: count}
    assert read.user_ids.tolist() == users
    num_sessions = 2 if guard == "lines_behind_the_clock" else 1  # only this case adds a valid session
    assert read.sessions.tolist() == [num_sessions, 1, 1, 1]
    assert read.time.tolist() == [1.5 * num_sessions, 1.5, 1.5, 1.5]


def lines_of(user: int, *steps: tuple[int, int, int | None], arm: str = "C") -> list[dict[str, Any]]:
    """Lines from timestamp, track and recommendation; without one a line is the last of its session."""
    return [
        {
            **event(user, time, track, 0.5, "last" if recommended is None else "next"),
            "recommendation": recommended,
            "experiments": {"TEST": arm},
        }
        for time, track, recommended in steps
    ]


TWO_AT_ONCE = lines_of(
    1, (100, 10, 11), (101, 20, 21), (102, 11, None), (103, 21, None), (104, 30, 31), (105, 40, None), (106, 31, None)
)
"""Sessions 10 11 and 20 21, then 30 31 and 40; cut after each `last` they would be 10 20 11, 21, 30 40 and 31."""


@pytest.mark.parametrize(
    ("policy", "sessions", "orphans"), [("separate", [4, 1, 1, 1], 1), ("keep", [3, 1, 1, 1], 2), ("drop", [1] * 4, 0)]
)
def test_sessions_of_a_user_at_the_same_time_are_separated_kept_or_dropped(
    tmp_path: Path, policy: str, sessions: list[int], orphans: int
) -> None:
    reading = {**READING, "interleaved": policy}
    read = read_users(log(tmp_path, [*CLEAN, *TWO_AT_ONCE]), experiment="TEST", max_rejected=0.0, **reading)
    counts = {"interleaved_sessions": 4, "ends_without_session": orphans}
    assert {name: count for name, count in read.guards.items() if count} == {k: n for k, n in counts.items() if n}
    assert read.sessions.tolist() == sessions
    tracks = {"separate": 8, "keep": 7, "drop": 2}  # a `last` alone is no session
    assert read.tracks.tolist() == [tracks[policy], 2, 2, 2]


def test_lines_that_differ_in_their_latency_are_two_events_and_a_copy_is_one(tmp_path: Path) -> None:
    """Two sessions of a user end in the same millisecond with the same track; the second copy is not adjacent."""
    first, second = ({**event(1, 50, 100, 0.5, "last"), "latency": latency} for latency in (0.001, 0.002))
    start = [event(1, 40, 101), event(1, 41, 101)]
    more = [*start, first, second, dict(first), dict(second)]
    read = read_users(log(tmp_path, [*CLEAN, *more]), experiment="TEST", max_rejected=0.0, **READING)
    assert read.guards["duplicate_lines"] == 2
    assert read.num_events == len(CLEAN) + len(more)
    assert read.guards["ends_without_session"] == 1, "the second `last` is an event of its own"


def test_sessions_without_an_end_are_left_out_or_kept(tmp_path: Path) -> None:
    """User 1 has a finished session and an unfinished one; user 5 has only an unfinished one."""
    more = [*session(1, 100, (1.0, 0.5, 0.5))[:2], *session(5, 0, (1.0, 0.25, 1.0), arm="T1")[:2]]
    folder = log(tmp_path, [*CLEAN, *more])
    dropped, kept = (
        read_users(folder, experiment="TEST", max_rejected=0.0, **{**READING, "unfinished": policy})
        for policy in ("drop", "keep")
    )
    assert dropped.user_ids.tolist() == [1, 2, 3, 4]
    assert (kept.user_ids.tolist(), kept.sessions.tolist()) == ([1, 2, 3, 4, 5], [2, 1, 1, 1, 1])
    assert kept.time.tolist() == [3.0, 1.5, 1.5, 1.5, 1.25]
    for users in (dropped, kept):
        assert count_unfinished(users) == {"C": 1, "T1": 1}
        assert len(users.each) == 6


def test_a_session_without_an_end_is_not_joined_to_the_next_one_of_its_user(tmp_path: Path) -> None:
    """User 1 has a session without a `last`; the next one begins just after the longest pause, or just before it."""
    unfinished, gap_ms = session(1, 100, (1.0, 0.25, 1.0))[:2], 30 * 60_000
    for pause, lengths, time in ((gap_ms + 1, [2, 2, 2], [1.5, 1.25, 0.75]), (gap_ms, [2, 4], [1.5, 2.0])):
        folder = log(tmp_path / str(pause), [*CLEAN, *unfinished, *session(1, 101 + pause, (0.5, 0.25))])
        users = read_users(folder, experiment="TEST", max_rejected=0.0, **READING)
        own = users.each.where(users.each.user_ids == 1)
        assert (own.tracks.tolist(), own.time.tolist()) == (lengths, time)
        assert users.guards["sessions_without_end"] == len(lengths) - 2
        assert own.is_finished.tolist() == [True, False, True] if len(lengths) == 3 else [True, True]


def test_a_last_ends_its_session_after_any_pause(tmp_path: Path) -> None:
    late = {**event(1, 10_000_000, 101, 0.5, "last"), "experiments": {"TEST": "C"}}
    folder = log(tmp_path, [*CLEAN, *session(1, 100, (1.0, 0.5))[:1], late])
    users = read_users(folder, experiment="TEST", max_rejected=0.0, **READING)
    assert users.sessions.tolist() == [2, 1, 1, 1]
    assert not any(users.guards.values())


def test_users_are_counted_in_each_arm_before_anything_is_left_out(tmp_path: Path) -> None:
    """User 5 is in two arms, user 6 has only a fault, user 7 only an unfinished session; none of them is compared."""
    more = [*session(5, 0), *session(5, 100, arm="T1"), *session(6, 0, (0.5,)), *session(7, 0, arm="T1")[:1]]
    users = read_users(log(tmp_path, [*CLEAN, *more]), experiment="TEST", max_rejected=0.0, **READING)
    assert users.user_ids.tolist() == [1, 2, 3, 4]
    assert users.exposed.tolist() == [4, 4]


def test_an_unknown_policy_or_gap_is_rejected(tmp_path: Path) -> None:
    for changes, message in (
        ({"unfinished": "impute"}, "unfinished must be one of drop, keep, got 'impute'"),
        ({"interleaved": "split"}, "interleaved must be one of separate, keep, drop, got 'split'"),
        ({"session_gap_minutes": 0}, "session_gap_minutes must be a number above 0 .*got 0; 30 is usual"),
    ):
        with pytest.raises(InputError, match=message):
            read_users(log(tmp_path, CLEAN), experiment="TEST", max_rejected=0.0, **{**READING, **changes})


def test_all_files_of_a_folder_are_read_as_one_log(tmp_path: Path) -> None:
    for number, name in enumerate(("a/data.json", "b/data.json", "b/data.json.1")):
        write_lines(tmp_path / name, CLEAN[number * 2 : number * 2 + 2] if number < 2 else CLEAN[4:])
    assert len(read_users(tmp_path, experiment=None, max_rejected=0.0, **READING)) == 4


@pytest.mark.parametrize(
    ("lines", "experiment", "message"),
    [
        (None, None, "no such folder; name a folder with data.json files"),
        ([], None, "the logs are empty; name the logs of serve.py or simulate.py"),
        (CLEAN[:4], None, r"has only one arm \(C\); a comparison needs two arms"),
        (CLEAN, "OTHER", r"experiment=OTHER is not in .*; it has TEST"),
        (
            [*CLEAN, {**event(9, 0, 100), "experiments": {"B": "C"}}],
            None,
            r"has several experiments; choose experiment=B or TEST",
        ),
        ([*session(1, 0, arm="T1"), *session(2, 0, arm="T2")], None, "has no control arm C, only T1, T2"),
        (["{", "["], None, "2 of 2 lines are not events, more than max_rejected=0.01 allows"),
        (
            [{**event(9, 0, 100), "experiments": {}}],
            None,
            r'no line names an experiment; an event of one has "experiments": \{"<name>": "C"\}',
        ),
    ],
)
def test_an_unusable_log_is_rejected_with_its_reason(
    tmp_path: Path, lines: list[Any] | None, experiment: str | None, message: str
) -> None:
    if lines is not None:
        log(tmp_path / "logs", lines)
    with pytest.raises(InputError, match=message):
        read_users(tmp_path / "logs", experiment=experiment, max_rejected=0.01, **READING)


def test_a_folder_without_logs_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"logs=.*: no data\.json in it or below it; name the run folder"):
        read_users(tmp_path, experiment=None, max_rejected=0.01, **READING)


def test_a_compressed_log_is_read_and_a_truncated_one_is_rejected(tmp_path: Path) -> None:
    content = gzip.compress("".join(json.dumps(line) + "\n" for line in CLEAN).encode())
    path = tmp_path / "data.json.gz"
    path.write_bytes(content)
    assert len(read_users(tmp_path, experiment=None, max_rejected=0.0, **READING)) == 4
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"data\.json\.gz is not a complete gzip file"):
        read_users(tmp_path, experiment=None, max_rejected=0.0, **READING)
