"""Policies: the recommendations of an arm to each session of a crowd.

S sessions, T tracks played so far, N tracks in the catalogue, K tracks of a list.
"""

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64
from scipy.special import expit

from segue.errors import InputError, check_number
from segue.runs.recommendations import (
    PICKS,
    Recommendations,
    check_exploration,
    file_digest,
    new_rows,
    open_new,
    pick,
    pick_probability,
    redraw_probability,
    split_draws,
)
from segue.simulation.listener import WHOLE, Crowd
from segue.simulation.neighbours import nearest
from segue.simulation.world import World

_Result = TypeVar("_Result")

_BLOCK = 16
"""Tracks whose neighbours are computed together."""

_MAX_DRAWS = 20
"""Random draws to find a track that a session has not played, if its list has none left."""


class Policy(ABC):
    """Recommends to the sessions of one arm, one crowd after another.

    `fallbacks` counts the recommendations that were random tracks because the policy had nothing to recommend.

    Args:
        world: the world whose tracks are recommended.
    """

    fallbacks = 0
    is_stateless = False
    """Whether the policy keeps nothing between steps but `rng`. If so, it can be asked for parts of a crowd, each with
    its own `rng`."""

    def __init__(self, *, world: World) -> None:
        self.world = world

    def begin(self, crowd: Crowd, rng: np.random.Generator) -> None:  # noqa: ARG002 - subclasses use the crowd
        """Prepare for a new crowd.

        Args:
            crowd: the sessions after their first track; `crowd.place` identifies them from now on.
            rng: draws the recommendations; for parts of a crowd it is replaced before each call of `recommend`.
        """
        self.rng = rng

    def look(self, crowd: Crowd) -> None:  # noqa: B027 - most policies do not need it
        """See all sessions of a step, before `recommend` is asked for them or for parts of them.

        Args:
            crowd: the sessions.
        """

    @abstractmethod
    def recommend(self, crowd: Crowd) -> Int64[np.ndarray, "S"]:
        """Recommend the next track of each session.

        Args:
            crowd: the sessions.

        Returns:
            Row of one track for each session, shape `[S]`.
        """

    def propensity(self, crowd: Crowd, tracks: Int64[np.ndarray, "S"]) -> Float64[np.ndarray, "S"]:  # noqa: ARG002
        """Compute the probability with which `recommend` recommends given tracks.

        Args:
            crowd: the sessions, as `recommend` got them.
            tracks: row of one track for each session, shape `[S]`.

        Returns:
            In [0, 1]; NaN where it is not known.
        """
        return np.full(len(crowd), np.nan)

    def describe(self) -> dict[str, Any]:
        """What decides the recommendations, besides the world: `policy` and its settings, as JSON."""
        return {"policy": type(self).__name__}

    def finish(self, crowd: Crowd) -> None:  # noqa: B027 - most policies do not need it
        """Receive the sessions that have ended.

        Args:
            crowd: the sessions after their last track.
        """

    def close(self) -> None:  # noqa: B027 - most policies hold no resource
        """Release resources; the policy is not used any more."""

    def _any_track(self, num: int) -> Int64[np.ndarray, "num"]:
        return self.rng.integers(len(self.world.catalog), size=num)


class Random(Policy):
    """Recommends a random track of the catalogue, uniformly."""

    is_stateless = True

    def recommend(self, crowd: Crowd) -> Int64[np.ndarray, "S"]:
        """Recommend the next track of each session."""
        return self._any_track(len(crowd))

    def propensity(self, crowd: Crowd, tracks: Int64[np.ndarray, "S"]) -> Float64[np.ndarray, "S"]:  # noqa: ARG002 - all are equal
        """Compute the probability of given tracks."""
        return np.full(len(crowd), 1 / len(self.world.catalog))

    def describe(self) -> dict[str, Any]:
        """What decides the recommendations."""
        return {"policy": "random"}


