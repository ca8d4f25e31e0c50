import doctest
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.datamodules.describing import clock, measures
from segue.datamodules.describing.clock import DAY_MS, utc
from segue.datamodules.describing.measures import Material, measure_test
from segue.datamodules.pairs.pairs import Pairs
from tests.conftest import make_vocabulary
from tests.datamodules.describing.building import START, Play, facts_of, material_of_plays, usual_plays

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


def test_the_examples_in_the_docstrings_hold() -> None:
    for module in (measures, clock):
        result = doctest.testmod(module, extraglobs={"np": np})
        assert result.attempted >= 1
        assert result.failed == 0


@given(plays=few_plays.map(numbered))
def test_sizes_and_repeats_are_those_of_a_slow_count(plays: list[Play]) -> None:
    facts = facts_of(material_of_plays(plays))
    of_user, of_track = Counter(p.listener for p in plays), Counter(p.track for p in plays)
    assert (facts.num_events, facts.num_users, facts.num_played_tracks) == (len(plays), len(of_user), len(of_track))
    assert facts.single_play_users == pytest.approx(sum(n == 1 for n in of_user.values()) / len(of_user))
    assert facts.repeats["by_listener"] == pytest.approx(1 - len({(p.listener, p.track) for p in plays}) / len(plays))
    assert (facts.plays_of_user.least, facts.plays_of_user.most) == (min(of_user.values()), max(of_user.values()))
    assert facts.plays_of_user.mean == pytest.approx(len(plays) / len(of_user))
    assert sum(facts.plays_of_track.counts) == len(of_track)
    assert facts.popularity.top_share == max(of_track.values()) / len(plays)
    half = np.cumsum(sorted(of_track.values(), reverse=True))
    assert facts.popularity.half == int((half < len(plays) / 2).sum()) + 1
    assert facts.popularity.curve[0] == (1, max(of_track.values()))
    assert facts.popularity.curve[-1] == (len(of_track), min(of_track.values()))


