"""Walks: the session that the page sends, the next track, and why."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from segue.assignment import GUESTS
from segue.errors import InputError
from segue.picking.listener_scores import FEATURES
from segue.runs.profiles import DAY_MS, ENTRY, add_play
from segue.serving.log_writer import now_ms
from segue.serving.recommender import Past, Recommender
from segue.serving.room import walking
from segue.serving.room.release_view import ReleaseView


@pytest.fixture
def recommender(view: ReleaseView) -> Recommender:
    return Recommender(view.release, np.random.default_rng(0))


@pytest.mark.parametrize("arm", ["C", "T1", "T2", "T3"])
def test_a_step_is_that_of_the_service(view: ReleaseView, recommender: Recommender, arm: str) -> None:
    tracks, shares = [100, 103], [1.0, 0.1]
    played = walking.checked_session(view, tracks, shares)
    twin = Recommender(view.release, np.random.default_rng(0))
    row, fallback, propensity = twin.follow(arm, 1, view.release.row_of(103), played)
    found = walking.step(view, recommender, arm, 1, played)
    assert found["track"] == view.release.id_of(row)
    assert (found["propensity"], found["fallback"]) == (propensity, fallback)
    assert found["sentence"].endswith(".")


def test_an_explanation_of_a_session_names_the_tracks_that_count_most(
    view: ReleaseView, recommender: Recommender
) -> None:
    played = walking.checked_session(view, [100, 103, 107], [1, 1, 1])
    found = walking.step(view, recommender, "T1", 1, played)
    assert found["parts_are"] == "sums"
    assert {one["track"] for one in found["session"]} == {103, 107}  # its context has two tracks
    assert sum(found["parts"].values()) == pytest.approx(found["score"], abs=1e-5)
    assert sum(one["pull"] for one in found["session"]) == pytest.approx(found["score"], abs=1e-3)


def test_what_a_track_gets_for_its_artist_and_by_itself_are_parts_of_the_score(view: ReleaseView) -> None:
    vectors, release = view.release.vectors, view.release
    item = vectors["T1"].items
    bias = np.arange(len(item), dtype=np.float32)[:, None] / 100 + 1
    vectors["T1"] = replace(
        vectors["T1"],
        queries=np.append(vectors["T1"].queries, np.ones_like(bias), axis=1),
        items=np.append(item, bias, axis=1),
        artist_boosts=np.full(20, 5, np.float32),
    )
    found = walking.step(
        view, Recommender(release, np.random.default_rng(0)), "T1", 1, walking.checked_session(view, [100, 103], [1, 1])
    )
    assert list(found["parts"]) == ["track", "artist", "bias", "repeats"]
    assert found["parts"]["repeats"] == 5
    assert sum(found["parts"].values()) == pytest.approx(found["score"], abs=1e-5)


def test_a_list_is_explained_by_place_and_cosines(view: ReleaseView, recommender: Recommender) -> None:
    found = walking.step(view, recommender, "C", 1, walking.checked_session(view, [100], [1]))
    assert (found["rank"], found["candidates"], found["parts_are"]) == (1, 4, "cosines")
    assert found["sentence"] == "Number 1 of 4 in the list after “Title 0”; the best is taken."


@pytest.fixture
def of_listener(view: ReleaseView) -> Recommender:
    """Arm T1 adds 9 to a track that its listener has heard."""
    release, weights = view.release, np.array([9.0 * (name == "heard") for name in FEATURES], np.float32)
    release.arms["T1"] = release.arms["T1"].model_copy(update={"context": "listener"})
    release.vectors["T1"] = replace(release.vectors["T1"], context="listener", listener=weights)
    return Recommender(release, np.random.default_rng(0))


def test_a_walk_of_a_listener_has_their_past_and_says_so(view: ReleaseView, of_listener: Recommender) -> None:
    played, profile = walking.checked_session(view, [100], [1.0]), np.zeros(1, ENTRY)
    add_play(profile, 109, 1.0, now_ms() - 2 * DAY_MS)
    past = Past(profile, now_ms())
    found = walking.step(view, of_listener, "T1", 1, played, past)
    assert (found["track"], found["is_known"], found["rank"]) == (109, True, 1)
    assert found["own_past"] == "heard once, last 2 days ago, +9.00"
    assert found["parts"]["heard"] == 9
    assert sum(found["parts"].values()) == pytest.approx(found["score"], abs=1e-5)
    others = walking.step(view, of_listener, "T1", 1, played, past, familiar=0.0)
    assert (others["is_known"], others["rank"]) == (False, 2)
    assert others["sentence"] == "Number 2 of 9 candidates for this track: those before it were heard, or are known."
    assert walking.step(view, of_listener, "T1", 1, played)["own_past"] is None


@pytest.mark.usefixtures("of_listener")
def test_a_sentence_names_what_is_known_only_where_that_is_limited(view: ReleaseView) -> None:
    view.release.arms["T1"] = view.release.arms["T1"].model_copy(update={"artist_gap": 1})
    played, profile = walking.checked_session(view, [108], [1.0]), np.zeros(1, ENTRY)
    add_play(profile, 107, 1.0, now_ms() - 2 * DAY_MS)  # by the same artist
    found = walking.step(view, Recommender(view.release, np.random.default_rng(0)), "T1", 1, played, Past(profile, 0))
    assert (found["is_known"], found["rank"]) == (False, 2)
    assert found["sentence"].endswith("those before it were heard, or are by the artist of the last track.")


def test_a_listener_of_the_room_is_a_guest_in_the_arm(recommender: Recommender) -> None:
    for arm in ("C", "T3"):
        user = walking.new_listener(recommender, arm)
        assert recommender.arm_of(user) == arm
        assert user in GUESTS


WRONG: list[Any] = [[], ["x"], [99], ["0100"], [""], [100.0], [True], [100] * 200, [2**70], None]


@pytest.mark.parametrize(
    ("tracks", "shares"), [*((one, [1] * len(one or [])) for one in WRONG), ([100], []), ([100], [2]), (None, None)]
)
def test_what_is_no_session_is_refused(view: ReleaseView, tracks: object, shares: object) -> None:
    with pytest.raises(InputError, match="start a new walk"):
        walking.checked_session(view, tracks, shares)
