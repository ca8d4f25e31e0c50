"""The listening test: the same sessions with the same random numbers for every recommender."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from segue.catalog import Catalog
from segue.errors import InputError
from segue.runs.counted_part import CountedPart
from segue.simulation.listener import listen, start
from segue.simulation.listening import PARTS, Heard, ListeningTest, RunPlayer, from_lists, references
from segue.simulation.neighbours import nearest
from segue.simulation.policies import Policy, Popular, Random, TrueNeighbours
from segue.simulation.traffic import Task, play
from segue.simulation.world import World
from segue.statistics.intervals import MeanInterval
from tests.conftest import make_vectors

HITS, NEIGHBOURS = 20, 8


def made(world: World, **changes: Any) -> ListeningTest:
    return ListeningTest(world, **{"sessions": 1200, "seed": 1, "hits": HITS, **changes})


def near(world: World) -> np.ndarray:
    return nearest(world.embeddings, np.arange(len(world.catalog)), NEIGHBOURS, exclude_self=True)


def slow(test: ListeningTest, lists: np.ndarray, part: str) -> dict[int, float]:
    """The mean time per session of each listener, one session after another."""
    times: dict[int, list[int]] = {}
    for number in test._sessions[part]:
        [one] = np.array([[number]])
        first = test._draws(0, one)
        crowd = start(test.world, test._users[one], first[0], first[1])
        step = 0
        while crowd.budget[0] > 0:
            step += 1
            boredom, draw, _ = test._draws(step, one)
            own = [track for track in lists[crowd.current[0]] if track >= 0]
            crowd = listen(test.world, crowd, np.array([own[int(draw[0] * len(own))]]), boredom)
        times.setdefault(int(crowd.users[0]), []).append(int(crowd.shares.sum(dtype=np.int64)))
    return {user: float(np.mean(own)) / 100 for user, own in times.items()}


def test_sessions_heard_together_are_those_heard_one_by_one(world: World) -> None:
    test, lists = made(world, sessions=150), near(world)
    lists[::3, 3:] = -1  # shorter lists
    for part in PARTS:
        heard, expected = test.play(from_lists(lists), part), slow(test, lists, part)
        assert dict(zip(heard.listeners.tolist(), heard.time.tolist(), strict=True)) == pytest.approx(expected)
        assert heard.num_sessions == len(test._sessions[part])


def test_equal_lists_give_equal_values_whichever_test_plays_them(world: World) -> None:
    lists = near(world)
    one, other = (made(world).play(from_lists(lists.copy()), "test") for _ in range(2))
    assert np.array_equal(one.time, other.time)
    assert (one.coverage, one.share_of_hits) == (other.coverage, other.share_of_hits)
    assert not np.array_equal(one.time, made(world, seed=2).play(from_lists(lists), "test").time)


def half_width(values: np.ndarray) -> float:
    interval = MeanInterval.of(values, 0.95)
    return interval.upper - interval.mean


def test_listeners_are_in_one_part_alone_whatever_the_number_of_sessions(world: World) -> None:
    lists = from_lists(near(world))
    parts = {part: set(made(world).play(lists, part).listeners.tolist()) for part in PARTS}
    assert not parts["val"] & parts["test"]
    assert parts["val"] | parts["test"] == set(range(len(world.listeners)))
    for part in PARTS:
        few = set(made(world, sessions=40, seed=5).play(lists, part).listeners.tolist())
        assert few < parts[part]


POLICIES: dict[str, Callable[[World], Policy]] = {
    "random": lambda world: Random(world=world),
    "popular": lambda world: Popular(num_tracks=HITS, world=world),
    "true_neighbours": lambda world: TrueNeighbours(num_tracks=NEIGHBOURS, world=world),
}


@pytest.mark.parametrize("name", POLICIES)
def test_references_are_the_recommenders_of_the_simulator(world: World, name: str) -> None:
    test = made(world, sessions=6_000)
    heard = test.play(references(world, hits=HITS, neighbours=NEIGHBOURS)[name], "test")
    visits = np.full(len(heard.listeners), 100)
    task = Task(arm=0, users=heard.listeners, num_visits=visits, waves=range(100), seed=3, key=(1, 0, 0, 0))
    plays = list(play(world, POLICIES[name](world), [task], keep_events=False))
    users = np.concatenate([one.users for one in plays])
    times = np.bincount(users, np.concatenate([one.hundredths for one in plays]))[heard.listeners] / 100 / 100
    # the same listeners in other sessions: the difference has no part that is due to the listeners
    assert abs((heard.time - times).mean()) < 2 * half_width(heard.time - times)


def test_what_is_heard_is_described(world: World) -> None:
    test, played = made(world), references(world, hits=HITS, neighbours=NEIGHBOURS)
    popular, near_tracks = test.play(played["popular"], "test"), test.play(played["true_neighbours"], "test")
    assert popular.share_of_hits == 1
    assert popular.coverage == HITS / len(world.catalog)
    assert near_tracks.share_of_hits < 0.5
    assert near_tracks.share_of_same_artist > popular.share_of_same_artist
    assert near_tracks.coverage > popular.coverage
    artist_of, alone = world.catalog.artist_of, np.full((len(world.catalog), 1), -1)
    for artist in np.unique(artist_of):
        own = np.flatnonzero(artist_of == artist)
        alone[own, 0] = np.roll(own, 1)
    assert test.play(from_lists(alone), "test").share_of_same_artist == 1


def test_a_run_plays_the_same_in_whichever_order_it_has_the_tracks(world: World) -> None:
    num, rng = len(world.catalog), np.random.default_rng(0)
    part = CountedPart(
        rows=near(world).astype(np.int32),
        shares=rng.dirichlet(np.ones(NEIGHBOURS), num).astype(np.float32),
        age_weights=np.ones(3, np.float32),
        strength=0.1,
    )
    vectors, lists = make_vectors(num, counted=part), rng.integers(num, size=(num, 12))
    order = rng.permutation(num)[: num - 9]  # and some tracks are not in the run
    alone = np.isin(part.rows, order)
    part = replace(part, rows=np.where(alone, part.rows, -1).astype(np.int32), shares=part.shares * alone)
    lists[~np.isin(lists, order)] = order[0]
    times, none = [], [None] * len(order)
    for rows in (np.sort(order), order):
        run = RunPlayer(
            made(world),
            Catalog.from_columns(world.catalog.track_ids[rows].tolist(), none, none, source="tracks.json"),
            num_lists=2,
        )
        place = np.full(num + 1, -1)
        place[rows] = np.arange(len(rows))
        own = replace(part, rows=place[part.rows[rows]].astype(np.int32), shares=part.shares[rows])
        of_run = replace(vectors, queries=vectors.queries[rows], items=vectors.items[rows], counted=own)
        times.append(run.play("test", place[lists[rows]], of_run).time)
    np.testing.assert_array_equal(times[0], times[1])


def test_random_tracks_where_a_list_is_empty_are_counted(world: World) -> None:
    test, lists = made(world), near(world)

    def heard(lists: np.ndarray) -> Heard:
        return test.play(from_lists(lists), "test")

    assert heard(lists).fallbacks == 0
    lists[: len(lists) // 2] = -1
    assert heard(lists).fallbacks > 0
    lists[:] = -1
    everything = heard(lists)
    assert everything.coverage > 0.95
    assert everything.fallbacks > 3 * everything.num_sessions


def test_runs_pair_only_if_they_played_the_same_sessions(world: World) -> None:
    assert made(world).digest() == made(world, hits=HITS + 1).digest()
    assert len({made(world, **one).digest() for one in ({}, {"seed": 2}, {"sessions": 1201})}) == 3


def test_too_few_sessions_for_both_parts_are_refused(world: World) -> None:
    with pytest.raises(InputError, match=r"callbacks.listening.sessions=2 reaches .* needs two of each; use more"):
        made(world, sessions=2)
