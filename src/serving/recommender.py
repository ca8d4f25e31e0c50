"""The next track of a user: the arm, and what its session has heard.

K candidates of a list, S sessions, T tracks of the longest of them.
"""

import asyncio
import json
from collections.abc import Collection, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64

from segue.assignment import salt_of, treatment
from segue.catalog import Id
from segue.errors import InputError
from segue.picking.arm import Arm, own_rule
from segue.picking.listener_scores import Pasts, past_of
from segue.picking.picker import NUM_POPULAR, Picker
from segue.picking.session_search import SessionSearch
from segue.runs.profiles import ENTRY
from segue.runs.recommendations import lists_of
from segue.serving.release import Release
from segue.serving.row_table import RowTable
from segue.serving.session_memory import Played

_AT_ONCE = 64  # requests that are answered together at most where an arm needs profiles, which need memory
_NOTHING, _NO_LIST = Played([], []), np.empty(0, np.int32)


class Next(NamedTuple):
    """The next track: its row, which of `FALLBACKS` it came from, if any, and the probability that it was picked."""

    row: int
    fallback: str | None
    propensity: float


class Past(NamedTuple):
    """What a listener has heard in all sessions, at a time.

    Attributes:
        entries: of their profile, with the keys of tracks (`runs/profiles.py`).
        now_ms: the time.
    """

    entries: np.ndarray
    now_ms: int


_Asked = tuple[int, int, Played, Past | None, asyncio.Future[Next]]


