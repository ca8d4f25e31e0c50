"""Models of whole sessions against slow loops and normal equations from the papers, and where the answer is certain."""

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
from segue.models.baselines import whole_sessions
from segue.models.baselines.counting import Counter
from segue.models.baselines.module import Baseline
from segue.models.baselines.whole_sessions import SessionNeighbours, Slist
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
    model: Callable[..., Counter] = SessionNeighbours,
    artists: Sequence[int] | None = None,
    context: Callable[..., Context] = WHOLE_SESSION,
) -> Baseline:
    listens = make_listens([[(track, float("nan")) for track in session] for session in sessions])
    artists = range(NUM_TRACKS) if artists is None else artists
    plays = np.bincount(listens.track, minlength=NUM_TRACKS)
    vocabulary = make_vocabulary(artists, listens=listens, previous_counts=[0] * NUM_TRACKS, next_counts=plays)
    baseline = Baseline(vocabulary=vocabulary, model=partial(model, **settings), context=context, monitor="val/mrr")
    baseline.on_train_start()
    return baseline


def scores(sessions: Sequence[Sequence[int]], settings: dict[str, Any], heard: Sequence[Sequence[int]]) -> np.ndarray:
    table: np.ndarray = fitted(sessions, settings)._after(histories_of(heard)).toarray()
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


@pytest.mark.parametrize(("context", "rank"), [(WHOLE_SESSION, 1.0), (NEVER_AGAIN, 5.0)])
def test_tracks_of_the_session_come_last_unless_they_may_be_repeated(
    context: Callable[..., Context], rank: float
) -> None:
    sessions = [[0, 1], [0, 1], [0, 1, 2]]
    baseline = fitted(sessions, BARE, context=context)
    assert baseline.ranks(histories_of([[0, 1]]), np.array([0]), lambda _: None).tolist() == [rank]


