"""Lists with the session as the query: of the lists of the last tracks, the tracks that are best for the session.

S sessions, N tracks in the catalogue, L tracks of a list, K tracks that may be picked.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32, Int64

from segue.errors import InputError, check_number
from segue.picking.session_search import MOST_LISTS, SessionSearch, gap_hint
from segue.runs.recommendations import file_digest
from segue.runs.session_vectors import FILE, SessionVectors, context_of
from segue.simulation.listener import WHOLE, Crowd
from segue.simulation.listening import Recommend, uniformly
from segue.simulation.policies import Lists, Policy
from segue.simulation.world import World

_BLOCK = 256
"""Sessions whose candidates are searched together: enough for fast arrays, few enough for the cache."""


def recommended(
    *,
    path: str,
    pick: str,
    artist_gap: int,
    exploration: int | float = 0.0,
    exploration_plays: int = 1,
    context: str | None,
    num_lists: int,
    world: World,
) -> Lists:
    """The policy of a recommendations file: lists of the last track, or the session as the query.

    Args:
        path: a `recommendations.jsonl`.
        pick: see `Lists`.
        artist_gap: see `Lists`.
        exploration: see `Lists`.
        exploration_plays: see `Lists`.
        context: `last` or `session`; None for that of the training run, which is in its `vectors.npz` beside the file.
        num_lists: see `SessionLists`.
        world: the world whose tracks are recommended.

    Returns:
        The policy.

    Raises:
        InputError: the file or its vectors cannot be read, or a setting is out of range.
    """
    how: dict[str, Any] = {"path": path, "pick": pick, "artist_gap": artist_gap, "world": world}
    how |= {"exploration": exploration, "exploration_plays": exploration_plays}
    lists = Lists(**how)
    if context_of("recommendations", context, Path(path)) == "last" or (context is None and lists.is_of_users):
        return lists
    return SessionLists(**how, num_lists=num_lists)


class SessionLists(Lists):
    """Recommends of the lists of the last tracks what is best for the session, by its query vector.

    The K best, as many as a list has, take the place of the list of the last track; `pick` and `artist_gap` apply
    to them. With `ranked` and no exploration all candidates do, so that `artist_gap` finds other artists. Tracks
    already heard follow the rule of the training run, and are left out where `pick` never repeats a track.

    Args:
        path: a `recommendations.jsonl` with `vectors.npz` beside it.
        pick: see `Lists`.
        artist_gap: see `Lists`.
        exploration: see `Lists`; the list is that of the K best.
        exploration_plays: see `Lists`.
        num_lists: number of last tracks whose lists are searched.
        world: the world whose tracks are recommended; both files must be of its catalogue.

    Raises:
        InputError: a file cannot be read, or is for another catalogue, or a setting is out of range.
    """

    def __init__(
        self,
        *,
        path: str,
        pick: str,
        artist_gap: int,
        exploration: int | float = 0.0,
        exploration_plays: int = 1,
        num_lists: int,
        world: World,
    ) -> None:
        super().__init__(
            path=path,
            pick=pick,
            artist_gap=artist_gap,
            exploration=exploration,
            exploration_plays=exploration_plays,
            world=world,
        )
        check_number("recommendations.num_lists", num_lists, whole=True, least=1, most=MOST_LISTS)
        if self.is_of_users:
            raise InputError(f"context=session needs lists of tracks, and {path} has lists of users")
        file = Path(path).with_name(FILE)
        vectors, self._num_lists = SessionVectors.read(file, world.catalog), num_lists
        self._search = SessionSearch(vectors, self.lists, num_lists=num_lists, may_repeat=pick == "uniform")
        self._vectors_digest = file_digest(file)
        self.hint = gap_hint(vectors, pick=pick, artist_gap=artist_gap)
        """What is wrong with `pick`; see `gap_hint`."""
        self._num_kept = self._search.num_kept(pick=pick, artist_gap=artist_gap, exploration=exploration)
        self._known = np.empty((0, self._num_kept), np.int32)
        self._known_at = np.empty((0, 2), np.int64)

    def begin(self, crowd: Crowd, rng: np.random.Generator) -> None:
        """Prepare for a new crowd.

        Args:
            crowd: the sessions after their first track.
            rng: draws the recommendations.
        """
        super().begin(crowd, rng)
        # what `look` has found, for `recommend`: candidates, number of tracks, last track
        self._known = np.empty((len(crowd), self._num_kept), np.int32)
        self._known_at = np.full((len(crowd), 2), -1)

    def look(self, crowd: Crowd) -> None:
        """Find the candidates of all sessions together, which costs each of them less.

        Args:
            crowd: all sessions of a step.
        """
        found = session_candidates(self._search, crowd, k=self._num_kept)
        self._known[crowd.place] = -1  # at the first tracks of a session fewer lists are searched
        self._known[crowd.place, : found.shape[1]], self._known_at[crowd.place] = found, _at(crowd)

    def candidates(self, crowd: Crowd) -> Int32[np.ndarray, "S K"]:
        """The best tracks for each session.

        Args:
            crowd: the sessions.
        """
        is_there = len(self._known) > crowd.place.max(initial=-1)
        if is_there and (self._known_at[crowd.place] == _at(crowd)).all():
            return self._known.take(crowd.place, axis=0)
        return session_candidates(self._search, crowd, k=self._num_kept)

    def describe(self) -> dict[str, Any]:
        """What decides the recommendations; `lists` and `vectors` are digests of the files."""
        more = {"policy": "session_lists", "num_lists": self._num_lists, "vectors": self._vectors_digest}
        return {**super().describe(), **more}


def hints(policies: Mapping[str, Policy]) -> list[str]:
    """What is wrong with the settings of each arm, a line each.

    Args:
        policies: the policy of each arm.
    """
    found = {arm: policy.hint for arm, policy in policies.items() if isinstance(policy, SessionLists)}
    return [f"arm {arm}: {hint}" for arm, hint in found.items() if hint]


def _at(crowd: Crowd) -> Int64[np.ndarray, "S 2"]:
    """Number of tracks and last track of each session."""
    return np.stack([np.full(len(crowd), len(crowd.tracks)), crowd.current.astype(np.int64)], 1)


def session_candidates(search: SessionSearch, crowd: Crowd, *, k: int) -> Int32[np.ndarray, "S K"]:
    """The best tracks of the lists of the last tracks of each session.

    Args:
        search: finds them.
        crowd: the sessions.
        k: how many are kept (K).

    Returns:
        Rows, best first; -1 fills up.
    """
    found = np.empty((len(crowd), 0), np.int32)
    tracks, shares = crowd.tracks[::-1], crowd.shares[: -search.length - 1 : -1]
    # lists with the same largest row are similar: of sessions one after another most vectors are in the cache already
    order = search.lists.take(crowd.current, axis=0).max(axis=1, initial=-1).argsort(kind="stable")
    for first in range(0, max(len(crowd), 1), _BLOCK):
        some = order[first : first + _BLOCK]
        played = shares.take(some, axis=1).T.astype(np.float32) / np.float32(WHOLE)
        best = search.best(tracks.take(some, axis=1).T, played, k)
        if not first:
            found = np.empty((len(crowd), best.shape[1]), np.int32)
        found[some] = best
    return found


def from_session(vectors: SessionVectors, lists: Int32[np.ndarray, "N L"], *, num_lists: int) -> Recommend:
    """One of the best tracks for the session, uniformly.

    Args:
        vectors: of all tracks of the world.
        lists: rows of tracks for each track of the world; -1 where a list has ended.
        num_lists: number of last tracks whose lists are searched.
    """
    search = SessionSearch(vectors, lists, num_lists=num_lists, may_repeat=True)
    return uniformly(lambda crowd: session_candidates(search, crowd, k=lists.shape[1]))
