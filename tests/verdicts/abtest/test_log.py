"""From event logs to users: what is read, counted and rejected."""

import gzip
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segue.assignment import GUESTS
from segue.errors import InputError
from segue.verdicts.abtest.analysis import analyse
from segue.verdicts.abtest.log import read_users
from segue.verdicts.abtest.slices import count_unfinished
from tests.conftest import event, write_lines
from tests.verdicts.abtest.users import settings

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


def of_experiments(experiments: dict[str, str]) -> dict[str, Any]:
    return {**event(9, 0, 100), "experiments": experiments}


CLEAN = [*session(1, 0), *session(2, 0), *session(3, 0, arm="T1"), *session(4, 0, arm="T1")]


@pytest.mark.parametrize(
    ("more", "guard", "count", "users"),
    [
        (session(5, 0) + session(5, 100, arm="T1"), "users_in_two_arms", 1, [1, 2, 3, 4]),
        (session(1, 0), "duplicate_lines", 2, [1, 2, 3, 4]),
        ([*session(1, 0), *session(1, 0)], "duplicate_lines", 4, [1, 2, 3, 4]),
        (session(1, 100, (1.0, 1.5)), "sessions_with_bad_shares", 1, [1, 2, 3, 4]),
        (session(1, 100, (1.0, -0.5, 0.5)), "sessions_with_bad_shares", 1, [1, 2, 3, 4]),
        (session(1, 100, (1.0, 0.5, 0.5))[:2], "sessions_without_end", 1, [1, 2, 3, 4]),
        ([*session(1, 200), *session(1, 100)], "lines_behind_the_clock", 1, [1, 2, 3, 4]),
        (["{", *[*session(1, 100)] * 0], "lines_rejected", 1, [1, 2, 3, 4]),
        ([*session(GUESTS[0], 0), *session(GUESTS[-1], 0, arm="T1")], "lines_of_guests", 4, [1, 2, 3, 4]),
        ([of_experiments({"OTHER": "C"})], "lines_of_other_experiments", 1, [1, 2, 3, 4]),
    ],
)
def test_each_fault_of_a_log_is_counted_and_left_out(
    tmp_path: Path, more: list[Any], guard: str, count: int, users: list[int]
) -> None:
    read = read_users(log(tmp_path, [*CLEAN, *more]), experiment="TEST", max_rejected=0.2, **READING)
    assert {name: number for name, number in read.guards.items() if number} == {guard: count}
    assert read.user_keys.tolist() == users
    num_sessions = 3 if guard == "lines_behind_the_clock" else 1  # only this case adds valid sessions
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
    ("policy", "sums", "ends"), [("separate", (5, 9, 5.0), 1), ("keep", (5, 9, 5.0), 2), ("drop", (1, 2, 1.5), 0)]
)
def test_sessions_of_a_user_at_the_same_time_are_separated_kept_or_dropped(
    tmp_path: Path, policy: str, sums: tuple[int, int, float], ends: int
) -> None:
    reading = {**READING, "interleaved": policy}
    read = read_users(log(tmp_path, [*CLEAN, *TWO_AT_ONCE]), experiment="TEST", max_rejected=0.0, **reading)
    assert (read.guards["interleaved_sessions"], read.guards["ends_without_session"]) == (4, ends)
    assert (read.sessions[0], read.tracks[0], read.time[0]) == sums


@pytest.mark.parametrize("policy", ["separate", "keep"])
def test_sums_of_users_are_the_truth_however_their_sessions_overlap(tmp_path: Path, policy: str) -> None:
    """Four users play three sessions at a time; there are only 6 tracks, therefore two may wait for the same one."""
    rng, lines = np.random.default_rng(4), list[dict[str, Any]]()
    truth: dict[str, list[float]] = {"sessions": [30] * 4, "tracks": [0] * 4, "time": [0.0] * 4}
    for user in 10 * [0, 1, 2, 3]:
        turns, track = rng.permutation(np.repeat([0, 1, 2], rng.integers(1, 6, 3))).tolist(), rng.integers(6, size=3)
        for turn, one in enumerate(turns):
            recommended = int(rng.integers(6)) if one in turns[turn + 1 :] else None
            share, message = int(rng.integers(5)) / 4, "last" if recommended is None else "next"
            line = {**event(user, len(lines), int(track[one]), share, message), "recommendation": recommended}
            lines.append({**line, "experiments": {"TEST": "C" if user < 2 else "T1"}})
            track[one] = recommended or 0
            truth["tracks"][user] += 1
            truth["time"][user] += share
    reading = {**READING, "interleaved": policy}
    read = read_users(log(tmp_path, [*lines]), experiment="TEST", max_rejected=0.0, **reading)
    assert read.guards["ends_without_session"] > 9
    assert {name: getattr(read, name).tolist() for name in truth} == truth


