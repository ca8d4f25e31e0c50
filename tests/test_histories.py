"""Histories: what was heard before a track, against slow loops."""

from dataclasses import replace

import numpy as np
import pytest

from segue.histories import Histories, Timeline

TRACKS = np.array([4, 2, 7, 2, 5, 1])
SHARES = np.array([1.0, 0.5, np.nan, 0.25, 0.0, 0.75], np.float32)
HISTORIES = Histories(
    tracks=TRACKS,
    played_ratio=SHARES,
    last=np.array([0, 2, 5, 3]),
    length=np.array([1, 3, 2, 4]),
    previous=np.array([4, 7, 1, 2]),
)


@pytest.mark.parametrize("max_length", [0, 1, 3, 6])
def test_the_newest_tracks_are_those_of_a_loop(max_length: int) -> None:
    rows, shares = HISTORIES.newest(max_length)
    assert rows.shape == shares.shape == (4, max_length)
    for query, (last, length) in enumerate(zip(HISTORIES.last, HISTORIES.length, strict=True)):
        for age in range(max_length):
            is_there = age < length
            assert rows[query, age] == (TRACKS[last - age] if is_there else -1)
            np.testing.assert_equal(shares[query, age], SHARES[last - age] if is_there else np.float32(np.nan))


def test_chosen_histories_are_the_same_as_before() -> None:
    rows, _ = HISTORIES.newest(4)
    chosen = np.array([False, True, False, True])
    assert np.array_equal(HISTORIES.where(chosen).newest(4)[0], rows[chosen])
    assert HISTORIES.where(chosen).previous.tolist() == [7, 2]
    assert np.array_equal(HISTORIES.part(1, 3).newest(4)[0], rows[1:3])
    assert len(HISTORIES.part(1, 3)) == 2


def test_a_track_alone_is_its_history() -> None:
    alone = Histories.of_tracks(np.array([3, 3, 0]))
    rows, shares = alone.newest(2)
    assert rows.tolist() == [[3, -1], [3, -1], [0, -1]]
    assert np.isnan(shares).all()
    assert alone.previous.tolist() == [3, 3, 0]


@pytest.mark.parametrize("lacking", [[], [2], [4, 7], [1, 2, 4, 5, 7]])
def test_tracks_that_another_catalogue_lacks_are_left_out(lacking: list[int]) -> None:
    rows = np.array([-1 if row in lacking else 10 + row for row in range(8)])
    found, is_left = HISTORIES.in_catalogue(rows)
    expected = []
    for last, length in zip(HISTORIES.last, HISTORIES.length, strict=True):
        heard = range(last, last - length, -1)
        expected.append([(rows[TRACKS[event]], SHARES[event]) for event in heard if rows[TRACKS[event]] >= 0])
    assert is_left.tolist() == [bool(one) for one in expected]
    ours, shares = found.newest(6)
    for query, one in enumerate(filter(None, expected)):
        assert ours[query].tolist() == [row for row, _ in one] + [-1] * (6 - len(one))
        np.testing.assert_equal(shares[query, : len(one)], [share for _, share in one])
        assert found.previous[query] == one[0][0], "here the newest track is what each query is paired with"


def test_what_listeners_heard_in_earlier_sessions_is_left_out_too() -> None:
    times, sessions = np.array([0, 1, 10, 11, 20, 21]), np.array([0, 0, 1, 1, 2, 2])
    timeline = Timeline(session=sessions, timestamp=times, listener=np.array([3, 3, 3]))
    histories = replace(HISTORIES.where(np.array([2])), timeline=timeline)
    rows = np.array([-1, 11, -1, -1, 14, 15, -1, 17])  # nothing of the events 1 and 3
    found, _ = histories.in_catalogue(rows)
    assert found.timeline is not None
    owner, event = found.timeline.earlier(found.timeline.session[found.last], 10)
    assert (owner.tolist(), found.tracks[event].tolist()) == ([0, 0], [14, 17])
    assert found.timeline.timestamp[event].tolist() == [0, 10]
