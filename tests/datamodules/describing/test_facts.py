from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.datamodules.describing.facts import measure_splits
from segue.datamodules.pairs.pairs import Pairs
from segue.datamodules.pairs.sessions import DAY_MS
from tests.conftest import make_vocabulary
from tests.datamodules.describing.building import START, Play, data_of, facts_of, usual_plays

few_plays = st.lists(
    st.builds(
        Play,
        listener=st.integers(0, 3),
        time=st.integers(0, 40).map(lambda step: START + step * 7_200_000),
        track=st.integers(0, 5),
        share=st.sampled_from([0.0, 0.25, 1.0, float("nan")]),
    ),
    min_size=1,
    max_size=40,
)


def numbered(plays: list[Play]) -> list[Play]:
    """The same with listeners 0, 1, … without gaps, as a datamodule numbers them."""
    numbers = {listener: number for number, listener in enumerate(sorted({play.listener for play in plays}))}
    return [play._replace(listener=numbers[play.listener]) for play in plays]


@given(plays=few_plays.map(numbered))
def test_sizes_and_repeats_are_those_of_a_slow_count(plays: list[Play]) -> None:
    facts = facts_of(data_of(plays))
    of_user, of_track = Counter(p.listener for p in plays), Counter(p.track for p in plays)
    assert (facts["num_events"], facts["num_users"]) == (len(plays), len(of_user))
    assert facts["num_played_tracks"] == len(of_track)
    assert facts["single_play_users"] == pytest.approx(sum(n == 1 for n in of_user.values()) / len(of_user))
    once = len({(p.listener, p.track) for p in plays})
    assert facts["repeats"]["by_listener"] == pytest.approx(1 - once / len(plays))
    of_plays, popularity = facts["plays_of_user"], facts["popularity"]
    assert (of_plays["least"], of_plays["most"]) == (min(of_user.values()), max(of_user.values()))
    assert of_plays["mean"] == pytest.approx(len(plays) / len(of_user))
    assert sum(facts["plays_of_track"]["counts"]) == len(of_track)
    assert popularity["top_share"] == max(of_track.values()) / len(plays)
    half = np.cumsum(sorted(of_track.values(), reverse=True))
    assert popularity["half"] == int((half < len(plays) / 2).sum()) + 1
    assert popularity["curve"][0] == (1, max(of_track.values()))
    assert popularity["curve"][-1] == (len(of_track), min(of_track.values()))


@given(plays=few_plays.map(numbered))
def test_times_are_those_of_a_slow_count(plays: list[Play]) -> None:
    found = facts_of(data_of(plays))["clock"]
    together = Counter((p.listener, p.time) for p in plays)
    assert found["ties"] == pytest.approx(sum(n - 1 for n in together.values()) / len(plays))
    times = sorted(p.time for p in plays)
    assert found["median_ms"] == times[len(times) // 2]
    assert sum(found["gaps"]) == len(plays) - len({p.listener for p in plays})
    assert found["span_days"] == (times[-1] - times[0]) / DAY_MS


@given(plays=few_plays.map(numbered))
def test_shares_are_counted_where_they_are_known(plays: list[Play]) -> None:
    shares, known = facts_of(data_of(plays))["shares"], [p.share for p in plays if p.share == p.share]
    if not known:
        assert shares is None
        return
    assert shares["known"] == pytest.approx(len(known) / len(plays))
    assert (shares["at_zero"], shares["at_one"]) == (known.count(0) / len(known), known.count(1) / len(known))
    assert shares["at_commonest"] == max(Counter(known).values()) / len(known)
    assert known.count(shares["commonest"]) == max(Counter(known).values())


def test_repeats_within_sessions_and_self_pairs_are_counted() -> None:
    plays = [Play(0, START + nth, track, 1.0) for nth, track in enumerate([1, 1, 2, 1, 3])]
    plays.append(Play(0, START + 3 * DAY_MS, 3, 1.0))  # a new session: not a repeat within one
    facts = facts_of(data_of(plays))
    repeats = {"in_session": 2 / 6, "by_listener": 3 / 6, "self_pairs": 1 / 4}
    assert facts["repeats"] == pytest.approx(repeats)
    assert (facts["num_sessions"], facts["single_play_sessions"]) == (2, 0.5)


def test_a_source_without_a_clock_has_no_times_and_its_sessions_may_be_playlists() -> None:
    facts = facts_of(data_of(usual_plays(), has_clock=False))
    assert facts["clock"] is None
    assert facts["are_playlists"]
    assert not facts_of(data_of(usual_plays()))["are_playlists"]
    assert all(play["time"] is None for session in facts["first_sessions"] for play in session["plays"])


def test_the_first_sessions_are_shown_as_they_were_read() -> None:
    sessions = facts_of(data_of([*usual_plays(), Play(4, START - 1000, 7, float("nan"))]))["first_sessions"]
    assert len(sessions) == 3
    first = sessions[0]
    assert (first["listener"], first["num_plays"], len(first["plays"])) == (5, 6, 4)  # listeners are counted from 1
    play = {"time": "2023-11-14 22:13:19", "title": "Title 7", "artist": "Artist 3", "share": None}
    assert first["plays"][0] == play


def pairs_of(previous: list[int], following: list[int], shares: list[float]) -> Pairs:
    some = np.zeros(len(previous), np.int64)
    tracks = (np.array(column, np.int64) for column in (previous, following))
    pair = dict(zip(("previous", "following"), tracks, strict=True))
    shares_played = np.array(shares, np.float32)
    return Pairs(session=some, listener=some, played_ratio=shares_played, last=some, length=some, **pair)


def measured(test: Pairs, plays: list[int]) -> dict[str, Any]:
    """What is measured of a test set."""
    vocabulary = make_vocabulary(range(len(plays)), previous_counts=plays, next_counts=[0] * len(plays))
    sizes = pd.DataFrame({"pairs": [len(test), 0], "rejected": [None, 0]}, index=["test", "all"]).astype("Int64")
    data = data_of(usual_plays(), pairs={"test": test})
    vars(data).update(vocabulary=vocabulary, sizes=sizes)  # instead of what the pairs would show
    found = measure_splits(data)
    assert found["splits"] == {"test": {"pairs": len(test)}}
    return dict(found["test"])


def test_new_tracks_of_the_test_are_counted() -> None:
    held_out = measured(pairs_of([0, 1, 2, 0], [1, 2, 3, 3], [0.0, 0.5, 1.0, np.nan]), [5, 4, 3, 0])
    assert (held_out["cold_tracks"], held_out["cold_pairs"]) == (1 / 4, 2 / 4)  # track 3 has no play in training
