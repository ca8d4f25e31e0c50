"""Policies: the recommendations of an arm to each session of a crowd.

S sessions, T tracks played so far, N tracks in the catalogue, K tracks of a list.
"""

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import aiohttp
import numpy as np
from jaxtyping import Float64, Int32, Int64
from scipy.special import expit

from segue.errors import InputError, check_number
from segue.picking.picker import LISTS, ArtistTracks, Picker, check_picking, new_rows
from segue.runs.recommendations import Recommendations, file_digest
from segue.simulation.listener import WHOLE, Crowd
from segue.simulation.neighbours import nearest
from segue.simulation.world import World

_Result = TypeVar("_Result")

_BLOCK = 16
"""Tracks whose neighbours are computed together."""


class Recommended(NamedTuple):
    """The recommendations to some sessions.

    Attributes:
        tracks: row of one track for each session.
        propensities: the probability of each, in (0, 1]; NaN where it is not known.
    """

    tracks: Int64[np.ndarray, "S"]
    propensities: Float64[np.ndarray, "S"]


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
    def recommend(self, crowd: Crowd) -> Recommended:
        """Recommend the next track of each session.

        Args:
            crowd: the sessions.
        """

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


class Picks(Policy):
    """Recommends what a picker picks.

    Args:
        world: the world whose tracks are recommended.
        policy: that of the picker.
        settings: other settings of the picker.
    """

    is_stateless = True

    def __init__(self, *, world: World, policy: str, settings: Mapping[str, Any]) -> None:
        super().__init__(world=world)
        self.picker = Picker(policy=policy, artists=ArtistTracks.of(world.catalog.artist_of), **settings)

    def recommend(self, crowd: Crowd) -> Recommended:
        """Recommend the next track of each session."""
        picked = self.picker.pick_next(self.candidates(crowd), crowd.tracks[::-1].T, self.rng)
        self.fallbacks += int((picked.sources > 0).sum())
        return Recommended(picked.rows, picked.propensities)

    def candidates(self, crowd: Crowd) -> Int32[np.ndarray, "S K"]:
        """The list of each session, best first; of no columns where there are none.

        Args:
            crowd: the sessions.
        """
        return np.empty((len(crowd), 0), np.int32)

    def describe(self) -> dict[str, Any]:
        """What decides the recommendations."""
        return {"policy": self.picker.policy}


class Random(Picks):
    """Recommends a random track of the catalogue, uniformly."""

    def __init__(self, *, world: World) -> None:
        super().__init__(world=world, policy="random", settings={})


class StickyArtist(Picks):
    """Recommends another track of the same artist, uniformly; a random track if the artist has no other."""

    def __init__(self, *, world: World) -> None:
        super().__init__(world=world, policy="sticky_artist", settings={})


class Popular(Picks):
    """Recommends one of the most played tracks, uniformly.

    Args:
        num_tracks: number of these tracks, at least 1; 100 in the service of 2023.
        world: the world whose tracks are recommended.

    Raises:
        InputError: `num_tracks` is out of range.
    """

    def __init__(self, *, num_tracks: int, world: World) -> None:
        check_number("popular.num_tracks", num_tracks, whole=True, least=1)
        super().__init__(world=world, policy="popular", settings={"popular": world.top_tracks[:num_tracks]})
        self._num_tracks = num_tracks

    def describe(self) -> dict[str, Any]:
        """What decides the recommendations."""
        return {**super().describe(), "num_tracks": self._num_tracks}


class Lists(Picks):
    """Recommends a track of the list of the last track, or of the list of the listener, from a recommendations file.

    Args:
        path: a `recommendations.jsonl`.
        pick: `uniform` among the K tracks, as in the service of 2023; `ranked` (best first) or `weighted` (by 1 / rank)
            never repeat a track within a session.
        artist_gap: artists of this many last tracks are skipped if the list has tracks of others, 0 to 1000.
        exploration: share of the picks that are among new tracks, in [0, 0.5]; see `Picker`.
        exploration_plays: tracks with fewer plays in training are new, at least 1.
        world: the world whose tracks are recommended; the file must be of its catalogue.

    Raises:
        InputError: the file cannot be read, is for another catalogue or other listeners, or a setting is out of range.
    """

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
        how: dict[str, Any] = {"pick": pick, "artist_gap": artist_gap, "exploration": exploration}
        check_picking({**how, "exploration_plays": exploration_plays}, "recommendations.")
        self._file, self._exploration_plays = str(Path(path).absolute()), exploration_plays
        given, users = Recommendations.read(Path(path), world.catalog), world.listeners.user_ids
        if given.users is not None and not np.isin(users, given.users).any():
            raise InputError(
                f"{path} has lists of other users, for example {given.users[0]}, and of none of the {len(users)} "
                "listeners of this world; use lists of its users"
            )
        if exploration:
            how["new"] = new_rows(given.plays, exploration_plays, path)
        self.is_of_users = given.users is not None
        super().__init__(world=world, policy=LISTS[self.is_of_users], settings=how)
        self._digest = file_digest(Path(path))
        self.lists = (given.of_users(users) if self.is_of_users else given.rows).astype(np.int32)

    def candidates(self, crowd: Crowd) -> Int32[np.ndarray, "S K"]:
        """The list of each session, best first.

        Args:
            crowd: the sessions.
        """
        return np.asarray(self.lists[crowd.users if self.is_of_users else crowd.current])

    def choose(self, crowd: Crowd, draws: Float64[np.ndarray, "S"]) -> Int64[np.ndarray, "S"]:
        """Choose a track of the list of each session, as a listening test asks for it.

        Args:
            crowd: the sessions.
            draws: uniform in [0, 1), shape `[S]`.

        Returns:
            Row of one track for each session, shape `[S]`; -1 where the list has none left.
        """
        rows, _ = self.picker.pick_from_lists(self.candidates(crowd), crowd.tracks[::-1].T, draws)
        return rows.astype(np.int64)

    def describe(self) -> dict[str, Any]:
        """What decides the recommendations; `file` is where the lists were, `lists` is a digest of that file."""
        picker = self.picker
        how: dict[str, Any] = {"pick": picker.pick, "artist_gap": picker.artist_gap}
        if picker.exploration:
            how |= {"exploration": picker.exploration, "exploration_plays": self._exploration_plays}
        return {**super().describe(), **how, "file": self._file, "lists": self._digest}


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

    def recommend(self, crowd: Crowd) -> Recommended:
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
        return Recommended(np.asarray(picked, np.int64), np.full(len(crowd), 1 / num_kept))

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

    def recommend(self, crowd: Crowd) -> Recommended:
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
        return Recommended(tracks, np.ones(len(crowd)))

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

    def recommend(self, crowd: Crowd) -> Recommended:
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
        return Recommended(rows, np.full(len(rows), np.nan))

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
