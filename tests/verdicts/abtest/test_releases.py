"""Releases one after another: which play belongs to which release, and the interval of a change."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segue.assignment import GUESTS
from segue.errors import InputError
from segue.verdicts.abtest.releases import change_of_release, compare_releases, releases_table
from tests.conftest import event, write_lines
from tests.statistics.rates import within_four_standard_errors

READING: dict[str, Any] = {"max_rejected": 0.0, "session_gap_minutes": 30.0}


def answer(user: int, timestamp: int, track: int, time: float, recommendation: int, release: str) -> dict[str, Any]:
    return {**event(user, timestamp, track, time), "recommendation": recommendation, "release": release}


def test_a_share_belongs_to_the_release_that_recommended_the_track(tmp_path: Path) -> None:
    lines = [
        answer(1, 1000, 10, 0.9, 11, "a"),  # the first track is the listener's own
        answer(1, 2000, 11, 0.5, 12, "b"),  # the release has changed in mid-session; 11 was of a
        answer(1, 3000, 12, 0.25, 13, "b"),
        event(1, 4000, 13, 0.75, "last"),
        event(1, 4100, 13, 0.1, "last"),  # of no session
        answer(2, 5000, 20, 1.0, 21, "a"),
        event(2, 6000, 99, 0.0, "last"),  # the listener played another one
        answer(3, 7000, 30, 1.0, 31, "a"),
        answer(3, 8000, 31, 1.0, 32, "b"),
        event(3, 9000, 32, 1.0, "last"),
        answer(GUESTS.start, 7000, 30, 1.0, 31, "b"),
        event(GUESTS.start, 9000, 31, 0.0, "last"),
    ]
    write_lines(tmp_path / "data.json", lines)
    a, b = compare_releases(tmp_path, **READING)
    assert (a.release, a.first_ms, a.played.num, a.users, a.played.mean) == ("a", 1000, 2, 2, 0.75)
    assert (b.release, b.first_ms, b.played.num, b.users, b.played.mean) == ("b", 2000, 3, 2, 2 / 3)
    assert np.isnan(a.change.effect_percent)
    assert b.change.effect_percent == pytest.approx(100 * ((2 / 3) / 0.75 - 1))
    assert len(releases_table([a, b]).rows) == 2


def test_a_release_is_compared_with_the_one_that_answered_just_before_it(tmp_path: Path) -> None:
    """b is taken back, therefore c comes after a."""
    shares = {"a": 0.5, "b": 0.25, "c": 1.0}
    lines = []
    for user, release in enumerate(["a", "a", "b", "b", "a", "a", "c", "c"]):
        lines += [
            answer(user, 1000 * user, 10, 1.0, 11, release),
            event(user, 1000 * user + 1, 11, shares[release], "last"),
        ]
    write_lines(tmp_path / "data.json", lines)
    rows = compare_releases(tmp_path, **READING)
    assert [(row.release, row.played.num) for row in rows] == [("a", 4), ("b", 2), ("c", 2)]
    assert [row.change.effect_percent for row in rows[1:]] == [-50, 100]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([event(1, 1000, 10), event(1, 2000, 11, 1.0, "last")], "no line names a release, which serve.py writes with"),
        ([answer(1, 1000, 10, 1.0, 11, "a")], "no recommendation of a release was played yet; wait for listeners"),
        ([answer(GUESTS.start, 1000, 10, 1.0, 11, "a")], "no recommendation of a release was played yet"),
    ],
)
def test_a_log_without_plays_of_a_release_is_one_line(
    tmp_path: Path, lines: list[dict[str, Any]], message: str
) -> None:
    write_lines(tmp_path / "data.json", lines)
    with pytest.raises(InputError, match=message):
        compare_releases(tmp_path, **READING)


def test_the_interval_of_a_change_covers_it_as_often_as_it_promises() -> None:
    """Users differ, most have heard both releases, and their plays are not independent."""
    rng, covered, num = np.random.default_rng(1), 0, 1000
    for _ in range(num):
        taste, plays = rng.beta(2, 2, 80), rng.poisson([[6.0], [4.0]], (2, 80))
        user = np.concatenate([np.repeat(np.arange(80), of_release) for of_release in plays])
        release = np.repeat([0, 1], plays.sum(1))
        share = rng.random(len(user)) < taste[user] * np.where(release, 0.8, 1.0)
        change = change_of_release(release, user, share.astype(float), before=0, now=1)
        covered += change.lower_percent <= -20 <= change.upper_percent
    assert within_four_standard_errors(covered, 0.95, num)
