"""EASE and SLIST against the normal equations of the papers, solved by loops, and where the best answer is certain."""

from collections.abc import Callable, Sequence
from functools import partial
from math import exp
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.errors import InputError
from segue.models.baselines.module import Baseline
from segue.models.baselines.whole_sessions import Slist
from segue.models.contracts import Context
from tests.conftest import make_listens, make_vocabulary
from tests.models.baselines.test_session_neighbours import NEVER_AGAIN, WHOLE_SESSION, histories_of

NUM_TRACKS = 5
EASE: dict[str, Any] = {
    "num_neighbours": NUM_TRACKS,
    "share": 1.0,
    "self_weight": 0.0,
    "regularization": 2.0,
    "normalise": False,
    "place_decay": None,
    "query_decay": None,
    "min_plays": 1,
    "max_tracks": 100,
    "least_played": 0.5,
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
Sessions = list[list[int]]
sessions_drawn = st.lists(st.lists(st.integers(0, NUM_TRACKS - 1), min_size=1, max_size=6), min_size=1, max_size=6)


def fitted(
    sessions: Sequence[Sequence[int]], settings: dict[str, Any], context: Callable[..., Context] = WHOLE_SESSION
) -> Baseline:
    listens = make_listens([[(track, float("nan")) for track in session] for session in sessions])
    plays = np.bincount(listens.track, minlength=NUM_TRACKS)
    vocabulary = make_vocabulary(
        range(NUM_TRACKS), listens=listens, previous_counts=[0] * NUM_TRACKS, next_counts=plays
    )
    baseline = Baseline(vocabulary=vocabulary, model=partial(Slist, **settings), context=context, monitor="val/mrr")
    baseline.on_train_start()
    return baseline


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
    found = fitted(sessions, {**EASE, "regularization": regularization})._counts.toarray()
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
        found = fitted(sessions, settings)._counts.toarray()
        np.testing.assert_allclose(found, positive_off_diagonal(expected), atol=2e-5)


def test_the_bound_of_the_diagonal_between_ease_and_none() -> None:
    sessions = [[0, 1, 2], [0, 1], [1, 2, 3], [3, 4], [0, 4]]
    x = np.array([of_tracks(dict.fromkeys(session, 1.0)) for session in sessions])
    ridge = np.linalg.solve(x.T @ x + 2.0 * np.eye(NUM_TRACKS), x.T @ x)
    free = fitted(sessions, {**EASE, "self_weight": 1.0})._counts.toarray()
    np.testing.assert_allclose(free, positive_off_diagonal(ridge), atol=1e-5)
    inverse = np.linalg.inv(x.T @ x + 2.0 * np.eye(NUM_TRACKS))
    bound = float(np.median(np.diag(ridge)))
    gamma = [2.0 if 1 - 2.0 * p <= bound else (1 - bound) / p for p in np.diag(inverse)]
    between = fitted(sessions, {**EASE, "self_weight": bound})._counts.toarray()
    np.testing.assert_allclose(between, positive_off_diagonal(np.eye(NUM_TRACKS) - inverse * gamma), atol=1e-5)


def test_the_bound_of_the_diagonal_is_met_where_it_binds() -> None:
    """Karush-Kuhn-Tucker: a column that is not bound is that of the free solution, and a bound one has its diagonal."""
    sessions = [[0, 1, 2, 3], [0, 1], [1, 2, 3], [3, 4, 0], [0, 4, 0]]
    free = fitted(sessions, SLIST)._counts.toarray()
    assert np.abs(free - fitted(sessions, {**SLIST, "self_weight": 1.0})._counts.toarray()).max() < 1e-6
    bound = fitted(sessions, {**SLIST, "self_weight": 0.0})._counts.toarray()
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
    baseline = fitted([[0, 1, 2], [0, 3], [1, 2, 4], [0, 1]], SLIST)
    weights, found = baseline._counts.toarray(), baseline._scores_of(histories_of([[3, 1, 0, 1]])).toarray()
    expected = weights[1] * (1 + exp(-2 / 2.0)) + weights[0] * exp(-1 / 2.0) + weights[3] * exp(-3 / 2.0)
    np.testing.assert_allclose(found[0], expected, rtol=1e-5)


@pytest.mark.parametrize("settings", [EASE, SLIST], ids=["ease", "slist"])
def test_a_track_that_always_follows_two_others_is_found(settings: dict[str, Any]) -> None:
    sessions = [[0, 1, 4]] * 4 + [[0, 2], [1, 3]]
    baseline = fitted(sessions, settings, NEVER_AGAIN)
    assert baseline.ranks(histories_of([[0, 1]]), np.array([4]), lambda _: None).tolist() == [1]


def test_rare_tracks_are_not_in_the_model() -> None:
    counted = fitted([[0, 1], [0, 1], [2, 3]], {**EASE, "min_plays": 2})._counts.toarray()
    assert {tuple(pair) for pair in np.argwhere(counted).tolist()} == {(0, 1), (1, 0)}


def test_only_the_largest_weights_are_kept() -> None:
    sessions = [[0, 1, 2], [0, 1], [0, 1, 3], [0, 4]]
    best = fitted(sessions, {**EASE, "num_neighbours": 1})._counts.toarray()
    whole = fitted(sessions, EASE)._counts.toarray()
    assert ((best > 0).sum(1) <= 1).all()
    np.testing.assert_array_equal(best.max(1), whole.max(1))


def test_too_many_tracks_are_refused_with_a_setting_that_fits() -> None:
    sessions = [[0, 1, 2], [0, 1], [0, 1, 3], [0, 4]]  # 4, 3, 1, 1 and 1 plays
    message = "5 tracks have model.min_plays=1 .* at most model.max_tracks=2; use model.min_plays=2, or a larger"
    with pytest.raises(InputError, match=message):
        fitted(sessions, {**EASE, "max_tracks": 2})
    assert fitted(sessions, {**EASE, "max_tracks": 2, "min_plays": 2})._counts.nnz == 2


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(InputError, match=r"share must be .* got 2; 1 is SLIS, 0 is SLIT"):
        Slist(make_vocabulary(range(NUM_TRACKS)), **{**EASE, "share": 2})
