"""The next track of a user: the policy of the arm, and the fallbacks.

K candidates of a list, S sessions, T tracks of the longest of them.
"""

import asyncio
import json
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64

from segue.assignment import salt_of, treatment
from segue.runs.recommendations import open_new, pick, pick_probability, redraw_probability, split_draws
from segue.runs.session_vectors import num_kept, union
from segue.serving.release import LISTS, Arm, Release
from segue.serving.session_memory import Played

FALLBACKS = ("artist", "popular", "random")
"""Used in this order where a list has no candidate left: another track of the artist, a popular track, any track."""

_SOURCES = {
    **dict.fromkeys(LISTS, ("artist", "popular")),
    "sticky_artist": ("artist",),
    "popular": ("popular",),
    "random": (),
}
"""The fallbacks of each policy before `random`, which takes any track."""

_OWN = {"sticky_artist": "artist", "popular": "popular"}
"""The source that is the policy itself and therefore no fallback."""

_POPULAR = 100
"""Number of tracks from which `popular` chooses, as in the predecessor."""

_TRIES = 20
"""Attempts to find any track that the session has not played."""

_NO_TRACKS, _NO_LIST = np.empty(0, np.int64), np.empty(0, np.int32)
_NO_SHARES: tuple[float, ...] = ()


class Next(NamedTuple):
    """The next track: its row, which of `FALLBACKS` it came from, if any, and the probability that it was picked."""

    row: int
    fallback: str | None
    propensity: float


class Sessions(NamedTuple):
    """Sessions as session vectors need them, newest track first.

    Attributes:
        rows: rows of the tracks; -1 for tracks that the release does not have, and after the oldest one.
        shares: share of each that was played; NaN where it is unknown.
    """

    rows: Int64[np.ndarray, "S T"]
    shares: Float32[np.ndarray, "S T"]


class _Asked(NamedTuple):
    arm: str
    row: int
    played: Played
    answer: asyncio.Future[Next]


