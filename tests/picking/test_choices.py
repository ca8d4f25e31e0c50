"""The probabilities of tracks, compared with slow loops of the service and with the policies of the simulator."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from segue.picking.choices import Behaviour
from segue.runs.recommendations import Recommendations
from segue.simulation.listener import listen, start
from segue.simulation.policies import Lists, Policy, Popular, Random, StickyArtist
from segue.simulation.world import World
from tests.conftest import make_catalog
from tests.serving.conftest import arm, lists_of, make_release
from tests.serving.test_recommender import Situation, situations, slow_propensities


def behaviour(artist_of: Any, policy: str = "lists", **changes: Any) -> Behaviour:
    given: dict[str, Any] = {
        "policy": policy,
        "artist_of": np.asarray(artist_of, np.int64),
        "pick": "uniform",
        "artist_gap": 0,
        "lists": np.empty((0, 0), np.int32),
        "users": np.empty(0, np.int64),
        "popular": np.empty(0, np.int64),
        "fallbacks": (),
        "draws": 21,
    }
    return Behaviour(**{**given, **changes})


@settings(max_examples=60)
@given(situation=situations())
def test_probabilities_are_those_of_the_rules_of_the_service(
    situation: Situation, tmp_path_factory: pytest.TempPathFactory
) -> None:
    artist_of, rows, top, pick, artist_gap, row, played = situation
    num = len(artist_of)
    played = [*(track for track in played if 100 <= track < 100 + num), 100 + row]
    release = make_release(
        tmp_path_factory.mktemp("release"),
        catalog=make_catalog(artist_of),
        arms={"C": arm(pick=pick, artist_gap=artist_gap)},
        lists={"C": lists_of(rows)},
        top_tracks=top,
    )
    ours = behaviour(
        artist_of,
        pick=pick,
        artist_gap=artist_gap,
        lists=lists_of(rows).rows.astype(np.int32),
        popular=np.array(top, np.int64),
        fallbacks=("artist", "popular"),
        draws=20,
    )
    choices = ours.choices(np.array([7]), np.array([played]) - 100)
    expected = slow_propensities(release, row, played)
    assert choices.of(np.arange(num)[None])[0].tolist() == pytest.approx([expected.get(r, 0.0) for r in range(num)])
    assert choices.of(np.array([[-1]])).tolist() == [[0.0]]


STEPS = 9


@pytest.mark.parametrize(
    "name",
    [
        "random",
        "popular",
        "sticky_artist",
        "uniform 0",
        "uniform 3",
        "ranked 0",
        "ranked 1",
        "weighted 0",
        "weighted 2",
        "uniform 0 0.3",
        "ranked 1 0.2",
        "weighted 2 0.5",
    ],
)
def test_probabilities_are_those_of_the_simulator(world: World, tmp_path: Path, name: str) -> None:
    """Lists have four tracks, and some have none; sessions play nine tracks, therefore fallbacks occur."""
    num_tracks, how = len(world.catalog), name.partition(" ")[0]
    rows = (np.arange(num_tracks)[:, None] + 1 + np.arange(4)) % num_tracks
    rows[::7] = -1
    plays = np.where(np.arange(num_tracks) % 11 == 3, 0, 1)
    Recommendations(rows=rows, scores=np.full(rows.shape, np.nan, np.float32), plays=plays).write(
        tmp_path / "r.jsonl", world.catalog, format="botify"
    )
    ours = behaviour(world.catalog.artist_of, how, popular=world.top_tracks[:30])
    theirs: Policy
    if name in ("random", "popular", "sticky_artist"):
        theirs = {
            "random": Random(world=world),
            "popular": Popular(num_tracks=30, world=world),
            "sticky_artist": StickyArtist(world=world),
        }[name]
    else:
        gap, exploration = int(name.split()[1]), float([*name.split(), "0"][2])
        theirs = Lists(path=str(tmp_path / "r.jsonl"), pick=how, artist_gap=gap, exploration=exploration, world=world)
        ours = behaviour(
            world.catalog.artist_of,
            pick=how,
            artist_gap=gap,
            lists=rows.astype(np.int32),
            exploration=exploration,
            new=np.flatnonzero(plays == 0),
        )
    rng = np.random.default_rng(0)
    crowd = start(world, np.arange(40) % len(world.listeners), rng.random(40), rng.random(40))
    theirs.begin(crowd, rng)
    for _ in range(STEPS):
        tracks = theirs.recommend(crowd)
        choices = ours.choices(world.listeners.user_ids[crowd.users], crowd.tracks.T.astype(np.int64))
        found = choices.of(np.stack([tracks, (tracks + 1) % num_tracks], 1))
        assert found[:, 0].tolist() == pytest.approx(theirs.propensity(crowd, tracks).tolist())
        assert found[:, 1].tolist() == pytest.approx(theirs.propensity(crowd, (tracks + 1) % num_tracks).tolist())
        assert (found[:, 0] > 0).all()
        crowd = listen(world, crowd, tracks, np.ones(len(crowd)))


def test_the_list_of_a_user_does_not_depend_on_the_track() -> None:
    ours = behaviour([0, 0, 1, 1], "user_lists", lists=np.array([[2, 3]], np.int32), users=np.array([5]))
    choices = ours.choices(np.array([5, 6]), np.array([[0], [1]]))
    assert choices.of(np.array([[2, 3, 0]] * 2)).tolist() == [[0.5, 0.5, 0.0], [0.25, 0.25, 0.25]]


@pytest.mark.parametrize("played", [[2], [0, 1, 2], [3, 1, 3], [1, 1, 1, 1], [3, 1, 0, 2]])
@pytest.mark.parametrize("draws", [1, 2, 3])
def test_a_track_that_was_heard_is_drawn_where_all_draws_are_of_such_tracks(played: list[int], draws: int) -> None:
    """All sequences of draws from four tracks: the first one that is not heard counts, or the last one."""
    shares = np.zeros(4)
    for sequence in product(range(4), repeat=draws):
        shares[next((row for row in sequence if row not in played), sequence[-1])] += 0.25**draws
    ours = behaviour([0, 0, 1, 1], pick="ranked", lists=np.full((4, 1), -1, np.int32), draws=draws)
    choices = ours.choices(np.array([7]), np.array([played]))
    assert choices.of(np.arange(4)[None])[0].tolist() == pytest.approx(shares.tolist())


def test_exploration_without_new_tracks_takes_nothing_from_the_lists() -> None:
    lists = np.array([[1, 2], [2, 3], [3, 0], [0, 1]], np.int32)
    usual, explores = (behaviour([0, 0, 1, 1], lists=lists, exploration=share) for share in (0.0, 0.4))
    users, played = np.array([1, 2]), np.array([[0], [2]])
    found = [one.choices(users, played).of(np.tile(np.arange(4), (2, 1))).tolist() for one in (usual, explores)]
    assert found[0] == found[1] == [[0, 0.5, 0.5, 0], [0.5, 0, 0, 0.5]]
