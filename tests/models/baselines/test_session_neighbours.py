"""Session-based neighbours against slow loops from the formulas of the papers, and where the best answer is certain."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from math import exp, log, sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.errors import InputError
from segue.histories import Histories
from segue.models.baselines.module import Baseline
from segue.models.baselines.whole_sessions import SessionNeighbours
from segue.models.contracts import Context
from tests.conftest import make_listens, make_vocabulary
from tests.models.plain import LAST_TRACK, SESSION

NUM_TRACKS = 6
ALL = 1000
WHOLE_SESSION = partial(SESSION, max_length=50)
NEVER_AGAIN = partial(WHOLE_SESSION, repeats="never")
BARE: dict[str, Any] = {
    "num_neighbours": ALL,
    "sample_size": ALL,
    "position_decay": None,
    "length_power": 0.0,
    "recency": None,
    "place_decay": None,
    "match_decay": None,
    "idf": 0.0,
    "least_played": 0.5,
    "artist_weight": 0.0,
}
VSKNN = {**BARE, "position_decay": "linear", "match_decay": "inverse", "idf": 2.0}
STAN = {**BARE, "position_decay": 1.5, "length_power": 0.5, "recency": 3.0, "place_decay": 2.0}
VSTAN = {**STAN, "match_decay": 2.5, "idf": 1.0}
sessions_drawn = st.lists(st.lists(st.integers(0, NUM_TRACKS - 1), min_size=1, max_size=7), min_size=1, max_size=8)
histories_drawn = st.lists(st.lists(st.integers(0, NUM_TRACKS - 1), min_size=1, max_size=6), min_size=1, max_size=4)
Sessions = list[list[int]]


def histories_of(heard: Sequence[Sequence[int]], shares: Sequence[Sequence[float]] | None = None) -> Histories:
    """Histories whose tracks are given oldest first."""
    tracks = np.array([track for one in heard for track in one], np.int64)
    length = np.array([len(one) for one in heard])
    last = length.cumsum() - 1
    played = np.full(len(tracks), np.nan) if shares is None else np.array([share for one in shares for share in one])
    return Histories(
        tracks=tracks, played_ratio=played.astype(np.float32), last=last, length=length, previous=tracks[last]
    )


def fitted(
    sessions: Sequence[Sequence[int]],
    settings: dict[str, Any],
    *,
    artists: Sequence[int] | None = None,
    context: Callable[..., Context] = WHOLE_SESSION,
) -> Baseline:
    listens = make_listens([[(track, float("nan")) for track in session] for session in sessions])
    artists = range(NUM_TRACKS) if artists is None else artists
    plays = np.bincount(listens.track, minlength=NUM_TRACKS)
    vocabulary = make_vocabulary(artists, listens=listens, previous_counts=[0] * NUM_TRACKS, next_counts=plays)
    model = partial(SessionNeighbours, **settings)
    baseline = Baseline(vocabulary=vocabulary, model=model, context=context, monitor="val/mrr")
    baseline.on_train_start()
    return baseline


def scores(sessions: Sequence[Sequence[int]], settings: dict[str, Any], heard: Sequence[Sequence[int]]) -> np.ndarray:
    table: np.ndarray = fitted(sessions, settings)._scores_of(histories_of(heard)).toarray()
    return table


def last_places(session: Sequence[int]) -> dict[int, int]:
    return {track: place for place, track in enumerate(session)}


def nearest(similar: dict[int, float], sample_size: int, num_neighbours: int) -> list[int]:
    """The newest sessions, then the most similar of them; of equal ones the newest."""
    sample = sorted(similar, reverse=True)[:sample_size]
    return sorted(sample, key=lambda session: (-np.float32(similar[session]), -session))[:num_neighbours]


def vsknn(sessions: Sessions, heard: list[int], sample_size: int, num_neighbours: int) -> dict[int, float]:
    """Weights i/|s| of the tracks of the session, 1/step of the newest common track, and idf."""
    weight = {track: (place + 1) / len(heard) for place, track in enumerate(heard)}
    similar = {
        number: sum(weight[track] for track in set(heard) & set(session))
        for number, session in enumerate(sessions)
        if set(heard) & set(session)
    }
    result: dict[int, float] = defaultdict(float)
    for number in nearest(similar, sample_size, num_neighbours):
        step = next(step for step, track in enumerate(reversed(heard), start=1) if track in sessions[number])
        for track in set(sessions[number]):
            idf = log(len(sessions) / sum(track in session for session in sessions))
            result[track] += similar[number] / step * (1 + 2.0 * idf)
    return result


def stan(sessions: Sessions, heard: list[int], sample_size: int, num_neighbours: int, *, v: bool) -> dict[int, float]:
    """The three decays of STAN; with `v` also match decay and idf of VSKNN, which make VSTAN."""
    weight = {track: exp((place + 1 - len(heard)) / 1.5) for place, track in enumerate(heard)}
    similar = {
        number: sum(weight[track] for track in set(heard) & set(session))
        / sqrt(len(set(session)))
        * exp((number - (len(sessions) - 1)) / 3.0)
        for number, session in enumerate(sessions)
        if set(heard) & set(session)
    }
    result: dict[int, float] = defaultdict(float)
    for number in nearest(similar, sample_size, num_neighbours):
        places = last_places(sessions[number])
        common = max(places[track] for track in set(heard) & set(places))
        age = next(age for age, track in enumerate(reversed(heard)) if track in places)
        for track, place in places.items():
            vote = similar[number] * exp(-abs(place - common) / 2.0)
            if v:
                idf = log(len(sessions) / sum(track in session for session in sessions))
                vote *= exp(-age / 2.5) * (1 + 1.0 * idf)
            result[track] += vote
    return result


ORACLES: dict[str, tuple[dict[str, Any], Callable[..., dict[int, float]]]] = {
    "vsknn": (VSKNN, vsknn),
    "stan": (STAN, partial(stan, v=False)),
    "vstan": (VSTAN, partial(stan, v=True)),
}


@pytest.mark.parametrize("name", ORACLES)
@given(
    sessions=sessions_drawn,
    heard=histories_drawn,
    sample_size=st.sampled_from([2, ALL]),
    kept=st.sampled_from([1, ALL]),
)
def test_scores_are_those_of_the_loops(
    name: str, sessions: Sessions, heard: Sessions, sample_size: int, kept: int
) -> None:
    settings, oracle = ORACLES[name]
    found = scores(sessions, {**settings, "sample_size": sample_size, "num_neighbours": kept}, heard)
    expected = np.zeros((len(heard), NUM_TRACKS))
    for line, one in enumerate(heard):
        for track, score in oracle(sessions, one, sample_size, kept).items():
            expected[line, track] = score
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-12)


def test_the_session_decides_where_the_last_track_alone_cannot() -> None:
    sessions = [[0, 2, 4], [0, 2, 4], [1, 2, 5], [1, 2, 5]]
    for settings in (VSKNN, STAN, VSTAN):
        baseline = fitted(sessions, {**settings, "recency": None}, context=NEVER_AGAIN)
        heard = histories_of([[0, 2], [1, 2]])
        assert baseline.ranks(heard, np.array([4, 5]), lambda _: None).tolist() == [1, 1]
        assert (baseline.ranks(heard, np.array([5, 4]), lambda _: None) > 1).all()


@pytest.mark.parametrize(
    ("context", "within", "rank"), [(WHOLE_SESSION, 50, 1.0), (NEVER_AGAIN, 50, 5.0), (NEVER_AGAIN, 1, 1.0)]
)
def test_tracks_of_the_session_come_last_unless_they_may_be_repeated(
    context: Callable[..., Context], within: int, rank: float
) -> None:
    sessions = [[0, 1], [0, 1], [0, 1, 2]]
    baseline = fitted(sessions, BARE, context=context)
    baseline.context.repeats.within = within
    assert baseline.ranks(histories_of([[0, 1]]), np.array([0]), lambda _: None).tolist() == [rank]


def test_a_track_that_was_skipped_does_not_count_unless_all_were() -> None:
    baseline = fitted([[0, 2], [1, 3]], BARE)
    heard = histories_of([[0, 1], [0, 1]], shares=[[1.0, 0.1], [0.1, 0.1]])
    table = baseline._scores_of(heard).toarray()
    assert table[0].nonzero()[0].tolist() == [0, 2]
    assert table[1].nonzero()[0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("context", [LAST_TRACK, partial(WHOLE_SESSION, max_length=1)])
def test_only_the_tracks_of_the_context_are_used(context: Callable[..., Context]) -> None:
    baseline, heard = fitted([[0, 1], [2, 3]], BARE, context=context), histories_of([[0, 2]])
    assert baseline._scores_of(heard).toarray().nonzero()[1].tolist() == [2, 3]
    assert baseline.ranks(heard, np.array([3]), lambda _: None).tolist() == [1]


def test_the_artists_of_the_session_add_to_the_scores() -> None:
    sessions = [[0, 1], [2, 3]]
    baseline = fitted(sessions, {**BARE, "artist_weight": 0.5}, artists=[0, 1, 2, 2, 0, 0])
    assert baseline._scores_of(histories_of([[2, 0]])).toarray().tolist() == [[1.5, 1, 1.5, 1.5, 0.5, 0.5]]


def test_lists_are_those_of_a_history_of_one_track() -> None:
    baseline = fitted([[0, 1], [0, 1], [0, 2], [3, 4]], STAN)
    assert baseline.lists(2, np.array([0, 3])).collect()[0].tolist() == [[1, 2], [4, 0]]


def test_the_votes_of_a_long_session_do_not_overflow() -> None:
    long = [*range(NUM_TRACKS - 1)] * 400  # more places than an exponent of 2 can be
    assert np.isfinite(scores([long, [0, 5]], STAN, [[0, 1]])).all()


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(InputError, match="match_decay must be a number above 0 or linear or inverse or null, got 0"):
        SessionNeighbours(make_vocabulary(range(NUM_TRACKS)), **{**BARE, "match_decay": 0})
