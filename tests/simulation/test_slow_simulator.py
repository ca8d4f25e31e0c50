"""Every policy against an independent simulator: one session at a time, in the manner of the service of 2023.

It shares with `segue.simulation` only the world. Its random numbers are others, therefore means are compared.
"""

import json
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segue.simulation.policies import Lists, Oracle, Policy, Popular, Random, StickyArtist, TrueNeighbours
from segue.simulation.traffic import Plays, Task, play
from segue.simulation.world import World

VISITS = 12
"""Sessions of each listener."""

LIST = 6


class SlowWorld:
    """The numbers of a world as plain lists, with the tracks in order of their affinity to each track."""

    def __init__(self, world: World) -> None:
        embeddings = world.embeddings.astype(float)
        affinity = embeddings @ embeddings.T
        self.affinity: list[list[float]] = affinity.tolist()
        self.order: list[list[int]] = np.argsort(-affinity, axis=1, kind="stable").tolist()
        self.artist_of: list[int] = world.catalog.artist_of.tolist()


class Listener:
    """A listener of the old simulator, with its formulas and plain lists.

    Args:
        world: the world of the listener.
        user: row of the listener.
        slow: its numbers.
        rng: draws interests, first tracks and boredom.
    """

    def __init__(self, world: World, user: int, slow: SlowWorld, rng: random.Random) -> None:
        people = world.listeners
        self.user, self.interests = user, people.interests[user].tolist()
        self.bias, self.sharpness = float(people.bias[user]), float(people.sharpness[user])
        self.discount, self.budget = float(people.artist_discount[user]), int(people.budget[user])
        self.neighbours = int(people.num_neighbours[user])
        self.artist_of, self.slow, self.rng = slow.artist_of, slow, rng

    def session(self, recommend: Callable[["Listener", list[int]], int]) -> list[float]:
        """The shares of one session."""
        interest = self.rng.choice(self.interests)
        self.liking = [1 / (1 + math.exp(-(x - self.bias) * self.sharpness)) for x in self.slow.affinity[interest]]
        nearest = self.slow.order[interest][: self.neighbours]
        tracks, shares, budget = [self.rng.choice(nearest)], [1.0], self.budget
        while budget > 0:
            track = recommend(self, tracks)
            share = round(self.share(tracks, track), 2)
            tracks.append(track)
            shares.append(share)
            if self.rng.random() < 1 - share:
                budget -= 1
        return shares

    def share(self, played: list[int], track: int) -> float:
        """The share of a track that is played after others, before it is rounded."""
        if track in played:
            return 0.0
        return self.liking[track] * self.discount ** sum(self.artist_of[row] == self.artist_of[track] for row in played)


Recommend = Callable[[Listener, list[int]], int]


def slow_random(listener: Listener, _: list[int]) -> int:
    return listener.rng.randrange(len(listener.artist_of))


def slow_sticky(listener: Listener, played: list[int]) -> int:
    artist = listener.artist_of[played[-1]]
    others = [track for track, of in enumerate(listener.artist_of) if of == artist and track != played[-1]]
    return listener.rng.choice(others) if others else slow_random(listener, played)


def slow_popular(world: World, num_tracks: int) -> Recommend:
    top = world.top_tracks[:num_tracks].tolist()
    return lambda listener, _: listener.rng.choice(top)


def slow_neighbours(num_tracks: int) -> Recommend:
    def recommend(listener: Listener, played: list[int]) -> int:
        nearest = listener.slow.order[played[-1]][: num_tracks + 1]
        return listener.rng.choice([track for track in nearest if track != played[-1]][:num_tracks])

    return recommend


def slow_best(listener: Listener, played: list[int]) -> int:
    return max(range(len(listener.artist_of)), key=lambda track: listener.share(played, track))


def slow_lists(lists: dict[int, list[int]], how: str, artist_gap: int, *, of_users: bool) -> Recommend:
    def recommend(listener: Listener, played: list[int]) -> int:
        listed = lists.get(listener.user if of_users else played[-1], [])
        if how == "uniform":
            unheard = list(enumerate(listed, 1))
        else:
            unheard = [(rank, track) for rank, track in enumerate(listed, 1) if track not in played]
        recent = {listener.artist_of[track] for track in played[-artist_gap:]} if artist_gap else set()
        spaced = [(rank, track) for rank, track in unheard if listener.artist_of[track] not in recent]
        candidates = spaced or unheard
        if not candidates:
            track = slow_random(listener, played)
            while how != "uniform" and track in played:
                track = slow_random(listener, played)
            return track
        if how == "ranked":
            return candidates[0][1]
        weights = [1.0 if how == "uniform" else 1 / rank for rank, _ in candidates]
        return listener.rng.choices([track for _, track in candidates], weights)[0]

    return recommend