class StickyArtist(Policy):
    """Recommends another track of the same artist, uniformly; a random track if the artist has no other."""

    is_stateless = True

    def __init__(self, *, world: World) -> None:
        super().__init__(world=world)
        artist_of = world.catalog.artist_of
        self._by_artist = np.argsort(artist_of, kind="stable")
        self._place = np.empty_like(self._by_artist)
        self._place[self._by_artist] = np.arange(len(artist_of))
        self._size = np.bincount(artist_of)
        self._first = self._size.cumsum() - self._size

    def recommend(self, crowd: Crowd) -> Int64[np.ndarray, "S"]:
        """Recommend the next track of each session."""
        artists = crowd.artists[-1]
        first, size = self._first[artists], self._size[artists]
        others = np.maximum(size - 1, 1)
        step = 1 + (self.rng.random(len(crowd)) * others).astype(np.int64)
        tracks = self._by_artist[first + (self._place[crowd.current] - first + step) % size]
        alone = np.flatnonzero(size == 1)
        tracks[alone] = self._any_track(len(alone))
        self.fallbacks += len(alone)
        return np.asarray(tracks)

    def propensity(self, crowd: Crowd, tracks: Int64[np.ndarray, "S"]) -> Float64[np.ndarray, "S"]:
        """Compute the probability of given tracks."""
        artists = crowd.artists[-1]
        num_others = self._size[artists] - 1
        is_other = (self.world.catalog.artist_of[tracks] == artists) & (tracks != crowd.current)
        others = is_other / np.maximum(num_others, 1)
        return np.where(num_others > 0, others, 1 / len(self.world.catalog))

    def describe(self) -> dict[str, Any]:
        """What decides the recommendations."""
        return {"policy": "sticky_artist"}


class Popular(Policy):
    """Recommends one of the most played tracks, uniformly.

    Args:
        num_tracks: number of these tracks, at least 1; 100 in the service of 2023.
        world: the world whose tracks are recommended.

    Raises:
        InputError: `num_tracks` is out of range.
    """

    is_stateless = True

    def __init__(self, *, num_tracks: int, world: World) -> None:
        super().__init__(world=world)
        check_number("popular.num_tracks", num_tracks, whole=True, least=1)
        self._num_tracks = num_tracks

    def recommend(self, crowd: Crowd) -> Int64[np.ndarray, "S"]:
        """Recommend the next track of each session."""
        top = self.world.top_tracks[: self._num_tracks]
        return np.asarray(top[self.rng.integers(len(top), size=len(crowd))])

    def propensity(self, crowd: Crowd, tracks: Int64[np.ndarray, "S"]) -> Float64[np.ndarray, "S"]:  # noqa: ARG002 - the same for all
        """Compute the probability of given tracks."""
        top = self.world.top_tracks[: self._num_tracks]
        return np.asarray(np.bincount(top, minlength=len(self.world.catalog))[tracks] / len(top))

    def describe(self) -> dict[str, Any]:
        """What decides the recommendations."""
        return {"policy": "popular", "num_tracks": self._num_tracks}