class Recommender:
    """Answers from one release.

    Args:
        release: the release to answer from.
        rng: random numbers of the choices.
    """

    def __init__(self, release: Release, rng: np.random.Generator) -> None:
        self.release, self._rng = release, rng
        self._arm_names, self._salt = list(release.arms), salt_of(release.experiment)
        distinct = dict.fromkeys(release.top_tracks.tolist())  # each with the same probability
        self._top = np.fromiter(distinct, np.int32, len(distinct))[:_POPULAR]
        self._remembers = {
            arm: given.has_lists and (given.pick != "uniform" or given.artist_gap > 0 or given.is_of_session)
            for arm, given in release.arms.items()
        }
        self._num_kept = {
            arm: num_kept(
                pick=given.pick,
                artist_gap=given.artist_gap,
                exploration=given.exploration,
                num_lists=given.num_lists,
                length=release.lists[arm].shape[1],
            )
            for arm, given in release.arms.items()
            if given.is_of_session
        }
        self._asked: list[_Asked] = []
        self.experiments = {arm: json.dumps({release.experiment: arm}, ensure_ascii=False) for arm in release.arms}
        """The value of `experiments` in the event log, for each arm."""
        self.version = json.dumps(release.version)
        """The value of `release` in the event log."""

    def arm_of(self, user: int) -> str:
        """Name of the arm of a user."""
        return self._arm_names[treatment(user, salt=self._salt, num_arms=len(self._arm_names))]

    def remembers(self, arm: str) -> bool:
        """Whether an arm needs the tracks that the session has played."""
        return self._remembers[arm]

    def follow(
        self, arm: str, user: int, row: int, played: Sequence[int], shares: Sequence[float] = _NO_SHARES
    ) -> Next:
        """The next track after a track.

        Args:
            arm: name of the arm.
            user: raw id of the user.
            row: row of the track.
            played: raw ids that the session has played, this track last; only if the arm remembers sessions.
            shares: share of each of them that was played, for `context=session`; none where all are unknown.
        """
        given = self.release.arms[arm]
        if given.is_of_session:
            sessions = self.newest_first([Played(list(played), list(shares))])
            return self._next(arm, row, played, self.candidates(arm, sessions, self._num_kept[arm])[0])
        return self._next(arm, row, played, self.release.candidates(arm, user, row) if given.has_lists else _NO_LIST)

    def ask(self, arm: str, row: int, played: Played) -> asyncio.Future[Next]:
        """As `follow`, for the requests of one turn of the event loop together, which costs each of them less.

        Args:
            arm: name of an arm with `context=session`.
            row: row of the track.
            played: what the session has played, this track last.
        """
        loop = asyncio.get_running_loop()
        if not self._asked:
            loop.call_soon(self._answer)
        answer: asyncio.Future[Next] = loop.create_future()
        self._asked.append(_Asked(arm, row, played, answer))
        return answer

    def _answer(self) -> None:
        asked, self._asked = self._asked, []
        try:
            found = {}
            for arm in {one.arm for one in asked}:
                sessions = self.newest_first([one.played for one in asked if one.arm == arm])
                found[arm] = iter(self.candidates(arm, sessions, self._num_kept[arm]))
            answers = [self._next(one.arm, one.row, one.played.tracks, next(found[one.arm])) for one in asked]
        except Exception as error:
            for one in asked:
                if not one.answer.done():
                    one.answer.set_exception(error)
            return
        for one, answer in zip(asked, answers, strict=True):
            if not one.answer.done():  # its request was cancelled
                one.answer.set_result(answer)

    def _next(self, arm: str, row: int, played: Sequence[int], candidates: Int32[np.ndarray, "K"]) -> Next:
        given = self.release.arms[arm]
        session = np.fromiter(played, np.int64, len(played)) if self._remembers[arm] else _NO_TRACKS
        heard = session if given.pick != "uniform" else _NO_TRACKS  # uniform repeats tracks, as the predecessor does
        if given.has_lists:
            if given.is_of_session and len(candidates) == 1 and candidates[0] >= 0 and not given.exploration:
                return Next(int(candidates[0]), None, 1.0)
            choose = self._exploring if given.exploration else self._from_list
            following, propensity = choose(candidates, arm, heard, session, row)
            if following >= 0:
                return Next(following, None, propensity)
        for source in _SOURCES[given.policy]:
            tracks = self._others(row) if source == "artist" else self._top
            following, propensity = self._draw(tracks[~self._is_heard(tracks, heard)])
            if following >= 0:
                return Next(following, None if source == _OWN.get(given.policy) else source, propensity)
        following, propensity = self._any(heard)
        return Next(following, None if given.policy == "random" else "random", propensity)

    def newest_first(self, played: Sequence[Played]) -> Sessions:
        """Sessions in the order that session vectors need.

        Args:
            played: what each session has played, at least one track.
        """
        lengths = np.array([len(one.tracks) for one in played], np.int64)
        num = int(lengths.sum())
        ids = np.fromiter(chain.from_iterable(one.tracks for one in played), np.int64, num)
        found = self.release.track_ids.searchsorted(ids)
        np.putmask(found, self.release.track_ids.take(found, mode="clip") != ids, -1)
        known = chain.from_iterable(one.shares or (np.nan,) * len(one.tracks) for one in played)
        rows = np.full((len(played), lengths.max(initial=0)), -1)
        shares = np.full(rows.shape, np.nan, np.float32)
        # the last track of a session is in its first column
        at = np.arange(0, rows.size, rows.shape[1]) + lengths.cumsum() - 1
        flat = at.repeat(lengths) - np.arange(num)
        rows.ravel()[flat], shares.ravel()[flat] = found, np.fromiter(known, np.float32)
        return Sessions(rows, shares)

    def candidates(self, arm: str, sessions: Sessions, k: int) -> Int32[np.ndarray, "S K"]:
        """The best tracks of the lists of the last tracks, for each session.

        Args:
            arm: name of an arm with `context=session`.
            sessions: the sessions.
            k: how many are kept (K).

        Returns:
            Rows of the candidates, best first; -1 fills up.
        """
        given, vectors, lists = self.release.arms[arm], self.release.vectors[arm], self.release.lists[arm]
        queries = vectors.query(sessions.rows, sessions.shares)
        heard, may_repeat = sessions.rows.astype(np.int32), given.pick == "uniform"
        return vectors.best(
            queries, union(lists, sessions.rows[:, : given.num_lists]), heard, may_repeat=may_repeat, k=k
        )

    def _from_list(
        self,
        candidates: Int32[np.ndarray, "K"],
        arm: str,
        heard: Int64[np.ndarray, "n"],
        session: Int64[np.ndarray, "m"],
        row: int,  # noqa: ARG002 - `_exploring` needs it
    ) -> tuple[int, float]:
        """Row of a candidate and its probability; -1 if none is left."""
        given = self.release.arms[arm]
        if given.pick == "uniform" and not given.artist_gap:  # a short list is padded at its end
            return self._draw(candidates if candidates[-1] >= 0 else candidates[candidates >= 0])
        is_open = self._open(candidates, given, heard, session)
        places = pick(given.pick, is_open[None], np.array([self._rng.random()]))
        if places[0] < 0:
            return -1, 0.0
        is_certain = given.pick == "ranked"
        propensity = 1.0 if is_certain else float(pick_probability(given.pick, is_open[None], places)[0])
        return int(candidates[places[0]]), propensity

    def _exploring(
        self,
        candidates: Int32[np.ndarray, "K"],
        arm: str,
        heard: Int64[np.ndarray, "n"],
        session: Int64[np.ndarray, "m"],
        row: int,
    ) -> tuple[int, float]:
        """As `_from_list`, but a share of the picks is among new tracks: those of the list, or all if it has none."""
        given, new = self.release.arms[arm], self.release.new[arm]
        is_open = self._open(candidates, given, heard, session)
        if not is_open.any():
            return -1, 0.0
        explores, draws = split_draws(np.array([self._rng.random()]), given.exploration)
        is_new = is_open & np.isin(candidates, new)
        if is_new.any():
            places = pick(given.pick, (is_new if explores[0] else is_open)[None], draws)
            usual, explored = (pick_probability(given.pick, flags[None], places)[0] for flags in (is_open, is_new))
            return int(candidates[places[0]]), float((1 - given.exploration) * usual + given.exploration * explored)
        avoided = self._rows_of(heard) if len(heard) else np.array([row])
        artists = self._artists_of(session[-given.artist_gap :]) if given.artist_gap else _NO_TRACKS
        others = open_new(new, avoided[None], self.release.artist_of, artists[None])
        share = given.exploration if others.any() else 0.0
        if explores[0] and share:
            place = pick("uniform", others, draws)
            return int(new[place[0]]), share / int(others.sum())
        places = pick(given.pick, is_open[None], draws)
        return int(candidates[places[0]]), (1 - share) * float(pick_probability(given.pick, is_open[None], places)[0])

    def _open(
        self,
        candidates: Int32[np.ndarray, "K"],
        arm: Arm,
        heard: Int64[np.ndarray, "n"],
        session: Int64[np.ndarray, "m"],
    ) -> Bool[np.ndarray, "K"]:
        """Which candidates may be picked."""
        is_open: Bool[np.ndarray, K] = (candidates >= 0) & ~self._is_heard(candidates, heard)
        if not arm.artist_gap:
            return is_open
        artists = self._artists_of(session[-arm.artist_gap :])
        is_spaced: Bool[np.ndarray, K] = is_open & ~(self.release.artist_of[candidates][:, None] == artists).any(1)
        return is_spaced if is_spaced.any() else is_open

    def _draw(self, tracks: Int32[np.ndarray, "n"]) -> tuple[int, float]:
        """A random one of the rows and its probability; -1 if there is none."""
        num = len(tracks)
        return (int(tracks[int(self._rng.random() * num)]), 1 / num) if num else (-1, 0.0)

    def _is_heard(self, rows: Int32[np.ndarray, "n"], heard: Int64[np.ndarray, "m"]) -> Bool[np.ndarray, "n"]:
        if not len(heard):
            return np.zeros(len(rows), bool)
        return np.asarray((self.release.track_ids[rows][:, None] == heard).any(1))

    def _rows_of(self, tracks: Int64[np.ndarray, "n"]) -> Int64[np.ndarray, "m"]:
        """Rows of raw ids; ids that are not in this release are left out, because a session may be older."""
        rows = self.release.track_ids.searchsorted(tracks).clip(max=len(self.release) - 1)
        return np.asarray(rows[self.release.track_ids[rows] == tracks])

    def _artists_of(self, tracks: Int64[np.ndarray, "n"]) -> Int32[np.ndarray, "m"]:
        return np.asarray(self.release.artist_of[self._rows_of(tracks)])

    def _others(self, row: int) -> Int32[np.ndarray, "n"]:
        tracks = self.release.artist_tracks(row)
        return np.asarray(tracks[tracks != row])

    def _any(self, heard: Int64[np.ndarray, "m"]) -> tuple[int, float]:
        """A random row that the session has not played, as far as some draws find one, and its probability."""
        num = len(self.release)
        for _ in range(_TRIES):
            row = int(self._rng.random() * num)
            is_heard = self._is_heard(np.array([row], np.int32), heard)
            if not is_heard[0]:
                break
        if not len(heard):
            return row, 1 / num
        num_heard = np.isin(np.unique(heard), self.release.track_ids).sum(keepdims=True)
        return row, float(redraw_probability(num, num_heard, is_heard, _TRIES)[0])