def test_lines_that_differ_in_their_latency_are_two_events_and_a_copy_is_one(tmp_path: Path) -> None:
    """Two sessions of a user end in the same millisecond with the same track; the second copy is not adjacent."""
    first, second = ({**event(1, 50, 100, 0.5, "last"), "latency": latency} for latency in (0.001, 0.002))
    start = [event(1, 40, 101), event(1, 41, 101)]
    more = [*start, first, second, dict(first), dict(second)]
    read = read_users(log(tmp_path, [*CLEAN, *more]), experiment="TEST", max_rejected=0.0, **READING)
    assert read.guards["duplicate_lines"] == 2
    assert read.num_events == len(CLEAN) + len(more)
    assert read.tracks.tolist() == [6, 2, 2, 2], "the second `last` is an event of its own"


def test_sessions_without_an_end_are_left_out_or_kept(tmp_path: Path) -> None:
    """User 1 has a finished session and an unfinished one; user 5 has only an unfinished one."""
    more = [*session(1, 100, (1.0, 0.5, 0.5))[:2], *session(5, 0, (1.0, 0.25, 1.0), arm="T1")[:2]]
    folder = log(tmp_path, [*CLEAN, *more])
    dropped, kept = (
        read_users(folder, experiment="TEST", max_rejected=0.0, **{**READING, "unfinished": policy})
        for policy in ("drop", "keep")
    )
    assert dropped.user_keys.tolist() == [1, 2, 3, 4]
    assert (kept.user_keys.tolist(), kept.sessions.tolist()) == ([1, 2, 3, 4, 5], [2, 1, 1, 1, 1])
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
        own = users.each.where(users.each.user_keys == 1)
        assert (own.tracks.tolist(), own.time.tolist()) == (lengths, time)
        assert users.guards["sessions_without_end"] == len(lengths) - 2
        assert own.is_finished.tolist() == [True, False, True] if len(lengths) == 3 else [True, True]


def test_a_last_ends_its_session_after_any_pause(tmp_path: Path) -> None:
    """Also after one in which another session of the user began and ended."""
    late = {**event(1, 10_000_000, 101, 0.5, "last"), "experiments": {"TEST": "C"}}
    overlapping = lines_of(5, (100, 10, 11), (101, 20, 21), (102, 21, None), (10_000_000, 11, None))
    folder = log(tmp_path, [*CLEAN, *session(1, 100, (1.0, 0.5))[:1], late, *overlapping])
    users = read_users(folder, experiment="TEST", max_rejected=0.0, **READING)
    assert (users.user_keys.tolist(), users.sessions.tolist()) == ([1, 2, 3, 4, 5], [2, 1, 1, 1, 2])
    assert {name: count for name, count in users.guards.items() if count} == {"interleaved_sessions": 2}


def test_users_are_counted_in_each_arm_before_anything_is_left_out(tmp_path: Path) -> None:
    """User 5 is in two arms, user 6 has only a fault, user 7 only an unfinished session; none of them is compared."""
    more = [*session(5, 0), *session(5, 100, arm="T1"), *session(6, 0, (1.0, 1.5)), *session(7, 0, arm="T1")[:1]]
    users = read_users(log(tmp_path, [*CLEAN, *more]), experiment="TEST", max_rejected=0.0, **READING)
    assert users.user_keys.tolist() == [1, 2, 3, 4]
    assert users.exposed.tolist() == [4, 4]


def test_all_files_of_a_folder_are_read_as_one_log(tmp_path: Path) -> None:
    for number, name in enumerate(("a/data.json", "b/data.json", "b/data.json.1")):
        write_lines(tmp_path / name, CLEAN[number * 2 : number * 2 + 2] if number < 2 else CLEAN[4:])
    assert len(read_users(tmp_path, experiment=None, max_rejected=0.0, **READING)) == 4


