"""Sessions and pairs compared with slow loops."""

import json
from collections import defaultdict
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.datamodules.pairs.pair_rules import PAIRINGS
from segue.datamodules.pairs.pairs import Pairs, make_pairs
from segue.datamodules.pairs.sessions import Sessions, cut_sessions
from tests.conftest import event, write_log
from tests.datamodules.reading import opened, rules_of

Pair = tuple[int, int, int, float]


def loop_sessions(events: list[dict[str, Any]], gap_ms: float) -> list[list[dict[str, Any]]]:
    """Sort a user's events by time, cut after each `last`, and before a long silence."""
    of_user = defaultdict(list)
    for line in events:
        of_user[line["user"]].append(line)
    sessions = []
    for user in of_user:
        session: list[dict[str, Any]] = []
        for line in sorted(of_user[user], key=lambda line: line["timestamp"]):
            if session and line["timestamp"] - session[-1]["timestamp"] > gap_ms:
                sessions.append(session)
                session = []
            session.append(line)
            if line["message"] == "last":
                sessions.append(session)
                session = []
        if session:
            sessions.append(session)
    return sessions


def loop_pairs(sessions: list[list[dict[str, Any]]], pairing: str, window: int) -> list[Pair]:
    pairs = []
    for session in sessions:
        for place in range(1, len(session)):
            if pairing == "first":
                previous_places = [0]
            else:
                distance = 1 if pairing == "consecutive" else window
                previous_places = list(range(max(0, place - distance), place))
            line = session[place]
            for previous in previous_places:
                pairs.append((session[0]["timestamp"], session[previous]["track"], line["track"], line["time"]))
    return pairs


def our_pairs(
    folder: Path, pairing: str, window: int = 3, gap_minutes: float = 30.0
) -> tuple[Sessions, list[tuple[int, int, float]]]:
    with opened("botify", folder) as source:
        sessions = cut_sessions(source, rules_of(session_gap_minutes=gap_minutes))
        ids = source.catalog.track_ids
    pairs = make_pairs(sessions, rules_of(pairing=pairing, window=window))
    columns = ids[pairs.previous].tolist(), ids[pairs.following].tolist(), pairs.played_ratio.tolist()
    return sessions, list(zip(*columns, strict=True))


def close(ours: list[tuple[int, int, float]], sheet: list[Pair]) -> bool:
    return [pair[:2] for pair in ours] == [pair[1:3] for pair in sheet] and np.allclose(
        [pair[2] for pair in ours], [pair[3] for pair in sheet], atol=1e-6
    )


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_pairs_of_the_real_log_are_those_of_slow_loops(real_data: Path, pairing: str) -> None:
    folder = real_data / "botify-2023"
    lines = [json.loads(text) for path in folder.glob("logs/**/data.json*") for text in path.read_text().splitlines()]
    sheet = sorted(loop_sessions(lines, float("inf")), key=lambda session: session[0]["timestamp"])
    sessions, ours = our_pairs(folder, pairing)
    assert len(sessions) == len(sheet) == 1000
    assert len(ours) > 9000
    assert close(ours, loop_pairs(sheet, pairing, 3))


@st.composite
def small_logs(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Few users, so that sessions follow and interleave; each timestamp once, so that the order is certain."""
    times = draw(st.lists(st.integers(0, 40), unique=True, min_size=1, max_size=25))
    one = st.tuples(st.integers(1, 3), st.integers(100, 104), st.sampled_from([0.0, 0.5, 1.0]), st.booleans())
    return [
        event(user, minute * 60_000, track, time, "last" if last else "next")
        for minute, (user, track, time, last) in zip(times, [draw(one) for _ in times], strict=True)
    ]


@settings(max_examples=30)
@given(lines=small_logs(), pairing=st.sampled_from(PAIRINGS), window=st.integers(1, 4), gap=st.integers(1, 20))
def test_pairs_of_any_log_are_those_of_the_loops(
    tmp_path_factory: pytest.TempPathFactory, lines: list[dict[str, Any]], pairing: str, window: int, gap: int
) -> None:
    folder = write_log(tmp_path_factory.mktemp("log"), range(5), lines)
    sheet = sorted(loop_sessions(lines, gap * 60_000), key=lambda session: session[0]["timestamp"])
    sessions, ours = our_pairs(folder, pairing, window, float(gap))
    assert len(sessions) == len(sheet)
    assert sorted(ours) == sorted(pair[1:] for pair in loop_pairs(sheet, pairing, window))


@settings(max_examples=15)
@given(lines=small_logs(), pairing=st.sampled_from(PAIRINGS), window=st.integers(1, 4))
def test_the_history_of_a_pair_is_what_the_session_has_before_it(
    tmp_path_factory: pytest.TempPathFactory, lines: list[dict[str, Any]], pairing: str, window: int
) -> None:
    folder = write_log(tmp_path_factory.mktemp("log"), range(5), lines)
    sessions, _ = our_pairs(folder, pairing, window)
    pairs, listens = make_pairs(sessions, rules_of(pairing=pairing, window=window)), sessions.listens
    of_session = [np.flatnonzero(listens.session == session) for session in range(len(sessions))]
    expected = []  # events of the history, oldest first, and the next track
    for events in of_session:
        for place in range(1, len(events)):
            distances = range(min(window, place), 0, -1) if pairing == "window" else [1]
            expected += [(events[: place - distance + 1].tolist(), events[place]) for distance in distances]
    assert len(pairs) == len(expected)
    for pair, (history, following) in enumerate(expected):
        first = pairs.last[pair] - pairs.length[pair] + 1
        assert list(range(first, pairs.last[pair] + 1)) == history
        assert pairs.following[pair] == listens.track[following]
        paired = history[0] if pairing == "first" else history[-1]
        assert pairs.previous[pair] == listens.track[paired]


def test_chosen_pairs_keep_their_columns_together() -> None:
    numbers, factors = np.arange(6), {one.name: factor for factor, one in enumerate(fields(Pairs), start=1)}
    columns = {name: numbers * factor for name, factor in factors.items()}
    columns["played_ratio"] = columns["played_ratio"].astype(np.float32)
    chosen = Pairs(**columns).where(numbers % 2 == 1)
    assert len(chosen) == 3
    for name, factor in factors.items():
        assert getattr(chosen, name).tolist() == [factor, 3 * factor, 5 * factor]
