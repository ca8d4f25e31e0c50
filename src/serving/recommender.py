"""The next track of one user: an arm's policy, and what follows where it has nothing to offer.

K candidates of a list.
"""

from collections.abc import Callable, Collection
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32

from src.assignment import treatments
from src.recommendations import pick
from src.serving.release import Arm, Release

FALLBACKS = ("artist", "popular", "random")
"""Where a list has nothing left: another track of the same artist, one of the most played, any track."""

_POPULAR = 100
"""Tracks among which `popular` chooses, as published."""

_TRIES = 20
"""To find any track that the session has not played."""


class Next(NamedTuple):
    """What follows: row of the track, and which of `FALLBACKS` it came from, if any."""

    row: int
    fallback: str | None


class Recommender:
    """Answers from one release.

    Args:
        release: what to answer from.
        rng: makes the choices.
    """

    def __init__(self, release: Release, rng: np.random.Generator) -> None:
        self.release, self._rng = release, rng
        self.arm_names = list(release.arms)
        self._experiment = release.experiment
        self._top = np.asarray(release.top_tracks[:_POPULAR])

    def arm_of(self, user: int) -> str:
        """Name of the arm that a user belongs to."""
        number: int = treatments(np.array([user]), experiment=self._experiment, num_arms=len(self.arm_names)).tolist()[
            0
        ]
        return self.arm_names[number]

    def remembers(self, arm: str) -> bool:
        """Whether what the session has played matters to an arm."""
        given = self.release.arms[arm]
        return given.policy == "lists" and given.pick != "uniform"

    def follow(self, arm: str, row: int, played: Collection[int]) -> Next:
        """What follows a track.

        Args:
            arm: name of the arm.
            row: row of the track.
            played: raw ids that the session has played, where the arm remembers them.
        """
        given = self.release.arms[arm]
        heard = np.fromiter(played, np.int64, len(played)) if self.remembers(arm) else np.empty(0, np.int64)
        if given.policy == "lists":
            row_of_list = self._pick(self.release.lists[arm][row], given, heard)
            if row_of_list >= 0:
                return Next(row_of_list, None)
        sources: dict[str, Callable[[], Int32[np.ndarray, n]]] = {
            "artist": lambda: self._others(row),
            "popular": lambda: self._top,
        }
        own = {"sticky_artist": "artist", "popular": "popular"}.get(given.policy)
        chain = {"lists": ["artist", "popular"], "random": []}.get(given.policy, [str(own)])
        for name in chain:
            tracks = sources[name]()
            tracks = tracks[~self._is_heard(tracks, heard)]
            if len(tracks):
                chosen = int(tracks[int(self._rng.random() * len(tracks))])
                return Next(chosen, None if name == own else name)
        return Next(self._any(heard), None if given.policy == "random" else "random")

    def _pick(self, candidates: Int32[np.ndarray, "K"], arm: Arm, heard: np.ndarray) -> int:
        """Row of a candidate; -1 where none is open."""
        is_open = (candidates >= 0) & ~self._is_heard(candidates, heard)
        place = int(pick(arm.pick, is_open[None], np.array([self._rng.random()]))[0])
        return int(candidates[place]) if place >= 0 else -1

    def _is_heard(self, rows: Int32[np.ndarray, "n"], heard: np.ndarray) -> np.ndarray:
        if not len(heard):
            return np.zeros(len(rows), bool)
        return np.asarray((self.release.track_ids[rows][:, None] == heard).any(1))

    def _others(self, row: int) -> Int32[np.ndarray, "n"]:
        tracks = self.release.artist_tracks(row)
        return np.asarray(tracks[tracks != row])

    def _any(self, heard: np.ndarray) -> int:
        for _ in range(_TRIES):
            row = int(self._rng.random() * len(self.release))
            if not self._is_heard(np.array([row], np.int32), heard)[0]:
                break
        return row