def test_a_track_that_was_skipped_does_not_count_unless_all_were() -> None:
    baseline = fitted([[0, 2], [1, 3]], BARE)
    heard = histories_of([[0, 1], [0, 1]], shares=[[1.0, 0.1], [0.1, 0.1]])
    table = baseline._after(heard).toarray()
    assert table[0].nonzero()[0].tolist() == [0, 2]
    assert table[1].nonzero()[0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("context", [LAST_TRACK, partial(WHOLE_SESSION, max_length=1)])
def test_only_the_tracks_of_the_context_are_used(context: Callable[..., Context]) -> None:
    baseline, heard = fitted([[0, 1], [2, 3]], BARE, context=context), histories_of([[0, 2]])
    assert baseline._after(heard).toarray().nonzero()[1].tolist() == [2, 3]
    assert baseline.ranks(heard, np.array([3]), lambda _: None).tolist() == [1]


def test_the_artists_of_the_session_add_to_the_scores() -> None:
    sessions = [[0, 1], [2, 3]]
    baseline = fitted(sessions, {**BARE, "artist_weight": 0.5}, artists=[0, 1, 2, 2, 0, 0])
    assert baseline._after(histories_of([[2, 0]])).toarray().tolist() == [[1.5, 1, 1.5, 1.5, 0.5, 0.5]]


linear = partial(fitted, model=Slist)
EASE: dict[str, Any] = {
    "share": 1.0,
    "self_weight": 0.0,
    "regularization": 2.0,
    "normalise": False,
    "place_decay": None,
    "query_decay": None,
    "min_plays": 1,
    "artist_weight": 0.0,
}
SLIST = {
    **EASE,
    "share": 0.4,
    "self_weight": None,
    "normalise": True,
    "place_decay": 1.5,
    "query_decay": 2.0,
}


def positive_off_diagonal(weights: np.ndarray) -> np.ndarray:
    """What a checkpoint keeps of the weights."""
    kept = weights.clip(min=0)
    kept[np.diag_indices(len(kept))] = 0
    return kept


def of_tracks(places: dict[int, float]) -> np.ndarray:
    row = np.zeros(NUM_TRACKS)
    for track, weight in places.items():
        row[track] = weight
    return row


@given(sessions=sessions_drawn, regularization=st.sampled_from([0.5, 3.0]))
def test_ease_is_the_reconstruction_without_a_diagonal(sessions: Sessions, regularization: float) -> None:
    """Each column is a ridge regression on the other tracks."""
    x = np.array([of_tracks(dict.fromkeys(session, 1.0)) for session in sessions])
    expected = np.zeros((NUM_TRACKS, NUM_TRACKS))
    for column in range(NUM_TRACKS):
        others = [track for track in range(NUM_TRACKS) if track != column]
        gram = x[:, others].T @ x[:, others] + regularization * np.eye(NUM_TRACKS - 1)
        expected[others, column] = np.linalg.solve(gram, x[:, others].T @ x[:, column])
    found = linear(sessions, {**EASE, "regularization": regularization})._counts.toarray()
    np.testing.assert_allclose(found, positive_off_diagonal(expected), atol=2e-5)


def rows_of(sessions: Sessions, share: float, *, normalise: bool) -> tuple[np.ndarray, np.ndarray]:
    """Both sides of SLIST: whole sessions, then each cut with the tracks before it and after it."""
    left, right = [np.zeros(NUM_TRACKS)], [np.zeros(NUM_TRACKS)]

    def scaled(row: np.ndarray) -> np.ndarray:
        return row / row.sum() if normalise else row

    for session in sessions:
        whole = scaled(of_tracks(dict.fromkeys(session, 1.0)))
        left.append(share**0.5 * whole)
        right.append(share**0.5 * whole)
        for cut in range(1, len(session)):
            before, after = np.zeros(NUM_TRACKS), np.zeros(NUM_TRACKS)
            for distance, track in enumerate(reversed(session[:cut])):
                before[track] += exp(-distance / 1.5)
            for distance, track in enumerate(session[cut:]):
                after[track] += exp(-distance / 1.5)
            left.append((1 - share) ** 0.5 * scaled(before))
            right.append((1 - share) ** 0.5 * scaled(after))
    return np.array(left), np.array(right)


@given(sessions=sessions_drawn, share=st.sampled_from([0.0, 0.4]), normalise=st.booleans())
def test_slist_solves_the_normal_equations_of_its_rows(sessions: Sessions, share: float, normalise: bool) -> None:
    y, z = rows_of(sessions, share, normalise=normalise)
    expected = np.linalg.solve(y.T @ y + 2.0 * np.eye(NUM_TRACKS), y.T @ z)
    settings = {**SLIST, "share": share, "normalise": normalise}
    if len({track for session in sessions for track in session}) > 1:
        found = linear(sessions, settings)._counts.toarray()
        np.testing.assert_allclose(found, positive_off_diagonal(expected), atol=2e-5)


def test_the_bound_of_the_diagonal_between_ease_and_none() -> None:
    sessions = [[0, 1, 2], [0, 1], [1, 2, 3], [3, 4], [0, 4]]
    x = np.array([of_tracks(dict.fromkeys(session, 1.0)) for session in sessions])
    ridge = np.linalg.solve(x.T @ x + 2.0 * np.eye(NUM_TRACKS), x.T @ x)
    free = linear(sessions, {**EASE, "self_weight": 1.0})._counts.toarray()
    np.testing.assert_allclose(free, positive_off_diagonal(ridge), atol=1e-5)
    inverse = np.linalg.inv(x.T @ x + 2.0 * np.eye(NUM_TRACKS))
    bound = float(np.median(np.diag(ridge)))
    gamma = [2.0 if 1 - 2.0 * p <= bound else (1 - bound) / p for p in np.diag(inverse)]
    between = linear(sessions, {**EASE, "self_weight": bound})._counts.toarray()
    np.testing.assert_allclose(between, positive_off_diagonal(np.eye(NUM_TRACKS) - inverse * gamma), atol=1e-5)


def test_the_bound_of_the_diagonal_is_met_where_it_binds() -> None:
    """Karush-Kuhn-Tucker: a column that is not bound is that of the free solution, and a bound one has its diagonal."""
    sessions = [[0, 1, 2, 3], [0, 1], [1, 2, 3], [3, 4, 0], [0, 4, 0]]
    free = linear(sessions, SLIST)._counts.toarray()
    assert np.abs(free - linear(sessions, {**SLIST, "self_weight": 1.0})._counts.toarray()).max() < 1e-6
    bound = linear(sessions, {**SLIST, "self_weight": 0.0})._counts.toarray()
    y, z = rows_of(sessions, 0.4, normalise=True)
    gram, target = y.T @ y + 2.0 * np.eye(NUM_TRACKS), y.T @ z
    expected = np.zeros((NUM_TRACKS, NUM_TRACKS))
    for column in range(NUM_TRACKS):  # without its own row the diagonal is 0, which is the bound
        others = [track for track in range(NUM_TRACKS) if track != column]
        whole = np.linalg.solve(gram, target[:, column])
        part = np.linalg.solve(gram[np.ix_(others, others)], target[others, column])
        expected[others, column] = part if whole[column] > 0 else whole[others]
    np.testing.assert_allclose(bound, positive_off_diagonal(expected), atol=2e-5)


def test_the_weights_are_summed_over_the_session_and_fall_with_age() -> None:
    baseline = linear([[0, 1, 2], [0, 3], [1, 2, 4], [0, 1]], SLIST)
    weights, found = baseline._counts.toarray(), baseline._after(histories_of([[3, 1, 0, 1]])).toarray()
    expected = weights[1] * (1 + exp(-2 / 2.0)) + weights[0] * exp(-1 / 2.0) + weights[3] * exp(-3 / 2.0)
    np.testing.assert_allclose(found[0], expected, rtol=1e-5)


def test_only_the_largest_weights_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = [[0, 1, 2], [0, 1], [0, 1, 3], [0, 4]]
    whole = linear(sessions, EASE)._counts.toarray()
    monkeypatch.setattr(whole_sessions, "NUM_NEIGHBOURS", 1)
    best = linear(sessions, EASE)._counts.toarray()
    assert ((best > 0).sum(1) <= 1).all()
    np.testing.assert_array_equal(best.max(1), whole.max(1))


def test_too_many_tracks_are_refused_with_a_setting_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = [[0, 1, 2], [0, 1], [0, 1, 3], [0, 4]]  # 4, 3, 1, 1 and 1 plays
    monkeypatch.setattr(whole_sessions, "MOST_TRACKS", 2)
    with pytest.raises(InputError, match=r"5 tracks have model.min_plays=1 .* at most 2; use model.min_plays=2"):
        linear(sessions, EASE)
    counted = linear(sessions, {**EASE, "min_plays": 2})._counts.toarray()
    assert {tuple(pair) for pair in np.argwhere(counted).tolist()} == {(0, 1), (1, 0)}
