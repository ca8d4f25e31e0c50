"""The listener against a slow loop written from the formulas."""

import math
from typing import Any

import numpy as np
import pytest

from segue.simulation.listener import Crowd
from segue.simulation.policies import Policy, Recommended
from segue.simulation.traffic import Plays, Task, play
from segue.simulation.world import World


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
    task = Task(arm=0, users=users, num_visits=np.ones_like(users), waves=range(1), seed=seed, key=())
    plays = Plays.join(list(play(world, Deterministic(world=world), [task], keep_events=True)))
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
