"""Policies: what an arm recommends to each session of a crowd.

S sessions, T tracks played so far, N tracks in the catalogue, K candidates of a list.
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
from jaxtyping import Int64
from scipy.special import expit

from src.errors import InputError, check_number
from src.recommendations import PICKS, Recommendations, pick
from src.simulation.listener import WHOLE, Crowd
from src.simulation.neighbours import nearest
from src.simulation.world import World

_Result = TypeVar("_Result")

_BLOCK = 16
"""Tracks whose neighbours are looked for together."""

_TRIES = 20
"""To find any track that a session has not played, where its list has none left."""


class Policy(ABC):
    """Something that recommends to the sessions of one arm, crowd after crowd.

    `fallbacks` counts the recommendations that it had to leave to chance.

    Args:
        world: whose catalogue it recommends from.
    """

    fallbacks = 0
    side_by_side = False
    """Whether crowds may come in parts, each with an `rng` of its own, since nothing else is kept between steps."""

    def __init__(self, *, world: World) -> None:
        self.world = world

    def begin(self, crowd: Crowd, rng: np.random.Generator) -> None:  # noqa: ARG002 - some want to see the crowd
        """A new crowd starts; `crowd.place` names its sessions from now on, `rng` makes the choices.

        Where crowds come in parts, `rng` is set anew for each.
        """
        self.rng = rng

    @abstractmethod
    def recommend(self, crowd: Crowd) -> Int64[np.ndarray, "S"]:
        """Row of the next track of each session."""

    def finish(self, crowd: Crowd) -> None:  # noqa: B027 - few want to know
        """These sessions have heard their last track."""

    def close(self) -> None:  # noqa: B027 - few hold anything
        """Nothing more will be asked."""

    def _any_track(self, num: int) -> Int64[np.ndarray, "num"]:
        return self.rng.integers(len(self.world.catalog), size=num)


class Random(Policy):
    """Any track of the catalogue, uniform."""

    side_by_side = True

    def recommend(self, crowd: Crowd) -> Int64[np.ndarray, "S"]:
        """Row of the next track of each session."""
        return self._any_track(len(crowd))


class StickyArtist(Policy):
    """Another track of the same artist, uniform; any track where the artist has no other."""

    side_by_side = True

    def __init__(self, *, world: World) -> None:
        super().__init__(world=world)
        artist_of = world.catalog.artist_of
        self._by_artist = np.argsort(artist_of, kind="stable")
        self._place = np.empty_like(self._by_artist)
        self._place[self._by_artist] = np.arange(len(artist_of))
        self._size = np.bincount(artist_of)
        self._first = self._size.cumsum() - self._size

    def recommend(self, crowd: Crowd) -> Int64[np.ndarray, "S"]:
        """Row of the next track of each session."""
        artists = crowd.artists[-1]
        first, size = self._first[artists], self._size[artists]
        others = np.maximum(size - 1, 1)
        step = 1 + (self.rng.random(len(crowd)) * others).astype(np.int64)
        tracks = self._by_artist[first + (self._place[crowd.current] - first + step) % size]
        alone = np.flatnonzero(size == 1)
        tracks[alone] = self._any_track(len(alone))
        self.fallbacks += len(alone)
        return np.asarray(tracks)


class Popular(Policy):
    """Uniform among the most played tracks.

    Args:
        num_tracks: how many of them; 100 as published.
    """

    side_by_side = True

    def __init__(self, *, num_tracks: int, world: World) -> None:
        super().__init__(world=world)
        check_number("popular.num_tracks", num_tracks, whole=True, least=1)
        self._num_tracks = num_tracks

    def recommend(self, crowd: Crowd) -> Int64[np.ndarray, "S"]:
        """Row of the next track of each session."""
        top = self.world.top_tracks[: self._num_tracks]
        return np.asarray(top[self.rng.integers(len(top), size=len(crowd))])


class Lists(Policy):
    """A recommendations file: from the list of the track played last.

    Args:
        path: a `recommendations.jsonl`.
        pick: `uniform` among the K, as published; `ranked` or `weighted` never repeat a track within a session.
        artist_gap: the artists of so many tracks before are passed over, as long as the list has others.
        world: whose catalogue the file must have been made for.

    Raises:
        InputError: the file cannot be read, or was made for another catalogue; a setting is out of range.
    """

    side_by_side = True

    def __init__(self, *, path: str, pick: str, artist_gap: int, world: World) -> None:
        super().__init__(world=world)
        hint = "0 for artists who may follow themselves"
        check_number("recommendations.artist_gap", artist_gap, whole=True, least=0, most=1000, hint=hint)
        if pick not in PICKS:
            raise InputError(f"pick must be one of {', '.join(PICKS)}, got {pick!r}")
        self._pick, self._artist_gap = pick, artist_gap
        self._lists = Recommendations.read(Path(path), world.catalog).rows.astype(np.int32)

    def recommend(self, crowd: Crowd) -> Int64[np.ndarray, "S"]:
        """Row of the next track of each session."""
        candidates = self._lists[crowd.current]
        open_places = candidates >= 0
        if self._pick != "uniform":
            for played in crowd.tracks:
                open_places &= candidates != played[:, None]
        if self._artist_gap:
            artists = self.world.catalog.artist_of[candidates]
            spaced = open_places.copy()
            for heard in crowd.artists[-self._artist_gap :]:
                spaced &= artists != heard[:, None]
            open_places = np.where(spaced.any(1, keepdims=True), spaced, open_places)
        places = pick(self._pick, open_places, self.rng.random(len(crowd)))
        tracks = candidates[np.arange(len(crowd)), places].astype(np.int64)
        none_left = np.flatnonzero(places < 0)
        tracks[none_left] = self._any_track(len(none_left))
        if self._pick != "uniform":
            for _ in range(_TRIES):
                again = none_left[(crowd.tracks[:, none_left] == tracks[none_left]).any(0)]
                tracks[again] = self._any_track(len(again))
        self.fallbacks += len(none_left)
        return np.asarray(tracks)


class TrueNeighbours(Policy):
    """Uniform among the tracks nearest to the one played last, by true embeddings: the lists of a perfect item model.

    Args:
        num_tracks: how many of them.
    """

    side_by_side = True

    def __init__(self, *, num_tracks: int, world: World) -> None:
        super().__init__(world=world)
        check_number("true_neighbours.num_tracks", num_tracks, whole=True, least=1, most=10_000)
        if len(world.catalog) < 2:
            raise InputError("true_neighbours needs a world of at least 2 tracks, this one has 1")
        self._num_tracks = num_tracks
        self._lists: Int64[np.ndarray, "N K"] | None = None

    def recommend(self, crowd: Crowd) -> Int64[np.ndarray, "S"]:
        """Row of the next track of each session."""
        num_tracks = len(self.world.catalog)
        num_kept = min(self._num_tracks, num_tracks - 1)
        if self._lists is None:
            self._lists = np.full((num_tracks, num_kept), -1, np.int32)
        # block by block, so that a product's last digit does not depend on which tracks were asked for together
        for block in np.unique(crowd.current[self._lists[crowd.current, 0] < 0] // _BLOCK).tolist():
            rows = np.arange(block * _BLOCK, min((block + 1) * _BLOCK, num_tracks))
            self._lists[rows] = nearest(self.world.embeddings, rows, num_kept, exclude_self=True)
        picked = self._lists[crowd.current, self.rng.integers(num_kept, size=len(crowd))]
        return np.asarray(picked, np.int64)


class Oracle(Policy):
    """Knows the taste of each session: the track that will be played longest, the artist discount included.

    No policy can do better with the next track, so this is about the ceiling of any.

    Args:
        num_candidates: tracks that are looked at for each session. What they are worth only falls, so the best of them
            is the best of all as long as it is worth more than the best outside was; after that they are chosen anew.
            It changes the speed alone.
    """

    def __init__(self, *, num_candidates: int, world: World) -> None:
        super().__init__(world=world)
        check_number("oracle.num_candidates", num_candidates, whole=True, least=1)
        self._num_candidates = min(num_candidates, len(world.catalog))

    def begin(self, crowd: Crowd, rng: np.random.Generator) -> None:
        """A new crowd starts."""
        super().begin(crowd, rng)
        self._candidates, self._artists = np.empty((2, len(crowd), self._num_candidates), np.int32)
        self._value = np.empty((len(crowd), self._num_candidates))
        self._outside = np.empty(len(crowd))
        for session in range(len(crowd)):
            self._choose(crowd, session)

    def _choose(self, crowd: Crowd, session: int) -> None:
        """Take the tracks that are worth most to a session now, after all it has played."""
        affinity = self.world.embeddings @ crowd.taste[session]
        value = expit((affinity.astype(np.float64) - crowd.bias[session]) * crowd.sharpness[session])
        heard = np.bincount(crowd.artists[:, session], minlength=self.world.catalog.num_artists)
        value *= crowd.artist_discount[session] ** heard[self.world.catalog.artist_of]
        value[crowd.tracks[:, session]] = -1
        place = crowd.place[session]
        order = np.argpartition(value, -self._num_candidates)
        best = order[-self._num_candidates :]
        rest = value[order[: -self._num_candidates]]
        self._candidates[place], self._value[place] = best, value[best]
        self._artists[place] = self.world.catalog.artist_of[best]
        self._outside[place] = rest.max(initial=-1)

    def recommend(self, crowd: Crowd) -> Int64[np.ndarray, "S"]:
        """Row of the next track of each session."""
        tracks = np.empty(len(crowd), np.int64)
        played, artists = crowd.current, crowd.artists[-1]
        for session, place in enumerate(crowd.place.tolist()):
            value, candidates = self._value[place], self._candidates[place]
            if len(crowd.tracks) > 1:  # the first track was known when they were chosen
                value[self._artists[place] == artists[session]] *= crowd.artist_discount[session]
                value[candidates == played[session]] = -1
            best = int(value.argmax())
            if value[best] < self._outside[place]:
                self._choose(crowd, session)
                best = int(value.argmax())
            tracks[session] = candidates[best]
        return tracks


class RemoteService(Policy):
    """A running service over HTTP, ours or the predecessor's: `POST /next/<user>` and `POST /last/<user>`.

    Requests of a step go out side by side over connections that are kept.

    Args:
        url: `http://host:port`.
        connections: how many requests may wait for an answer at once.
        retries: how often a request that got no answer, or one of 500 and above, is sent again.
        timeout_s: seconds to wait for an answer.
        token: is shown to the service, where it wants one.

    Raises:
        InputError: the service stays away, or answers with what is no track of the catalogue.
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
        self._loop: asyncio.AbstractEventLoop | None = None  # made where it is used, which may be another process
        self._session: aiohttp.ClientSession | None = None

    def recommend(self, crowd: Crowd) -> Int64[np.ndarray, "S"]:
        """Row of the next track of each session."""
        answers = self._run(self._post_all("next", crowd))
        ids = np.array([self._track_of(answer) for answer in answers], np.int64)
        rows = self.world.catalog.rows_of(ids)
        if (rows < 0).any():
            track = ids[int((rows < 0).argmax())]
            raise InputError(
                f"{self._url} recommends track {track}, which is not in the world's catalogue of "
                f"{len(self.world.catalog)}; let it serve the catalogue of this world"
            )
        return rows

    def finish(self, crowd: Crowd) -> None:
        """These sessions have heard their last track."""
        self._run(self._post_all("last", crowd))

    def close(self) -> None:
        """Nothing more will be asked."""
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
            f"POST {url} failed {attempt + 1} times, last with {problem}; is the service of this world running there?"
        )
