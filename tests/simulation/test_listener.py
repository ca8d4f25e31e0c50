"""The listener against a slow loop written from the formulas."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.simulation.listener import Crowd, listen, start
from segue.simulation.policies import Policy, Random, Recommended, StickyArtist
from segue.simulation.traffic import Plays, Task, play
from segue.simulation.world import World


def one_session_each(users: Any, seed: int) -> Task:
    """One session of each listener."""
    return Task(arm=0, users=users, num_visits=np.ones_like(users), waves=range(1), seed=seed, key=())


class Deterministic(Policy):
    """Recommends a track that depends on user, step and place only, the same for the arrays and for the loop."""

    def recommend(self, crowd: Crowd) -> Any:
        # few tracks of few artists: repeats and discounts are frequent
        tracks = (crowd.users * 7 + len(crowd.tracks) * len(crowd.tracks)) % 40 + crowd.place % 2
        return Recommended(tracks, np.full(len(crowd), np.nan))


def slow_sessions(world: World, users: list[int], rng: np.random.Generator) -> dict[int, list[tuple[int, float]]]:
    """Sessions of some users by the formulas; random numbers are taken in the order of the arrays."""
    people, embeddings = world.listeners, world.embeddings.astype(float)
    interest_draws, first_draws = rng.random(len(users)), rng.random(len(users))
    sessions: dict[int, dict[str, Any]] = {}
    for place, user in enumerate(users):
        interest = int(people.interests[user][int(interest_draws[place] * 3)])
        by_affinity = sorted(range(len(embeddings)), key=lambda t: -float(embeddings[t] @ embeddings[interest]))
        first = by_affinity[int(first_draws[place] * 10)]
        sessions[place] = {"user": user, "interest": interest, "played": [(first, 1.0)], "budget": 5}
    active = list(sessions)
    while active:
        draws = rng.random(len(active))
        for place, draw in zip(list(active), draws, strict=True):
            session = sessions[place]
            user, played = session["user"], session["played"]
            track = (user * 7 + len(played) ** 2) % 40 + place % 2
            artist = world.catalog.artist_of[track]
            num_played = sum(world.catalog.artist_of[previous] == artist for previous, _ in played)
            x = float(embeddings[track] @ embeddings[session["interest"]])
            affinity_share = 1 / (1 + math.exp(-(x - people.bias[user]) * people.sharpness[user]))
            share = round(affinity_share * 0.8**num_played, 2)
            if track in [previous for previous, _ in played]:
                share = 0.0
            played.append((track, share))
            if draw < 1 - share:
                session["budget"] -= 1
            if session["budget"] == 0:
                active.remove(place)
    return {session["user"]: session["played"] for session in sessions.values()}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_arrays_give_the_sessions_of_the_slow_loop(world: World, seed: int) -> None:
    users = np.arange(len(world.listeners))
    plays = Plays.join(
        list(
            play(
                world,
                Deterministic(world=world),
                [one_session_each(users, seed)],
                keep_events=True,
            )
        )
    )
    listener_seed, _ = np.random.SeedSequence(seed).spawn(2)
    expected = slow_sessions(world, users.tolist(), np.random.default_rng(listener_seed))
    assert sorted(plays.users.tolist()) == users.tolist()
    ends = plays.lengths.cumsum()
    repeats = 0
    for user, end, length, hundredths in zip(plays.users, ends, plays.lengths, plays.hundredths, strict=True):
        tracks, shares = plays.tracks[end - length : end], plays.shares[end - length : end] / 100
        assert list(zip(tracks.tolist(), shares.tolist(), strict=True)) == expected[int(user)]
        assert hundredths == round(100 * sum(share for _, share in expected[int(user)]))
        repeats += len(tracks) - len(set(tracks.tolist()))
    assert repeats  # otherwise the rule for repeated tracks was not tested


def started_crowd(world: World, seed: int, num: int = 32) -> tuple[Crowd, np.random.Generator]:
    rng = np.random.default_rng(seed)
    return start(world, rng.integers(len(world.listeners), size=num), rng.random(num), rng.random(num)), rng


@given(seed=st.integers(0, 10_000))
@settings(max_examples=25)
def test_shares_and_budgets_stay_in_range_and_a_repeated_track_has_share_zero(world: World, seed: int) -> None:
    crowd, rng = started_crowd(world, seed)
    for _ in range(6):
        tracks = rng.integers(len(world.catalog), size=len(crowd))
        is_repeated = (crowd.tracks == tracks).any(0)
        before = crowd.budget
        crowd = listen(world, crowd, tracks, rng.random(len(crowd)))
        assert (crowd.shares[-1] <= 100).all()
        assert (crowd.shares[-1][is_repeated] == 0).all()
        assert np.isin(before - crowd.budget, [0, 1]).all()


def test_interests_and_first_tracks_are_drawn_uniformly(world: World) -> None:
    num = 20_000
    rng = np.random.default_rng(0)
    crowd = start(world, np.zeros(num, np.int64), rng.random(num), rng.random(num))
    drawn = np.unique(np.column_stack([crowd.taste, crowd.current]), axis=0, return_counts=True)[1]
    assert len(drawn) == 30
    assert np.abs(drawn / num - 1 / 30).max() < 5 * (1 / 30 / num) ** 0.5


def test_a_previous_track_of_the_artist_reduces_the_share_by_the_discount(world: World) -> None:
    artist = int(np.bincount(world.catalog.artist_of).argmax())
    of_artist = np.flatnonzero(world.catalog.artist_of == artist)
    crowd, _ = started_crowd(world, 1)
    other, same = of_artist[0], of_artist[1]
    crowd = crowd.where((crowd.artists[0] != artist) & (crowd.users >= 0))
    fresh = listen(world, crowd, np.full(len(crowd), same), np.ones(len(crowd)))
    after = listen(
        world,
        listen(world, crowd, np.full(len(crowd), other), np.ones(len(crowd))),
        np.full(len(crowd), same),
        np.ones(len(crowd)),
    )
    assert np.abs(after.shares[-1] - 0.8 * fresh.shares[-1]).max() <= 0.9  # each is rounded once
    assert fresh.shares[-1].max() > 50


@pytest.mark.parametrize("policy", [Random, StickyArtist])
def test_means_do_not_depend_on_the_size_of_the_crowd(world: World, policy: type[Policy]) -> None:
    """Sessions in the same arrays do not influence each other."""

    def mean(size: int) -> float:
        total = sessions = 0
        for number, users in enumerate(np.array_split(np.arange(3000) % 60, 3000 // size)):
            for plays in play(world, policy(world=world), [one_session_each(users, number)], keep_events=False):
                total, sessions = total + int(plays.hundredths.sum()), sessions + len(plays.users)
        return total / sessions / 100

    assert mean(1000) == pytest.approx(mean(50), abs=0.12)
