"""What was known before, compared with a slow loop over sessions."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.statistics.discovery import DISCOVERY, Discovery

ARTIST_OF = np.array([0, 0, 1, 2, 2])
Session = tuple[int, list[tuple[int, float]]]  # a listener, and the tracks with the shares played

plays = st.lists(st.tuples(st.integers(0, 4), st.sampled_from([0.0, 0.5, 0.79, 0.8, 1.0])), min_size=1, max_size=4)
logs = st.lists(st.tuples(st.integers(0, 2), plays), min_size=1, max_size=12)


def slow(log: list[Session]) -> list[tuple[bool, ...]]:
    """For each play: whether it counts, and whether track, any play of it, and artist were known before."""
    found = []
    known: dict[int, set[int]] = {}
    heard: dict[int, set[int]] = {}
    for user, played in log:
        own, any_of = known.get(user, set()), heard.get(user, set())
        artists = {int(ARTIST_OF[track]) for track in own}
        for place, (track, _) in enumerate(played):
            counts = place > 0 and user in heard
            flags = (True, track in own, track in any_of, int(ARTIST_OF[track]) in artists)
            found.append(tuple(counts and flag for flag in flags))
        known[user] = own | {track for track, share in played if share >= 0.8}
        heard[user] = any_of | {track for track, _ in played}
    return found


def fast(log: list[Session], parts: int, artist_of: np.ndarray | None = ARTIST_OF) -> list[tuple[bool, ...]]:
    """The same, in parts of so many sessions."""
    discovery, found = Discovery(5, artist_of), list[tuple[bool, ...]]()
    for start in range(0, len(log), parts):
        part = log[start : start + parts]
        lengths = [len(played) for _, played in part]
        tracks, shares = zip(*(play for _, played in part for play in played), strict=True)
        users = np.repeat([user for user, _ in part], lengths)
        counted, known = discovery.of_plays(
            users, np.array(tracks), np.array(shares), np.repeat(np.arange(len(part)), lengths)
        )
        found += zip(counted.tolist(), *(one.tolist() for one in known.values()), strict=True)
    return found


@settings(max_examples=150)
@given(log=logs, parts=st.integers(1, 12))
def test_the_arrays_find_what_the_loop_finds_in_any_parts(log: list[Session], parts: int) -> None:
    assert fast(log, parts) == slow(log)


def test_without_artists_there_are_two_metrics() -> None:
    log: list[Session] = [(7, [(0, 1.0), (1, 0.3)]), (7, [(2, 1.0), (0, 0.0), (1, 1.0)])]
    discovery = Discovery(5, None)
    counted, known = discovery.of_plays(
        np.array([7] * 5), np.array([0, 1, 2, 0, 1]), np.array([1.0, 0.3, 1.0, 0.0, 1.0]), np.array([0, 0, 1, 1, 1])
    )
    assert [*known] == [*DISCOVERY[:2]]
    assert counted.tolist() == [False, False, False, True, True]
    assert known["share_known"].tolist() == [False, False, False, True, False]
    assert known["share_heard"].tolist() == [False, False, False, True, True]
    assert fast(log, 1)[-1] == (True, False, True, True)