class Lists(Policy):
    """Recommends a track of the list of the last track, or of the list of the listener, from a recommendations file.

    Args:
        path: a `recommendations.jsonl`.
        pick: `uniform` among the K tracks, as in the service of 2023; `ranked` (best first) or `weighted` (by 1 / rank)
            never repeat a track within a session.
        artist_gap: artists of this many last tracks are skipped if the list has tracks of others, 0 to 1000.
        exploration: share of the picks that are among new tracks, in [0, 0.5]: those of the list, or, where it has none
            that may be picked, all new tracks, uniformly.
        exploration_plays: tracks with fewer plays in training are new, at least 1.
        world: the world whose tracks are recommended; the file must be of its catalogue.

    Raises:
        InputError: the file cannot be read, is for another catalogue or other listeners, or a setting is out of range.
    """

    is_stateless = True

    def __init__(
        self,
        *,
        path: str,
        pick: str,
        artist_gap: int,
        exploration: int | float = 0.0,
        exploration_plays: int = 1,
        world: World,
    ) -> None:
        super().__init__(world=world)
        hint = "0 switches it off"
        check_number("recommendations.artist_gap", artist_gap, whole=True, least=0, most=1000, hint=hint)
        if pick not in PICKS:
            raise InputError(f"pick must be one of {', '.join(PICKS)}, got {pick!r}")
        self.how, self._artist_gap, self._file = pick, artist_gap, str(Path(path).absolute())
        given, users = Recommendations.read(Path(path), world.catalog), world.listeners.user_ids
        if given.users is not None and not np.isin(users, given.users).any():
            raise InputError(
                f"{path} has lists of other users, for example {given.users[0]}, and of none of the {len(users)} "
                "listeners of this world; use lists of its users"
            )
        check_exploration(exploration, exploration_plays, prefix="recommendations.")
        self.exploration, self._exploration_plays = exploration, exploration_plays
        self._new = new_rows(given.plays, exploration_plays, path) if exploration else np.empty(0, np.int64)
        self._is_new = np.zeros(len(world.catalog) + 1, bool)  # the last one is for -1
        self._is_new[self._new] = True
        self._digest = file_digest(Path(path))
        self.is_of_users = given.users is not None
        self.lists = (given.of_users(users) if self.is_of_users else given.rows).astype(np.int32)

    def recommend(self, crowd: Crowd) -> Int64[np.ndarray, "S"]:
        """Recommend the next track of each session."""
        tracks = self.choose(crowd, self.rng.random(len(crowd)))
        without_track = np.flatnonzero(tracks < 0)
        tracks[without_track] = self._any_track(len(without_track))
        if self.how != "uniform":
            for _ in range(_MAX_DRAWS):
                repeated = without_track[(crowd.tracks[:, without_track] == tracks[without_track]).any(0)]
                if not len(repeated):
                    break
                tracks[repeated] = self._any_track(len(repeated))
        self.fallbacks += len(without_track)
        return tracks

    def choose(self, crowd: Crowd, draws: Float64[np.ndarray, "S"]) -> Int64[np.ndarray, "S"]:
        """Choose a track of the list of each session.

        Args:
            crowd: the sessions.
            draws: uniform in [0, 1), shape `[S]`.

        Returns:
            Row of one track for each session, shape `[S]`; -1 where the list has none left.
        """
        candidates, available = self._open(crowd)
        if not self.exploration:
            places = pick(self.how, available, draws)
            return np.where(places < 0, -1, candidates[np.arange(len(crowd)), places]).astype(np.int64)
        explores, draws = split_draws(draws, self.exploration)
        is_new = available & self._is_new[candidates]
        has_new = is_new.any(1)
        places = pick(self.how, np.where((explores & has_new)[:, None], is_new, available), draws)
        tracks = np.where(places < 0, -1, candidates[np.arange(len(crowd)), places]).astype(np.int64)
        elsewhere = np.flatnonzero(explores & ~has_new & (places >= 0))
        found = pick("uniform", self._open_new(crowd, elsewhere), draws[elsewhere])
        tracks[elsewhere[found >= 0]] = self._new[found[found >= 0]]
        return tracks

    def _open_new(self, crowd: Crowd, which: Int64[np.ndarray, "s"]) -> Bool[np.ndarray, "s M"]:
        """Which of all new tracks some sessions may get."""
        played = crowd.tracks[-1:, which] if self.how == "uniform" else crowd.tracks[:, which]
        recent = crowd.artists[len(crowd.artists) - min(self._artist_gap, len(crowd.artists)) :, which]
        return open_new(self._new, played.T.astype(np.int64), self.world.catalog.artist_of, recent.T.astype(np.int64))

    def _open(self, crowd: Crowd) -> tuple[Int32[np.ndarray, "S K"], Bool[np.ndarray, "S K"]]:
        """The candidates of each session, and which of their places may be picked."""
        candidates = self._candidates(crowd)
        available = candidates >= 0
        if self.how != "uniform":
            for played in crowd.tracks:
                available &= candidates != played[:, None]
        if self._artist_gap:
            artists = self.world.catalog.artist_of[candidates]
            spaced = available.copy()
            for recent in crowd.artists[-self._artist_gap :]:
                spaced &= artists != recent[:, None]
            available = np.where(spaced.any(1, keepdims=True), spaced, available)
        return candidates, available

    def _candidates(self, crowd: Crowd) -> Int32[np.ndarray, "S K"]:
        """The list of each session, best first."""
        return np.asarray(self.lists[crowd.users if self.is_of_users else crowd.current])

    def propensity(self, crowd: Crowd, tracks: Int64[np.ndarray, "S"]) -> Float64[np.ndarray, "S"]:
        """Compute the probability of given tracks."""
        candidates, available = self._open(crowd)
        is_chosen = available & (candidates == tracks[:, None])
        probability = pick_probability(self.how, available, np.where(is_chosen.any(1), is_chosen.argmax(1), -1))
        if len(empty := np.flatnonzero(~available.any(1))):
            num_tracks, played = len(self.world.catalog), np.sort(crowd.tracks[:, empty], axis=0)
            num_heard = 1 + (np.diff(played, axis=0) != 0).sum(0)
            is_heard = (played == tracks[empty]).any(0)
            redrawn = redraw_probability(num_tracks, num_heard, is_heard, _MAX_DRAWS + 1)
            probability[empty] = 1 / num_tracks if self.how == "uniform" else redrawn
        if self.exploration:
            explored = self._explored(crowd, candidates, available, tracks, probability)
            probability = (1 - self.exploration) * probability + self.exploration * explored
        return probability

    def _explored(
        self,
        crowd: Crowd,
        candidates: Int32[np.ndarray, "S K"],
        available: Bool[np.ndarray, "S K"],
        tracks: Int64[np.ndarray, "S"],
        otherwise: Float64[np.ndarray, "S"],
    ) -> Float64[np.ndarray, "S"]:
        """The probability of given tracks where the pick explores; `otherwise` where no new track may be picked."""
        is_new = available & self._is_new[candidates]
        is_chosen = is_new & (candidates == tracks[:, None])
        explored = pick_probability(self.how, is_new, np.where(is_chosen.any(1), is_chosen.argmax(1), -1))
        elsewhere = np.flatnonzero(available.any(1) & ~is_new.any(1))
        is_open = self._open_new(crowd, elsewhere)
        of_all = (is_open & (self._new == tracks[elsewhere, None])).any(1) / np.maximum(is_open.sum(1), 1)
        explored[elsewhere] = np.where(is_open.any(1), of_all, otherwise[elsewhere])
        return np.where(available.any(1), explored, otherwise)

    def describe(self) -> dict[str, Any]:
        """What decides the recommendations; `file` is where the lists were, `lists` is a digest of that file."""
        policy = "user_lists" if self.is_of_users else "lists"
        how: dict[str, Any] = {"pick": self.how, "artist_gap": self._artist_gap}
        if self.exploration:
            how |= {"exploration": self.exploration, "exploration_plays": self._exploration_plays}
        return {"policy": policy, **how, "file": self._file, "lists": self._digest}


