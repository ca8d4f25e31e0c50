"""From event logs to users: what is read, counted and rejected."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from src.abtest.log import read_users
from src.errors import InputError
from tests.conftest import event, write_lines


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
        (session(1, 100, (1.0, 1.5)), "sessions_with_bad_shares", 1, [1, 2, 3, 4]),
        (session(1, 100, (1.0, -0.5, 0.5)), "sessions_with_bad_shares", 1, [1, 2, 3, 4]),
        (session(1, 100, (0.5,)), "ends_without_session", 1, [1, 2, 3, 4]),
        (session(1, 100, (1.0, 0.5, 0.5))[:2], "sessions_without_end", 1, [1, 2, 3, 4]),
        (session(1, -100), "lines_behind_the_clock", 1, [1, 2, 3, 4]),
        (["{", *[*session(1, 100)] * 0], "lines_rejected", 1, [1, 2, 3, 4]),
        ([{**event(9, 0, 100), "experiments": {"OTHER": "C"}}], "lines_of_other_experiments", 1, [1, 2, 3, 4]),
    ],
)
def test_each_fault_of_a_log_is_counted_and_left_out(
    tmp_path: Path, more: list[Any], guard: str, count: int, users: list[int]
) -> None:
    read = read_users(log(tmp_path, [*CLEAN, *more]), experiment="TEST", max_rejected=0.2)
    assert {name: number for name, number in read.guards.items() if number} == {guard: count}
    assert read.user_ids.tolist() == users
    num_sessions = 2 if guard == "lines_behind_the_clock" else 1  # only this case adds a valid session
    assert read.sessions.tolist() == [num_sessions, 1, 1, 1]
    assert read.time.tolist() == [1.5 * num_sessions, 1.5, 1.5, 1.5]


def test_all_files_of_a_folder_are_read_as_one_log(tmp_path: Path) -> None:
    for number, name in enumerate(("a/data.json", "b/data.json", "b/data.json.1")):
        write_lines(tmp_path / name, CLEAN[number * 2 : number * 2 + 2] if number < 2 else CLEAN[4:])
    assert len(read_users(tmp_path, experiment=None, max_rejected=0.0)) == 4


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
        read_users(tmp_path / "logs", experiment=experiment, max_rejected=0.01)


def test_a_folder_without_logs_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"logs=.*: no data\.json in it or below it; name the run folder"):
        read_users(tmp_path, experiment=None, max_rejected=0.01)


def test_a_compressed_log_is_read_and_a_truncated_one_is_rejected(tmp_path: Path) -> None:
    content = gzip.compress("".join(json.dumps(line) + "\n" for line in CLEAN).encode())
    path = tmp_path / "data.json.gz"
    path.write_bytes(content)
    assert len(read_users(tmp_path, experiment=None, max_rejected=0.0)) == 4
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"data\.json\.gz is not a complete gzip file"):
        read_users(tmp_path, experiment=None, max_rejected=0.0)