@pytest.fixture(scope="module")
def slow_world(world: World) -> SlowWorld:
    return SlowWorld(world)


Means = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


def slow_means(world: World, slow: SlowWorld, recommend: Recommend, visits: int) -> Means:
    """Time and number of tracks of each session of the slow loop."""
    rng = random.Random(11)
    people = [Listener(world, user, slow, rng) for user in range(len(world.listeners))]
    sessions = [person.session(recommend) for person in people for _ in range(visits)]
    return np.array([sum(shares) for shares in sessions]), np.array([len(shares) for shares in sessions], float)


def fast_means(world: World, policy: Policy, visits: int) -> Means:
    """The same of the arrays."""
    users = np.arange(len(world.listeners))
    task = Task(arm=0, users=users, num_visits=np.full(len(users), visits), waves=range(visits), seed=5, key=())
    plays = Plays.join(list(play(world, policy, [task], keep_events=False)))
    return plays.hundredths / 100, plays.lengths.astype(float)


def standard_errors(slow: Means, fast: Means) -> list[float]:
    """Difference of the mean time, and of the mean number of tracks, in standard errors."""
    return [
        float((a.mean() - b.mean()) / (a.var() / len(a) + b.var() / len(b)) ** 0.5)
        for a, b in zip(slow, fast, strict=True)
    ]


def write_lists(world: World, lists: Sequence[Sequence[int]], path: Path, *, of_users: bool) -> str:
    ids = world.catalog.track_ids
    lines = []
    for row, listed in enumerate(lists):
        if listed:
            tracks = ids[list(listed)].tolist()
            user = {"user": int(world.listeners.user_ids[row]), "tracks": tracks} if of_users else None
            lines.append(json.dumps(user or {"track": int(ids[row]), "recommendations": tracks}))
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.mark.parametrize(
    ("build", "slow"),
    [
        (lambda world: Random(world=world), lambda _: slow_random),
        (lambda world: StickyArtist(world=world), lambda _: slow_sticky),
        (lambda world: Popular(num_tracks=30, world=world), lambda world: slow_popular(world, 30)),
        (lambda world: TrueNeighbours(num_tracks=8, world=world), lambda _: slow_neighbours(8)),
        (lambda world: Oracle(world=world), lambda _: slow_best),
    ],
    ids=["random", "sticky_artist", "popular", "true_neighbours", "oracle"],
)
def test_recommenders_without_a_file_have_the_means_of_the_slow_simulator(
    world: World, slow_world: SlowWorld, build: Callable[[World], Policy], slow: Callable[[World], Recommend]
) -> None:
    visits = 1 if isinstance(build(world), Oracle) else VISITS
    found = standard_errors(slow_means(world, slow_world, slow(world), visits), fast_means(world, build(world), visits))
    assert np.abs(found).max() < 4


@pytest.mark.parametrize(("artist_gap", "of_users"), [(0, False), (2, False), (0, True)])
@pytest.mark.parametrize("how", ["uniform", "ranked", "weighted"])
def test_lists_have_the_means_of_the_slow_simulator(
    world: World, slow_world: SlowWorld, tmp_path: Path, how: str, artist_gap: int, of_users: bool
) -> None:
    """Of each track, or of each user: the tracks near to one track; every fifth has no list."""
    near = world.listeners.interests[:, 0].tolist() if of_users else range(len(world.catalog))
    lists = [
        [track for track in slow_world.order[row][:LIST] if track != row] if place % 5 else []
        for place, row in enumerate(near)
    ]
    path = write_lists(world, lists, tmp_path / "lists.jsonl", of_users=of_users)
    policy = Lists.of(path=path, pick=how, artist_gap=artist_gap, world=world)
    slow = slow_lists(dict(enumerate(lists)), how, artist_gap, of_users=of_users)
    found = standard_errors(slow_means(world, slow_world, slow, VISITS), fast_means(world, policy, VISITS))
    assert np.abs(found).max() < 4
    assert policy.fallbacks