class TrueNeighbours(Policy):
    """Recommends one of the tracks nearest to the last track by true embeddings: the lists of a perfect item model.

    Args:
        num_tracks: number of nearest tracks, 1 to 10,000.
        world: the world whose tracks are recommended; must have at least two.

    Raises:
        InputError: `num_tracks` is out of range, or the world has one track.
    """

    is_stateless = True

    def __init__(self, *, num_tracks: int, world: World) -> None:
        super().__init__(world=world)
        check_number("true_neighbours.num_tracks", num_tracks, whole=True, least=1, most=10_000)
        if len(world.catalog) < 2:
            raise InputError(
                "true_neighbours needs a world of at least 2 tracks, this one has 1; choose a larger world"
            )
        self._num_tracks = num_tracks
        self._lists: Int64[np.ndarray, "N K"] | None = None

    def recommend(self, crowd: Crowd) -> Int64[np.ndarray, "S"]:
        """Recommend the next track of each session."""
        num_tracks = len(self.world.catalog)
        num_kept = min(self._num_tracks, num_tracks - 1)
        if self._lists is None:
            self._lists = np.full((num_tracks, num_kept), -1, np.int32)
        # in fixed blocks, because the last digit of a product depends on the tracks that are computed together
        for block in np.unique(crowd.current[self._lists[crowd.current, 0] < 0] // _BLOCK).tolist():
            rows = np.arange(block * _BLOCK, min((block + 1) * _BLOCK, num_tracks))
            self._lists[rows] = nearest(self.world.embeddings, rows, num_kept, exclude_self=True)
        picked = self._lists[crowd.current, self.rng.integers(num_kept, size=len(crowd))]
        return np.asarray(picked, np.int64)

    def propensity(self, crowd: Crowd, tracks: Int64[np.ndarray, "S"]) -> Float64[np.ndarray, "S"]:
        """Compute the probability of given tracks."""
        assert self._lists is not None, "propensity() before recommend()"
        lists = self._lists[crowd.current]
        return np.asarray((lists == tracks[:, None]).any(1) / lists.shape[1])

    def describe(self) -> dict[str, Any]:
        """What decides the recommendations."""
        return {"policy": "true_neighbours", "num_tracks": self._num_tracks}


class Oracle(Policy):
    """Recommends the track with the largest share of all, because it knows the taste of each session.

    No policy can choose a better next track, therefore this is approximately the upper bound of any policy.

    Args:
        num_candidates: tracks per session whose shares are kept up to date, at least 1. Shares only decrease during a
            session, therefore the best candidate is the best of all tracks as long as its share is above the best
            share outside; after that the candidates are chosen again. It changes the speed only.
        world: the world whose tracks are recommended.

    Raises:
        InputError: `num_candidates` is out of range.
    """

    def __init__(self, *, num_candidates: int, world: World) -> None:
        super().__init__(world=world)
        check_number("oracle.num_candidates", num_candidates, whole=True, least=1)
        self._num_candidates = min(num_candidates, len(world.catalog))

    def begin(self, crowd: Crowd, rng: np.random.Generator) -> None:
        """Choose the candidates of each session of a new crowd.

        Args:
            crowd: the sessions after their first track.
            rng: not used, because the choice is not random.
        """
        super().begin(crowd, rng)
        self._candidates, self._artists = np.empty((2, len(crowd), self._num_candidates), np.int32)
        self._value = np.empty((len(crowd), self._num_candidates))
        self._outside = np.empty(len(crowd))
        for session in range(len(crowd)):
            self._choose(crowd, session)

    def _choose(self, crowd: Crowd, session: int) -> None:
        """Choose the tracks with the largest shares for a session, after the tracks it has played."""
        affinity = self.world.embeddings @ crowd.taste[session]
        value = expit((affinity.astype(np.float64) - crowd.bias[session]) * crowd.sharpness[session])
        num_played = np.bincount(crowd.artists[:, session], minlength=self.world.catalog.num_artists)
        value *= crowd.artist_discount[session] ** num_played[self.world.catalog.artist_of]
        value[crowd.tracks[:, session]] = -1
        place = crowd.place[session]
        order = np.argpartition(value, -self._num_candidates)
        best = order[-self._num_candidates :]
        rest = value[order[: -self._num_candidates]]
        self._candidates[place], self._value[place] = best, value[best]
        self._artists[place] = self.world.catalog.artist_of[best]
        self._outside[place] = rest.max(initial=-1)

    def recommend(self, crowd: Crowd) -> Int64[np.ndarray, "S"]:
        """Recommend the next track of each session."""
        tracks = np.empty(len(crowd), np.int64)
        played, artists = crowd.current, crowd.artists[-1]
        for session, place in enumerate(crowd.place.tolist()):
            value, candidates = self._value[place], self._candidates[place]
            if len(crowd.tracks) > 1:  # the first track is already part of the values
                value[self._artists[place] == artists[session]] *= crowd.artist_discount[session]
                value[candidates == played[session]] = -1
            best = int(value.argmax())
            if value[best] < self._outside[place]:
                self._choose(crowd, session)
                best = int(value.argmax())
            tracks[session] = candidates[best]
        return tracks

    def propensity(self, crowd: Crowd, tracks: Int64[np.ndarray, "S"]) -> Float64[np.ndarray, "S"]:  # noqa: ARG002 - of its own tracks
        """Compute the probability of given tracks."""
        return np.ones(len(crowd))

    def describe(self) -> dict[str, Any]:
        """What decides the recommendations."""
        return {"policy": "oracle"}


class RemoteService(Policy):
    """Recommends what a running service answers to `POST /next/<user>`; `POST /last/<user>` ends a session.

    The service is `serve.py` or botify, the service of 2023. The requests of one step are sent concurrently over
    persistent connections.

    Args:
        url: `http://host:port`.
        connections: largest number of concurrent requests, 1 to 10,000.
        retries: how often a request without an answer, or with a status of 500 or above, is repeated, 0 to 100.
        timeout_s: timeout of a request, in seconds, above 0.
        token: bearer token of the service; None without one.
        world: the world whose tracks the service recommends.

    Raises:
        InputError: a setting is out of range, the service does not answer, or its answer is not a track of the world.
    """

    def __init__(
        self, *, url: str, connections: int, retries: int, timeout_s: int | float, token: str | None, world: World
    ) -> None:
        super().__init__(world=world)
        check_number("service.connections", connections, whole=True, least=1, most=10_000)
        check_number("service.retries", retries, whole=True, least=0, most=100)
        check_number("service.timeout_s", timeout_s, above=0)
        self._url, self._connections, self._retries, self._timeout_s = url.rstrip("/"), connections, retries, timeout_s
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._loop: asyncio.AbstractEventLoop | None = None  # created where it is used, which may be another process
        self._session: aiohttp.ClientSession | None = None

    def recommend(self, crowd: Crowd) -> Int64[np.ndarray, "S"]:
        """Recommend the next track of each session."""
        answers = self._run(self._post_all("next", crowd))
        ids = np.array([self._track_of(answer) for answer in answers], np.int64)
        rows = self.world.catalog.rows_of(ids)
        if (rows < 0).any():
            track = ids[int((rows < 0).argmax())]
            raise InputError(
                f"{self._url} recommends track {track}, which is not one of the {len(self.world.catalog)} tracks of "
                "this world; start the service with recommendations for this world"
            )
        return rows

    def describe(self) -> dict[str, Any]:
        """The service, which alone knows what it recommends, and writes propensities to its own log."""
        return {"policy": "service", "url": self._url}

    def finish(self, crowd: Crowd) -> None:
        """Send the end of each session.

        Args:
            crowd: the sessions after their last track.
        """
        self._run(self._post_all("last", crowd))

    def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            self._run(self._session.close())
        if self._loop is not None:
            self._loop.close()

    def _run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        return self._loop.run_until_complete(work)

    def _track_of(self, answer: Any) -> int:
        track = answer.get("track") if isinstance(answer, dict) else None
        if not isinstance(track, int) or isinstance(track, bool) or abs(track) >= 2**63:
            raise InputError(f'{self._url}/next answered {str(answer)[:200]}; expected {{"user": int, "track": int}}')
        return track

    async def _post_all(self, call: str, crowd: Crowd) -> list[Any]:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._connections),
                headers=self._headers,
                timeout=aiohttp.ClientTimeout(sock_connect=self._timeout_s, sock_read=self._timeout_s),
            )
        users = self.world.listeners.user_ids[crowd.users].tolist()
        tracks = self.world.catalog.track_ids[crowd.current].tolist()
        times = (crowd.shares[-1] / WHOLE).tolist()
        requests = [
            asyncio.ensure_future(self._post(f"{self._url}/{call}/{user}", {"track": track, "time": time}))
            for user, track, time in zip(users, tracks, times, strict=True)
        ]
        try:
            return await asyncio.gather(*requests)
        finally:
            for request in requests:
                request.cancel()
            await asyncio.gather(*requests, return_exceptions=True)

    async def _post(self, url: str, body: dict[str, Any]) -> Any:
        assert self._session is not None
        problem = ""
        for attempt in range(self._retries + 1):
            if attempt:
                await asyncio.sleep(min(0.1 * 2**attempt, 5.0))
            try:
                async with self._session.post(url, json=body) as response:
                    text = await response.text()
                    problem = f"status {response.status}: {text[:200]}"
                    if response.status == HTTPStatus.OK:
                        return json.loads(text)
                    if response.status < HTTPStatus.INTERNAL_SERVER_ERROR:
                        break
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                problem = str(error) or type(error).__name__
        raise InputError(
            f"POST {url} failed {attempt + 1} times, last with {problem}; check that the service of this world runs"
        )