@pytest.mark.parametrize(
    ("lines", "experiment", "message"),
    [
        (None, None, "no such folder; name a folder with data.json files"),
        ([], None, "the logs are empty; name the logs of serve.py or simulate.py"),
        (CLEAN[:4], None, "has only the arms C; a comparison needs a control arm C and at least one other"),
        (CLEAN, "OTHER", r"experiment=OTHER is not in .*; it has TEST"),
        ([*CLEAN, of_experiments({"B": "C"})], None, r"has several experiments; choose experiment=B or TEST"),
        ([*session(1, 0, arm="T1"), *session(2, 0, arm="T2")], None, "has only the arms T1, T2; a comparison needs a"),
        (
            ["{", "["],
            None,
            r"2 of 2 lines are not events, more than max_rejected=0.01 allows; the first is row 1 of \S+/data\.json: "
            "no message, timestamp, user and track; correct the lines, or raise max_rejected$",
        ),
        ([of_experiments({})], None, r'no line names an experiment; an event of one has "experiments": \{"<name>": "C'),
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
    path.write_bytes(gzip.compress("\n\n".join([*map(json.dumps, CLEAN), "x"]).encode()))
    with pytest.raises(InputError, match=r"the first is row 9 of \S+/data\.json\.gz: "):
        read_users(tmp_path, experiment=None, max_rejected=0.0, **READING)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"data\.json\.gz is not a complete gzip file"):
        read_users(tmp_path, experiment=None, max_rejected=0.0, **READING)


WHOLE = [1.0, 1.5, 1e3, True, False, "1", "1.5", [1], {"a": 1}, 2**63, -(2**70), 10**40, math.nan, math.inf]
NUMBER = [True, False, "0.5", [0.5], {"a": 1}, math.nan, math.inf, 10**400]
NO_ID = [*(one for one in WHOLE if not isinstance(one, str)), *(-1, "", "a\0b", "x" * 257, "é" * 129)]
AN_ID = " must be a whole number from 0 to 2⁶³-1, or a text of 1 to 256 bytes without NUL"
WRONG: dict[str, tuple[list[Any], str]] = {
    **dict.fromkeys(("user", "track"), ([*NO_ID, None], AN_ID)),
    "timestamp": ([*WHOLE, None, -1, -(2**63), 2**63 - 1], " must be a whole number of milliseconds since 1970"),
    "recommendation": (NO_ID, f"{AN_ID}, or null"),
    "time": ([*NUMBER, None], " must be a number"),
    "latency": ([*NUMBER, -1, 1e7], " must be a number of seconds, from 0 to 1e6"),
    "message": ([True, 1, None, "nxt"], ' must be "next" or "last"'),
    "experiments": ([None], " is missing"),
}
"""Values of each key that make a line no event, and the rule in the message."""


@pytest.mark.parametrize("key", WRONG)
def test_a_line_with_a_wrong_value_is_rejected_with_its_place(tmp_path: Path, key: str) -> None:
    """The numbers of the other lines stay as they are; `true` and 1.0 are not user 1."""
    values, rule = WRONG[key]
    event_of_arm: dict[str, Any] = {**event(1, 100, 100), "experiments": {"TEST": "C"}}
    wrong = [json.dumps({**event_of_arm, key: value}) for value in values]
    folder = log(tmp_path / "logs [1]", [*CLEAN[:5], "", *wrong, *CLEAN[5:]])
    read = read_users(folder, experiment="TEST", max_rejected=0.9, **READING)
    assert {name: number for name, number in read.guards.items() if number} == {"lines_rejected": len(values)}
    assert read.sessions.tolist() == [1, 1, 1, 1]
    outside_json = [line for line in wrong if re.search("NaN|Infinity|0{300}", line)]
    for line in (wrong[0], *outside_json):
        folder = log(tmp_path / "logs [1]", [*CLEAN[:5], "", line, *CLEAN[5:]])
        with pytest.raises(InputError) as refused:
            read_users(folder, experiment="TEST", max_rejected=0.01, **READING)
        assert "1 of 9 lines are not events" in str(refused.value)
        assert f"the first is row 6 of {folder}/data.json: {key}{rule}" in str(refused.value)


def test_an_arm_of_one_line_is_named_and_can_be_left_out(tmp_path: Path) -> None:
    stray = of_experiments({"TEST": "T7"})
    folder = log(tmp_path, [*CLEAN, *session(5, 0), *session(6, 0, arm="T1"), stray])
    users = read_users(folder, experiment="TEST", max_rejected=0.0, **READING)
    with pytest.raises(InputError) as refused:
        analyse(users, settings())
    assert "arm T7 of experiment TEST has 0 users" in str(refused.value)
    assert str(refused.value).endswith("arms=[C,T1] leaves the arm out")
    users = read_users(folder, experiment="TEST", arms=["C", "T1"], max_rejected=0.0, **READING)
    assert {name: number for name, number in users.guards.items() if number} == {"lines_of_other_arms": 1}
    assert (users.arms, users.exposed.tolist(), users.user_keys.tolist()) == (["C", "T1"], [3, 3], [1, 2, 3, 4, 5, 6])
    analyse(users, settings())


def test_users_who_were_also_in_an_arm_that_is_left_out_are_left_out(tmp_path: Path) -> None:
    folder = log(tmp_path, [*CLEAN, *session(5, 0), *session(5, 100, arm="T2"), *session(6, 0, arm="T2")])
    users = read_users(folder, experiment="TEST", arms=["T1", "C"], max_rejected=0.0, **READING)
    counts = {"lines_of_other_arms": 4, "users_in_two_arms": 1}
    assert {name: number for name, number in users.guards.items() if number} == counts
    assert (users.arms, users.exposed.tolist()) == (["C", "T1"], [3, 2])
    assert users.user_keys.tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("arms", [["C"], ["T1", "T2"], ["C", "C"]])
def test_arms_that_cannot_be_compared_are_refused(tmp_path: Path, arms: Any) -> None:
    with pytest.raises(InputError, match="arms must have the control C and at least one"):
        read_users(tmp_path, experiment=None, arms=arms, max_rejected=0.0, **READING)
