"""From event logs to the first decisions of sessions: what is read, and what is left out."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segue.assignment import GUESTS
from segue.errors import InputError
from segue.runs.profiles import DAY_MS, ENTRY, Profiles
from segue.verdicts.offpolicy import decisions
from segue.verdicts.offpolicy.decisions import LEFT_OUT, Decisions, left_out_text, read_decisions
from tests.conftest import event, make_catalog, write_lines

CATALOG = make_catalog(range(20))
NOBODY = Profiles.of(np.empty(0, np.int64), np.zeros(0, ENTRY))


def session(
    user: int, start: int, shares: tuple[float, ...] = (1.0, 0.5, 0.25), *, first: int = 100, **others: Any
) -> list[dict[str, Any]]:
    """Tracks 100, 101, …, each recommended by the line before it."""
    lines = []
    for step, share in enumerate(shares):
        is_last = step == len(shares) - 1
        line = event(user, start + step, first + step, share, "last" if is_last else "next")
        recommended = {} if is_last else {"recommendation": first + 1 + step, "propensity": 0.1}
        lines.append(line | recommended | others)
    return lines


def read(folder: Path, lines: list[Any]) -> Decisions:
    write_lines(folder / "data.json", lines)
    return read_decisions(folder, CATALOG, max_rejected=0.01, session_gap_minutes=30)


def test_a_decision_is_the_first_recommendation_of_a_session_with_the_share_of_the_next_line(tmp_path: Path) -> None:
    lines = [*session(2, 0, (1.0, 0.0), first=107, propensity=0.2), *session(1, 500), *session(2, 900)]
    found = read(tmp_path, [*lines, *session(3, 0)[:2]])  # one that was cut off has its first recommendation too
    columns = {name: found.of(name).tolist() for name in ("user_id", "track", "propensity", "nth")}
    assert columns == {
        "user_id": [1, 2, 2, 3], "track": [0, 7, 0, 0], "propensity": [0.1, 0.2, 0.1, 0.1], "nth": [0, 0, 2, 0],
    }  # fmt: skip
    assert (found.of("track", 1).tolist(), found.of("time", 1).tolist()) == ([1, 8, 1, 1], [0.5, 0.0, 0.5, 0.5])
    assert found.arms == ["C"]
    assert not any(found.left_out.values())
    assert found.where(np.array([False, True, False, False])).of("user_id").tolist() == [2]


def ignored(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [lines[0] | {"recommendation": 119}, *lines[1:]]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (session(GUESTS[7], 0), "guests"),
        (session(9, 0)[:1], "without_recommendation"),
        (session(9, 0)[-1:], "without_recommendation"),
        (ignored(session(9, 0)), "ignored_recommendation"),
        (session(9, 0, first=119), "unknown_tracks"),
        (session(9, 0, (1.0, 1.5)), "bad_shares"),
        *((session(9, 0, propensity=one), "without_propensity") for one in (None, 0.0, 1.5)),
    ],
)
def test_each_reason_is_counted(tmp_path: Path, lines: list[Any], reason: str) -> None:
    found = read(tmp_path, [*session(1, 0), *lines])
    assert found.of("user_id").tolist() == [1]
    assert {name: num for name, num in found.left_out.items() if num} == {reason: 1}
    assert left_out_text(found.left_out) == f"1 {LEFT_OUT[reason]}"
    assert found.num_read == 2


def test_sessions_of_a_user_at_the_same_time_are_separated(tmp_path: Path) -> None:
    lines = [line for pair in zip(session(1, 0), session(1, 0, first=110), strict=True) for line in pair]
    found = read(tmp_path, lines)
    assert found.of("track", 1).tolist() == [1, 11]


def test_arms_of_several_experiments_have_both_names(tmp_path: Path) -> None:
    experiments = [{"TEST": "C"}, {"OTHER": "T1"}, {"TEST": "C", "OTHER": "T1"}]
    lines = [line for user, one in enumerate(experiments) for line in session(user, 0, experiments=one)]
    found = read(tmp_path, lines)
    assert [found.arms[arm] for arm in found.of("arm")] == ["C of TEST", "T1 of OTHER", "C of TEST, T1 of OTHER"]


@pytest.mark.parametrize(
    ("folder", "lines", "message"),
    [
        ("nowhere", [], "no such folder; name a folder with data.json files"),
        ("", [event(1, 0, 100), event(1, 1, 101, 1.0, "last")], "no line has a propensity; an estimate needs logs"),
    ],
)
def test_logs_without_propensities_are_refused(tmp_path: Path, folder: str, lines: Any, message: str) -> None:
    write_lines(tmp_path / "data.json", lines)
    with pytest.raises(InputError, match=message):
        read_decisions(tmp_path / folder, CATALOG, max_rejected=0.01, session_gap_minutes=30)


def test_propensities_may_begin_anywhere_in_the_log(tmp_path: Path) -> None:
    old = [line for user in range(7000) for line in session(user, 10 * user, propensity=None)]
    found = read(tmp_path, [*old, *session(9000, 10**6), '{"message": "next", "timest'])
    assert found.of("user_id").tolist() == [9000]
    assert (found.left_out["without_propensity"], found.lines_rejected) == (7000, 1)


def listener_log(folder: Path, **kept: bool) -> Decisions:
    """A listener with a session on each of four days, and what the service kept of them."""
    lines = [
        line
        for day, name in enumerate(("first", "second", "third", "fourth"))
        for line in session(7, day * DAY_MS, first=100 + 4 * day, remember=kept.get(name, True))
    ]
    return read(folder, lines)


def heard_before(log: Decisions, before: Profiles = NOBODY) -> list[set[int]]:
    return [set(line["track"][line["plays"] > 0].tolist()) for line in log.profiles(before)]


def test_a_profile_has_the_earlier_sessions_of_a_listener_that_the_service_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, three = ({day, day + 1, day + 2} for day in (0, 4, 8))
    assert heard_before(listener_log(tmp_path)) == [set(), one, one | two, one | two | three]
    assert heard_before(listener_log(tmp_path, second=False)) == [set(), set(), one, one | three]
    monkeypatch.setattr(decisions, "MOST_PLAYS", 4)
    assert heard_before(listener_log(tmp_path)) == [set(), one, {2} | two, {6} | three]


def test_a_profile_begins_with_what_a_run_knew_before_the_log_alone(tmp_path: Path) -> None:
    log = listener_log(tmp_path, second=False)
    entries = np.zeros(2, ENTRY)
    entries["track"], entries["plays"], entries["last_ms"] = [15, 16], 1, [-1, 0]
    before = Profiles.of(np.array([7, 7]), entries)
    assert heard_before(log, before) == [{15}, set(), {15, 0, 1, 2}, {15, 0, 1, 2, 8, 9, 10}]
    assert heard_before(replace(log, first=log.first[:1]), before) == [{15}]


def test_the_last_plays_are_those_of_all_sessions_of_a_user_newest_first(tmp_path: Path) -> None:
    rows, shares = listener_log(tmp_path, second=False).last_plays(10)
    plays = [[row for row in line if row >= 0] for line in rows.tolist()]
    assert plays == [[0], [4], [8, 6, 5, 4, 2, 1, 0], [12, 10, 9, 8, 6, 5, 4, 2, 1, 0]]
    assert shares[0].tolist() == [1.0] + [0.0] * 9
