"""The simulated listener answers as the simulator does."""

from pathlib import Path

import numpy as np
import pytest

from segue.errors import InputError
from segue.room.simulated_listener import SimulatedListener
from segue.simulation.listener import listen, start
from segue.simulation.world import World
from segue.simulation.world_files import write_world


def test_the_answers_are_those_of_the_simulator(world: World, tmp_path: Path) -> None:
    """A session of a listener who loves its first track, with an artist and a track that are repeated."""
    write_world(world, tmp_path)
    listener = SimulatedListener(tmp_path, world.catalog.track_ids[::-1])  # the release has another order
    last = len(world.catalog) - 1
    interest = int(world.listeners.interests[0, 0])
    user, found = listener.choose(last - interest)
    assert found == interest
    assert interest in world.listeners.interests[user]
    of_artist = np.flatnonzero(world.catalog.artist_of == world.catalog.artist_of[interest])
    rows = [interest, int(of_artist[-1]), *map(int, np.random.default_rng(0).integers(0, last, 4)), interest]
    crowd = start(world, np.array([user]), np.zeros(1), np.zeros(1))
    taste = world.embeddings[[interest]]
    crowd = crowd.__class__(
        **vars(crowd)
        | {
            "taste": taste,
            "tracks": np.array([[interest]], np.int32),
            "artists": world.catalog.artist_of[[[interest]]].astype(np.int32),
        }
    )
    for length in range(2, len(rows) + 1):
        crowd = listen(world, crowd, np.array(rows[length - 1 : length]), np.zeros(1))
        answer = listener.answer(last - np.array(rows[:length]))
        assert answer == {"user": int(world.listeners.user_ids[user]), "share": crowd.shares[-1, 0] / 100}
    assert answer["share"] == 0, "it was heard before"


def test_a_track_that_nobody_loves_has_the_listener_whose_interest_is_nearest(world: World, tmp_path: Path) -> None:
    write_world(world, tmp_path)
    listener = SimulatedListener(tmp_path, world.catalog.track_ids)
    loved = set(world.listeners.interests.ravel().tolist())
    row = next(row for row in range(len(world.catalog)) if row not in loved)
    affinities = {one: float(world.embeddings[one] @ world.embeddings[row]) for one in sorted(loved - {-1})}
    user, interest = listener.choose(row)
    assert interest == max(affinities, key=affinities.__getitem__)
    assert interest in world.listeners.interests[user]


def test_a_world_of_other_tracks_is_refused(world: World, tmp_path: Path) -> None:
    write_world(world, tmp_path)
    with pytest.raises(InputError, match=r"room.world=.* lacks track 123456789 of this service; name the world whose"):
        SimulatedListener(tmp_path, np.array([int(world.catalog.track_ids[0]), 123456789]))
    (tmp_path / "tracks.npy").unlink()
    with pytest.raises(InputError, match=r"room.world=.* has no tracks.npy; name the folder of a run of simulate.py"):
        SimulatedListener(tmp_path, world.catalog.track_ids)