class Recommender:
    """Answers from one release.

    Args:
        release: the release to answer from.
        rng: random numbers of the choices.
        policies: the classes of arms of one's own that may be imported: those that the user of this service has named,
            and not all that a release names.

    Raises:
        InputError: an arm has a class that is none of them, or that cannot be used.
    """

    def __init__(self, release: Release, rng: np.random.Generator, policies: Collection[str] = ()) -> None:
        self.release, self._rng, self.policies = release, rng, policies
        self._arm_names, self._salt = list(release.arms), salt_of(release.experiment)
        self._pickers = {name: self._picker(name, arm) for name, arm in release.arms.items()}
        self.searches = {name: picker.search for name, picker in self._pickers.items() if picker.search is not None}
        """Of each arm with `context=session` or `listener`: the best tracks of the lists of the last tracks."""
        self.own = {name for name, arm in release.arms.items() if arm.is_own}
        """The arms of one's own. With one of them, the last plays of all users are kept."""
        self.knows_listeners = any(search.knows_listeners for search in self.searches.values())
        """Whether an arm needs the profiles of listeners."""
        self._rows = RowTable(release.keys) if self.knows_listeners else None
        self._asked: dict[str, list[_Asked]] = {}
        self.experiments = {arm: json.dumps({release.experiment: arm}, ensure_ascii=False) for arm in release.arms}
        """The value of `experiments` in the event log, for each arm."""
        self.version = json.dumps(release.version)
        """The value of `release` in the event log."""

    def _picker(self, name: str, arm: Arm) -> Picker:
        release, own = self.release, None
        users, lists = release.user_lists.get(name, (None, release.lists.get(name, np.empty((0, 0), np.int32))))
        if arm.is_own:
            if arm.policy not in self.policies:
                raise InputError(
                    f"arm {name} of release {release.version} has policy={arm.policy}, which this service may not "
                    f"import; start it with policies=[{arm.policy}] if you know that class"
                )
            ids = np.array([*map(release.id_of, range(len(release)))], object if release.has_texts else np.int64)
            own = own_rule(arm.policy, lists=lists, artist_of=release.artist_of, track_ids=ids)
        vectors = release.vectors.get(name)
        return Picker(
            arm=arm,
            artists=release.artists,
            popular=release.top_tracks[:NUM_POPULAR],
            lists=lists,
            users=users,
            search=None if vectors is None else SessionSearch(arm, vectors, lists, release.artist_of),
            own=own,
        )

    def arm_of(self, user: Id) -> str:
        """Name of the arm of a user."""
        return self._arm_names[treatment(user, salt=self._salt, num_arms=len(self._arm_names))]

    def needs_session(self, arm: str) -> bool:
        """Whether an arm needs the tracks that the session has played."""
        return arm in self.own or self._pickers[arm].needs_session

    def follow(
        self,
        arm: str,
        user: int,
        row: int,
        played: Played = _NOTHING,
        past: Past | None = None,
        familiar: float | None = None,
    ) -> Next:
        """The next track after a track.

        Args:
            arm: name of the arm.
            user: key of the user (`catalog.key_of`).
            row: row of the track.
            played: what the session has played, this track last; only if the arm remembers sessions. Of an arm of one's
                own the last plays of the user, whatever the session.
            past: what the listener has heard in all sessions; None if that is not known.
            familiar: another one than that of the arm; only with `context=listener`.
        """
        picker = self._pickers[arm]
        if self.needs_session(arm):
            return self._together(arm, [user], [row], [played], [past], familiar)[0]
        if picker.users is not None:
            candidates = lists_of(user, picker.users, picker.lists)
        else:
            candidates = picker.lists[row] if picker.arm.has_lists else _NO_LIST
        return _next(picker, *picker.pick_one(candidates, row, self._rng))

    def ask(self, arm: str, user: int, row: int, played: Played, past: Past | None = None) -> asyncio.Future[Next]:
        """As `follow`, for the requests of one turn of the event loop together, which costs each of them less.

        Args:
            arm: name of an arm that remembers sessions.
            user: key of the user (`catalog.key_of`).
            row: row of the track.
            played: what the session has played, this track last.
            past: what the listener has heard in all sessions; None if that is not known.
        """
        loop = asyncio.get_running_loop()
        if not self._asked:
            loop.call_soon(self._answer)
        answer: asyncio.Future[Next] = loop.create_future()
        self._asked.setdefault(arm, []).append((user, row, played, past, answer))
        return answer

    def _answer(self) -> None:
        asked, self._asked = self._asked, {}
        for arm, of_arm in asked.items():
            most = _AT_ONCE if self.knows_listeners else len(of_arm)
            for first in range(0, len(of_arm), most):
                self._answer_some(arm, of_arm[first : first + most])

    def _answer_some(self, arm: str, some: Sequence[_Asked]) -> None:
        users, rows, played, pasts, waiting = zip(*some, strict=True)
        answers: Sequence[Next | Exception]
        try:
            answers = self._together(arm, users, rows, played, pasts)
        except Exception as error:
            answers = [error] * len(waiting)
        for future, answer in zip(waiting, answers, strict=True):
            if future.done():  # its request was cancelled
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)

    def _together(
        self,
        arm: str,
        users: Sequence[int],
        rows: Sequence[int],
        played: Sequence[Played],
        pasts: Sequence[Past | None],
        familiar: float | None = None,
    ) -> list[Next]:
        picker, heard = self._pickers[arm], np.array(rows)[:, None]
        shares = np.empty((len(rows), 0), np.float32)
        if self.needs_session(arm):
            heard, shares = self.newest_first(played)
        past = None if picker.search is None else self.past_of(picker.search, heard, pasts)
        candidates = picker.candidates(heard, shares, np.array(users), past, familiar)
        picked = picker.pick_next(candidates, heard, self._rng, shares)
        return [_next(picker, *one) for one in zip(*(column.tolist() for column in picked), strict=True)]

    def past_of(
        self, search: SessionSearch, heard: Int64[np.ndarray, "S T"], pasts: Sequence[Past | None]
    ) -> Pasts | None:
        """The profiles of listeners in the form that a search needs.

        Args:
            search: of the arm.
            heard: rows of the tracks that each session has heard; -1 for none.
            pasts: what each listener has heard; None if that is not known.
        """
        known = [(line, one) for line, one in enumerate(pasts) if one is not None and len(one.entries)]
        if not known or not search.knows_listeners or self._rows is None:
            return None
        profiles = np.zeros((len(pasts), max(len(one.entries) for _, one in known)), ENTRY)
        now_ms, as_bytes = np.zeros(len(pasts), np.int64), profiles.view(np.uint8)
        for line, (entries, time_ms) in known:
            as_bytes[line, : entries.nbytes] = entries.view(np.uint8)  # records are copied field by field
            now_ms[line] = time_ms
        return past_of(profiles, heard, now_ms, self._rows.of(profiles["track"]))

    def newest_first(self, played: Sequence[Played]) -> tuple[Int64[np.ndarray, "S T"], Float32[np.ndarray, "S T"]]:
        """Sessions in the order that session vectors need.

        Args:
            played: what each session has played, at least one track.

        Returns:
            Rows of the tracks; -1 for tracks that the release does not have, and after the oldest one. The share of
            each that was played; NaN where it is unknown.
        """
        lengths = np.array([len(one.tracks) for one in played], np.int64)
        num = int(lengths.sum())
        keys = np.fromiter(chain.from_iterable(one.tracks for one in played), np.int64, num)
        found = self.release.keys.searchsorted(keys)
        np.putmask(found, self.release.keys.take(found, mode="clip") != keys, -1)
        known = chain.from_iterable(one.shares or (np.nan,) * len(one.tracks) for one in played)
        rows = np.full((len(played), lengths.max(initial=0)), -1)
        shares = np.full(rows.shape, np.nan, np.float32)
        # the last track of a session is in its first column
        at = np.arange(0, rows.size, rows.shape[1]) + lengths.cumsum() - 1
        flat = at.repeat(lengths) - np.arange(num)
        rows.ravel()[flat], shares.ravel()[flat] = found, np.fromiter(known, np.float32)
        return rows, shares


def _next(picker: Picker, row: int, propensity: float, source: int) -> Next:
    return Next(row, picker.arm.sources[source] if source else None, propensity)
