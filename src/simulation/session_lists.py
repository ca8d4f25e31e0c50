"""Lists with the session as the query: of the lists of the last tracks, the tracks that are best for the session.

S sessions, N tracks in the catalogue, L tracks of a list, K tracks that may be picked.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from jaxtyping import Int32

from segue.errors import InputError
from segue.picking.session_search import MOST_LISTS, SessionSearch, gap_hint
from segue.runs.recommendations import file_digest
from segue.runs.session_vectors import FILE, SessionVectors, context_of
from segue.settings import Setting, settings
from segue.simulation.listener import WHOLE, Crowd
from segue.simulation.listening import Recommend, uniformly
from segue.simulation.policies import Lists, Policy
from segue.simulation.world import World

_BLOCK = 256
"""Sessions whose candidates are searched together: enough for fast arrays, few enough for the cache."""


def recommended(*, path: str, context: str | None, num_lists: int, world: World, **picking: Any) -> Lists:
    """The policy of a recommendations file: lists of the last track, or the session as the query.

    Args:
        path: a `recommendations.jsonl`.
        context: `last` or `session`; None for that of the training run, which is in its `vectors.npz` beside the file.
        num_lists: see `SessionLists`.
        world: the world whose tracks are recommended.
        picking: other settings of `Lists`.

    Returns:
        The policy.

    Raises:
        InputError: the file or its vectors cannot be read, or a setting is out of range.
    """
    lists = Lists(path=path, world=world, **picking)
    if context_of("recommendations", context, Path(path)) == "last" or (context is None and lists.is_of_users):
        return lists
    return SessionLists(path=path, world=world, num_lists=num_lists, **picking)


@settings("recommendations")
class SessionLists(Lists):
    """Recommends of the lists of the last tracks what is best for the session, by its query vector.

    The K best, as many as a list has, take the place of the list of the last track; `pick` and `artist_gap` apply
    to them. With `ranked` and no exploration all candidates do, so that `artist_gap` finds other artists. Tracks
    already heard follow the rule of the training run, and are left out where `pick` never repeats a track.

    Args:
        path: a `recommendations.jsonl` with `vectors.npz` beside it.
        world: the world whose tracks are recommended; both files must be of its catalogue.
        picking: other settings of `Lists`; what it explores is the list of the K best.

    Raises:
        InputError: a file cannot be read, or is for another catalogue, or a setting is out of range.
    """

    def __init__(
        self,
        *,
        path: str,
        num_lists: Annotated[int, Setting("number of last tracks whose lists are searched", least=1, most=MOST_LISTS)],
        world: World,
        **picking: Any,
    ) -> None:
        super().__init__(path=path, world=world, **picking)
        if self.is_of_users:
            raise InputError(f"context=session needs lists of tracks, and {path} has lists of users")
        file, how = Path(path).with_name(FILE), {"pick": self.picker.pick, "artist_gap": self.picker.artist_gap}
        vectors = SessionVectors.read(file, world.catalog)
        self._search = SessionSearch(vectors, self.lists, num_lists=num_lists, may_repeat=how["pick"] == "uniform")
        self.hint = gap_hint(vectors, **how)
        """What is wrong with `pick`; see `gap_hint`."""
        self._num_kept = self._search.num_kept(**how, exploration=self.picker.exploration)
        self.description |= {"policy": "session_lists", "num_lists": num_lists, "vectors": file_digest(file)}

    def candidates(self, crowd: Crowd) -> Int32[np.ndarray, "S K"]:
        """The best tracks for each session.

        Args:
            crowd: the sessions.
        """
        return session_candidates(self._search, crowd, k=self._num_kept)


def hints(policies: Mapping[str, Policy]) -> list[str]:
    """What is wrong with the settings of each arm, a line each.

    Args:
        policies: the policy of each arm.
    """
    hints_of = ((arm, policy.hint) for arm, policy in policies.items() if isinstance(policy, SessionLists))
    return [f"arm {arm}: {hint}" for arm, hint in hints_of if hint]


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
