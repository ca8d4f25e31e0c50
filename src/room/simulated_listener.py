"""The simulated listener of a walk: how much of each track somebody of a world would play.

N tracks of the release, I interests of all listeners of the world, T tracks of the walk.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from segue.errors import InputError
from segue.simulation.listener import WHOLE, Crowd, listen
from segue.simulation.world_files import read_world

EMBEDDINGS = "tracks.npy"
"""The file of a world without which nobody knows what its listeners love."""


class SimulatedListener:
    """Answers beside the person: a listener of the world who loves the first track of the walk.

    Args:
        folder: of a run of `simulate.py`, which has the files of its world.
        track_ids: raw id of each track of the release.

    Raises:
        InputError: the files are missing or damaged, or the world lacks a track of the release.
    """

    def __init__(self, folder: Path, track_ids: Int64[np.ndarray, "N"]) -> None:
        if not (folder / EMBEDDINGS).is_file():
            raise InputError(f"room.world={folder} has no {EMBEDDINGS}; name the folder of a run of simulate.py")
        self._world = read_world(path=str(folder), seed=0, taste=None)
        rows = self._world.catalog.rows_of(np.asarray(track_ids))
        if (rows < 0).any():
            raise InputError(
                f"room.world={folder} lacks track {track_ids[int((rows < 0).argmax())]} of this service; name the "
                "world whose logs the recommenders were trained with"
            )
        self._row_of = rows
        self._owners, places = np.nonzero(self._world.listeners.interests >= 0)
        self._interests: Int64[np.ndarray, I] = self._world.listeners.interests[self._owners, places]
        self.choose = lru_cache(maxsize=1000)(self._choose)

    def _choose(self, first: int) -> tuple[int, int]:
        """The row of the listener for a first track, and the row in the world of the interest.

        It is the first one who has the track as an interest, or else the one whose interest has the highest affinity.

        Args:
            first: row of the first track in the release.
        """
        row = self._row_of[first]
        owned = np.flatnonzero(self._interests == row)
        vectors = self._world.embeddings
        place = int(owned[0]) if len(owned) else int((vectors[self._interests] @ vectors[row]).argmax())
        return int(self._owners[place]), int(self._interests[place])

    def answer(self, tracks: Int64[np.ndarray, "T"]) -> dict[str, Any]:
        """How much of the last track of a walk the listener would play, as JSON: `user`, `share` in [0, 1].

        Args:
            tracks: rows of the tracks in the release, of which there are at least two, first to last.
        """
        world = self._world
        user, interest = self.choose(int(tracks[0]))
        rows, people = self._row_of[tracks], world.listeners
        heard = rows[:-1, None].astype(np.int32)
        crowd = Crowd(
            place=np.zeros(1, np.int64),
            users=np.array([user]),
            taste=world.embeddings[[interest]],
            bias=people.bias[[user]],
            sharpness=people.sharpness[[user]],
            artist_discount=people.artist_discount[[user]],
            budget=people.budget[[user]],
            tracks=heard,
            artists=world.catalog.artist_of[heard].astype(np.int32),
            shares=np.full(heard.shape, WHOLE, np.uint8),
        )
        after = listen(world, crowd, rows[-1:], np.ones(1))  # a draw of 1: no boredom, which does not change the share
        return {"user": int(people.user_ids[user]), "share": int(after.shares[-1, 0]) / WHOLE}
