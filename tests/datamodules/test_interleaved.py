"""Sessions of one user at the same time, against a slow loop and against the sessions that made the log."""

from collections import defaultdict
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.datamodules.pairs.interleaved import POLICIES, Columns, separate

GAP_MS = 100
Line = tuple[int, int, int, int, bool]
"""User, timestamp, track, recommendation (-1 for none), and whether it is the last of its session."""


def columns_of(lines: list[Line]) -> Columns:
    names = ("user_id", "timestamp", "track", "recommendation")
    columns = {name: np.array([line[n] for line in lines], np.int64) for n, name in enumerate(names)}
    return columns | {"is_last": np.array([line[4] for line in lines], bool), "line": np.arange(len(lines))}


def begins_of(lines: list[Line]) -> Any:
    """Where sessions begin if they follow one another."""
    begins = [True] * len(lines)
    for n in range(1, len(lines)):
        (user, time, *_, was_last), (now_user, now, *_) = lines[n - 1], lines[n]
        begins[n] = user != now_user or was_last or now - time > GAP_MS
    return np.array(begins, bool)


def separated(lines: list[Line], policy: str = "separate") -> tuple[Columns, Any, int]:
    return separate(columns_of(lines), begins_of(lines), policy=policy, gap_ms=GAP_MS)


def sessions_of(given: tuple[Columns, Any, int]) -> list[list[int]]:
    """Numbers of the lines of each session."""
    return [part.tolist() for part in np.split(given[0]["line"], np.flatnonzero(given[1])[1:])]


def slow_sessions(lines: list[Line]) -> list[list[int]]:
    """The rules, one line at a time."""
    begins = begins_of(lines)
    waiting: dict[tuple[int, int], list[int]] = defaultdict(list)
    before: dict[int, int] = {}
    for n, (user, time, track, recommendation, is_last) in enumerate(lines):
        if stack := waiting[user, track]:
            earlier = stack.pop()
            if time - lines[earlier][1] <= GAP_MS:
                before[n] = earlier
        if not is_last and recommendation >= 0:
            waiting[user, recommendation].append(n)
    resumed = {n for n, earlier in before.items() if earlier < n - 1}
    continued, ignored = set(before.values()), set()
    parent = dict(before)
    for n in range(len(lines)):
        if n not in before and not begins[n] and n - 1 not in continued:
            parent[n] = n - 1
            if lines[n - 1][3] >= 0:
                ignored.add(n)
    num: dict[int, int] = defaultdict(int)
    for n in resumed:
        num[lines[n][0]] += 1
    for n in ignored:
        num[lines[n][0]] -= 1
    sessions: list[list[int]] = []
    of: dict[int, int] = {}
    for n, line in enumerate(lines):
        previous = parent.get(n) if num[line[0]] > 0 else None if begins[n] else n - 1
        if previous is None:
            sessions.append([])
        of[n] = len(sessions) - 1 if previous is None else of[previous]
        sessions[of[n]].append(n)
    return sessions


@st.composite
def logs(draw: st.DrawFn) -> list[Line]:
    """Lines of few users and tracks with recommendations that may be played or not."""
    is_last = st.sampled_from([False] * 4 + [True])
    line = st.tuples(st.integers(0, 1), st.integers(0, 60), st.integers(0, 3), st.integers(-1, 3), is_last)
    lines, time = [], 0
    for user, wait, track, recommendation, ends in draw(st.lists(line, min_size=1, max_size=25)):
        time += wait
        lines.append((user, time, track, -1 if ends else recommendation, ends))
    return sorted(lines, key=lambda one: one[0])


@settings(max_examples=400)
@given(lines=logs())
def test_sessions_are_those_of_a_slow_loop(lines: list[Line]) -> None:
    assert sessions_of(separated(lines)) == slow_sessions(lines)


@settings(max_examples=200)
@given(lines=logs())
def test_keep_changes_nothing_and_drop_leaves_out_the_sessions_that_overlap(lines: list[Line]) -> None:
    sessions = slow_sessions(lines)
    spans = [set(range(session[0], session[-1] + 1)) for session in sessions]
    overlapping = [any(a is not b and a & b for b in spans) for a in spans]
    kept, dropped = separated(lines, "keep"), separated(lines, "drop")
    assert kept[0]["line"].tolist() == list(range(len(lines)))
    assert kept[1].tolist() == begins_of(lines).tolist()
    rest = [session for session, one in zip(sessions, overlapping, strict=True) if not one]
    if any(overlapping):
        assert (sessions_of(dropped) if len(dropped[1]) else []) == rest
    else:
        assert sessions_of(dropped) == sessions_of(kept)
    assert {separated(lines, policy)[2] for policy in POLICIES} == {sum(overlapping)}


@st.composite
def parallel_sessions(draw: st.DrawFn) -> tuple[list[Line], list[list[int]]]:
    """Sessions of one user whose client plays what is recommended, in an order that lets them alternate.

    No track occurs in two sessions, therefore the lines say without doubt which session each belongs to.
    """
    lengths = draw(st.lists(st.integers(2, 5), min_size=1, max_size=4))
    turns = draw(st.permutations([n for n, length in enumerate(lengths) for _ in range(length)]))
    lines: list[Line] = []
    sessions: list[list[int]] = [[] for _ in lengths]
    for time, session in enumerate(turns):
        place = len(sessions[session])
        is_last = place == lengths[session] - 1
        track = 10 * session + place
        sessions[session].append(time)
        lines.append((7, time, track, -1 if is_last else track + 1, is_last))
    return lines, sorted(sessions)


@settings(max_examples=200)
@given(made=parallel_sessions())
def test_the_sessions_of_clients_that_play_what_is_recommended_are_found_again(
    made: tuple[list[Line], list[list[int]]],
) -> None:
    lines, sessions = made
    assert sessions_of(separated(lines)) == sessions


def test_a_client_that_ignores_recommendations_keeps_its_sessions() -> None:
    """Track 5 is recommended all the time, and played only much later."""
    lines = [(1, n, 100 + n, 5, False) for n in range(9)] + [(1, 9, 109, -1, True), (1, 10, 5, 5, False)]
    assert sessions_of(separated(lines)) == [list(range(10)), [10]]
    assert separated(lines)[2] == 0


def test_a_session_is_not_resumed_after_the_gap() -> None:
    first, other = (1, 0, 10, 11, False), (1, 50, 20, 21, False)
    for time, expected in ((GAP_MS, [[0, 2], [1]]), (GAP_MS + 1, [[0, 1, 2]])):
        assert sessions_of(separated([first, other, (1, time, 11, -1, True)])) == expected