@given(plays=few_plays.map(numbered))
def test_times_are_those_of_a_slow_count(plays: list[Play]) -> None:
    found = facts_of(material_of_plays(plays)).clock
    assert found is not None
    together = Counter((p.listener, p.time) for p in plays)
    assert found.ties == pytest.approx(sum(n - 1 for n in together.values()) / len(plays))
    same = Counter((p.listener, p.time, p.track) for p in plays)
    assert found.duplicates == pytest.approx(sum(n - 1 for n in same.values()) / len(plays))
    days = Counter((p.listener + 1, p.time // DAY_MS) for p in plays)
    assert found.busiest_plays == max(days.values())
    assert (found.busiest_plays, found.busiest_day) in {
        (num, utc(day * DAY_MS)[:10]) for (listener, day), num in days.items() if listener == found.busiest_listener
    }
    times = sorted(p.time for p in plays)
    silences = [later - earlier for earlier, later in pairwise(times)] or [0]
    assert found.silence_days == max(silences) / DAY_MS
    assert found.plays_before_silence == silences.index(max(silences)) + 1
    assert sum(found.plays_over_time) == len(plays)
    assert sum(found.gaps) == len(plays) - len({p.listener for p in plays})
    assert found.span_days == (times[-1] - times[0]) / DAY_MS


@given(plays=few_plays.map(numbered))
def test_shares_are_counted_where_they_are_known(plays: list[Play]) -> None:
    shares, known = facts_of(material_of_plays(plays)).shares, [p.share for p in plays if p.share == p.share]
    if not known:
        assert shares is None
        return
    assert shares is not None
    assert shares.known == pytest.approx(len(known) / len(plays))
    assert (shares.at_zero, shares.at_one) == (known.count(0) / len(known), known.count(1) / len(known))
    assert shares.at_commonest == max(Counter(known).values()) / len(known)
    assert known.count(shares.commonest) == max(Counter(known).values())
    assert sum(shares.histogram) == len(known)


def test_repeats_within_sessions_and_self_pairs_are_counted() -> None:
    plays = [Play(0, START + nth, track, 1.0) for nth, track in enumerate([1, 1, 2, 1, 3])]
    plays.append(Play(0, START + 3 * DAY_MS, 3, 1.0))  # a new session: not a repeat within one
    facts = facts_of(material_of_plays(plays))
    assert facts.repeats["in_session"] == pytest.approx(2 / 6)
    assert facts.repeats["by_listener"] == pytest.approx(3 / 6)
    assert facts.repeats["self_pairs"] == pytest.approx(1 / 4)
    assert (facts.num_sessions, facts.single_play_sessions) == (2, 0.5)


def test_a_source_without_a_clock_has_no_times_and_its_sessions_may_be_playlists() -> None:
    facts = facts_of(material_of_plays(usual_plays(), has_clock=False))
    assert facts.clock is None
    assert facts.are_playlists
    assert not facts_of(material_of_plays(usual_plays())).are_playlists
    assert all(play["time"] is None for session in facts.first_sessions for play in session["plays"])


def test_the_first_sessions_are_shown_as_they_were_read() -> None:
    material = material_of_plays([*usual_plays(), Play(4, START - 1000, 7, float("nan"))])
    sessions = facts_of(material).first_sessions
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


def splits_of(test: Pairs, plays: list[int], mean: float | None) -> Material:
    vocabulary = make_vocabulary(range(len(plays)), previous_counts=plays, next_counts=[0] * len(plays))
    vocabulary = replace(vocabulary, mean_played_ratio=mean)
    return material_of_plays(usual_plays(), pairs={"test": test}, vocabulary=vocabulary)


def test_what_a_constant_scores_is_the_mean_of_its_errors() -> None:
    shares = [0.0, 0.5, 1.0, float("nan")]
    test = pairs_of([0, 1, 2, 0], [1, 2, 3, 3], shares)
    held_out = measure_test(splits_of(test, [5, 4, 3, 0], 0.4), max_queries=None)
    assert held_out["mean_mse"] == pytest.approx(np.mean([(share - 0.4) ** 2 for share in shares[:3]]))
    terms = [-(share * np.log(0.4) + (1 - share) * np.log(0.6)) for share in shares[:3]]
    assert held_out["mean_bce"] == pytest.approx(np.mean(terms))
    assert (held_out["cold_tracks"], held_out["cold_pairs"]) == (1 / 4, 2 / 4)  # track 3 has no play in training


def test_a_constant_that_excludes_what_happened_has_no_finite_cross_entropy() -> None:
    held_out = measure_test(splits_of(pairs_of([0], [1], [0.0]), [1, 1], 1.0), max_queries=None)
    assert held_out["mean_bce"] is None
    held_out = measure_test(splits_of(pairs_of([0], [1], [1.0]), [1, 1], 1.0), max_queries=None)
    assert held_out["mean_bce"] == 0


def test_the_most_played_tracks_are_ranked_without_the_query_and_with_shared_ranks() -> None:
    plays = [9, 8, *[3] * 20]
    unknown = [float("nan")] * 3
    test = pairs_of([0, 5, 5], [1, 0, 6], unknown)  # ranks 1 (0 is the query), 1, and the mean of 3 to 21
    held_out = measure_test(splits_of(test, plays, None), max_queries=None)
    assert held_out["num_queries"] == 3
    assert held_out["popular_recall_at_10"] == pytest.approx(2 / 3)
    assert held_out["popular_ndcg_at_10"] == pytest.approx(2 / 3)
    assert held_out["mean_mse"] is None


def test_without_a_liked_pair_there_is_no_ranking() -> None:
    held_out = measure_test(splits_of(pairs_of([0], [1], [0.0]), [1, 1], 0.5), max_queries=None)
    assert (held_out["num_queries"], held_out["popular_recall_at_10"]) == (0, None)
