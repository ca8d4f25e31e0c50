"""Histories: what was heard before a track, against slow loops."""

import numpy as np
import pytest

from segue.histories import Histories

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
