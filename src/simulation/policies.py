"""Policies: the recommendations of an arm to each session of a crowd, and how they are named.

S sessions, T tracks played so far, N tracks in the catalogue, K tracks of a list.
"""

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property, partial
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple
from urllib.parse import quote

import numpy as np
from jaxtyping import Float64, Int, Int32, Int64
from scipy.special import expit

from segue.assignment import check_arms
from segue.catalog import Id, id_problem, keys_of
from segue.errors import InputError
from segue.picking.arm import Arm, Locate, read_arm
from segue.picking.artist_tracks import ArtistTracks
from segue.picking.picker import Picker, draw
from segue.picking.session_search import SessionSearch
from segue.runs.profiles import ENTRY, Profiles
from segue.runs.profiles import FILE as PROFILES
from segue.runs.recommendations import file_digest
from segue.runs.recommender_names import FILES, SERVICES, parse_name, recommender_name, unknown_recommender
from segue.runs.session_vectors import FILE
from segue.settings import Setting, refuse_unknown, settings
from segue.simulation.arm_profiles import ArmProfiles
from segue.simulation.listener import WHOLE, Crowd
from segue.simulation.neighbours import NearestTracks
from segue.simulation.world import World

if TYPE_CHECKING:
    import aiohttp

# Tracks per session whose shares `Oracle` keeps up to date. Their number changes the speed only.
_CANDIDATES = 1024

_BLOCK = 256  # sessions whose candidates are searched together: enough for fast arrays, few enough for the cache


USUAL: dict[str, Any] = {"num_lists": 4, "fallback": "random"}
"""Settings of an arm in Python that are not those of `Arm`; `conf/arm` has those of the commands."""


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
        description: what decides the recommendations, besides the world: its name and its settings, as JSON.
    """

    fallbacks = 0
    is_stateless = False
    """Whether the policy keeps nothing between steps but `rng`. If so, it can be asked for parts of a crowd, each with
    its own `rng`."""
    num_past = 0
    """Number of plays of earlier sessions that it looks at, in `crowd.past_tracks`."""
    profiles: ArmProfiles | None = None
    """What it remembers of its listeners; None for nothing."""

    def __init__(self, *, world: World, **description: Any) -> None:
        self.world, self.description = world, {"policy": type(self).__name__, **description}

    @property
    def hint(self) -> str | None:
        """What is wrong with how it recommends, or cannot be known; None otherwise."""
        return None

    def check(self) -> None:  # noqa: B027 - most policies were checked when they were created
        """Refuse a world that this policy does not recommend for, before anything is simulated or written.

        Raises:
            InputError: it does not.
        """

    def begin(self, crowd: Crowd, rng: np.random.Generator) -> None:
        """Prepare for a new crowd.

        Args:
            crowd: the sessions after their first track; `crowd.place` identifies them from now on.
            rng: draws the recommendations; for parts of a crowd it is replaced before each call of `recommend`.
        """
        self.rng = rng
        if self.profiles is not None:
            self.profiles.begin(crowd)

    @abstractmethod
    def recommend(self, crowd: Crowd) -> Recommended:
        """Recommend the next track of each session."""

    def finish(self, crowd: Crowd) -> None:
        """Receive the sessions that have ended.

        Args:
            crowd: the sessions after their last track.
        """
        if self.profiles is not None:
            self.profiles.finish(crowd)

    def close(self) -> None:  # noqa: B027 - most policies hold no resource
        """Release resources; the policy is not used any more."""


class Picks(Policy):
    """Recommends what a picker picks.

    Args:
        world: the world whose tracks are recommended.
        picker: picks them.
        description: as for `Policy`.
    """

    is_stateless = True

    def __init__(self, *, world: World, picker: Picker, **description: Any) -> None:
        super().__init__(world=world, **{"policy": picker.arm.policy, **description})
        self.picker = picker

    def recommend(self, crowd: Crowd) -> Recommended:
        """Recommend the next track of each session."""
        picked = self.picker.pick_next(self.candidates(crowd), crowd.tracks[::-1].T, self.rng)
        self.fallbacks += int((picked.sources > 0).sum())
        return Recommended(picked.rows, picked.propensities)

    def candidates(self, crowd: Crowd) -> Int[np.ndarray, "S K"]:
        """The list of each session, best first; of no columns where there are none."""
        return np.empty((len(crowd), 0), np.int32)


def _of_word(world: World, word: str, num_popular: int = 0) -> Picker:
    artists, arm = ArtistTracks.of(world.catalog.artist_of), Arm(recommender=word, policy=word)
    return Picker(arm=arm, artists=artists, popular=world.top_tracks[:num_popular])


class Random(Picks):
    """Recommends a random track of the catalogue, uniformly."""

    def __init__(self, *, world: World) -> None:
        super().__init__(world=world, picker=_of_word(world, "random"))


class StickyArtist(Picks):
    """Recommends another track of the same artist, uniformly; a random track if the artist has no other."""

    def __init__(self, *, world: World) -> None:
        super().__init__(world=world, picker=_of_word(world, "sticky_artist"))


@settings("popular")
class Popular(Picks):
    """Recommends one of the most played tracks, uniformly.

    Args:
        world: the world whose tracks are recommended.

    Raises:
        InputError: `num_tracks` is out of range.
    """

    def __init__(
        self,
        *,
        num_tracks: Annotated[int, Setting("number of these tracks; 100 in the service of 2023", least=1)],
        world: World,
    ) -> None:
        super().__init__(world=world, picker=_of_word(world, "popular", num_tracks), num_tracks=num_tracks)


class Lists(Picks):
    """Recommends as an arm of the service that has lists, or a class of its own.

    With `context=session` the best tracks of the lists of the last tracks take the place of the list of the last track.
    With `context=listener` they are the best for the session and the listener, whose profile it continues. It begins
    with the profiles of its run, `profiles.npz` beside the file; without that file all listeners are new.

    Args:
        arm: how it recommends.
        file: its `recommendations.jsonl`; None for a class of one's own without lists.
        world: the world whose tracks are recommended; the files must be of its catalogue.

    Raises:
        InputError: a file cannot be read, or is for another catalogue or other listeners.
    """

    def __init__(self, *, arm: Arm, file: Path | None, world: World) -> None:
        picker = Picker.read(arm, file, world.catalog, world.top_tracks)
        if picker.users is not None and not np.isin(keys_of(world.listeners.user_ids), picker.users).any():
            raise InputError(
                f"{file} has lists of {len(picker.users)} other users, and of none of the {len(world.listeners)} "
                "listeners of this world; use lists of its users"
            )
        beside: dict[str, Any] = {"lists": file, "vectors": file and arm.is_of_session and file.with_name(FILE)}
        beside["profiles"] = picker.before and file and file.with_name(PROFILES)
        digests: dict[str, Any] = {name: file_digest(one) for name, one in beside.items() if one}
        where = {} if file is None else {"file": str(file.absolute())}
        described = {key: value for key, value in arm.record().items() if key != "recommender"}
        super().__init__(world=world, picker=picker, **described, **where, **digests)
        self.num_past = 0 if picker.own is None else picker.own.num_plays
        self._has_profiles = picker.before is not None
        if picker.search is not None and picker.search.knows_listeners:
            nothing = Profiles.of(np.zeros(0, np.int64), np.zeros(0, ENTRY))
            self.is_stateless, self.profiles = False, ArmProfiles(picker.before or nothing, world)

    @classmethod
    def of(cls, *, path: str, world: World, **given: Any) -> "Lists":
        """The policy of a file.

        Args:
            path: a `recommendations.jsonl`.
            world: as for the class.
            given: settings of the arm, see `Arm`.

        Raises:
            InputError: a file cannot be read, or a setting is out of range.
        """
        arm, file = read_arm("arm", {"recommender": path, **given}, defaults=USUAL, locate=Path)
        return cls(arm=arm, file=file, world=world)

    @property
    def hint(self) -> str | None:
        """What is wrong with how it picks, or cannot be known; None otherwise."""
        if self.profiles is not None and not self._has_profiles:
            return f"there is no {PROFILES} beside its lists; all listeners are new at first"
        return None

    def recommend(self, crowd: Crowd) -> Recommended:
        """Recommend the next track of each session."""
        if not self.num_past:
            return super().recommend(crowd)
        rows = np.concatenate([crowd.tracks[::-1], crowd.past_tracks])[: self.num_past]
        shares = np.concatenate([crowd.shares[::-1], crowd.past_shares])[: self.num_past] / WHOLE
        picked = self.picker.pick_next(np.empty((len(crowd), 0), np.int32), rows.T, self.rng, shares.T)
        self.fallbacks += int((picked.sources > 0).sum())
        return Recommended(picked.rows, picked.propensities)

    def candidates(self, crowd: Crowd) -> Int[np.ndarray, "S K"]:
        """The list of each session, best first; the best tracks for it where it is searched."""
        search = self.picker.search
        if search is None:
            last, unplayed = crowd.tracks[-1:].T.astype(np.int64), np.empty((len(crowd), 0), np.float32)
            return self.picker.candidates(last, unplayed, self._keys[crowd.users])
        return session_candidates(search, crowd, self.profiles, k=self.picker.num_kept)

    @cached_property
    def _keys(self) -> Int64[np.ndarray, "U"]:
        return keys_of(self.world.listeners.user_ids)

    def choose(self, crowd: Crowd, draws: Float64[np.ndarray, "S"]) -> Int64[np.ndarray, "S"]:
        """Choose a track of the list of each session, as a listening test asks for it.

        Args:
            crowd: the sessions.
            draws: uniform in [0, 1), shape `[S]`.

        Returns:
            Row of one track for each session, shape `[S]`; -1 where the list has none left.
        """
        tracks, chances = self.picker.row_of("list", self.candidates(crowd), crowd.tracks[::-1].T)
        return draw(chances, tracks, draws)[0]


def session_candidates(
    search: SessionSearch, crowd: Crowd, profiles: ArmProfiles | None = None, *, k: int
) -> Int32[np.ndarray, "S K"]:
    """The best tracks of the lists of the last tracks of each session.

    Args:
        search: finds them.
        crowd: the sessions.
        profiles: those of the listeners, which began with the sessions; None to leave them out.
        k: how many are kept (K).

    Returns:
        Rows, best first; -1 fills up.
    """
    blocks: list[Int32[np.ndarray, "S K"]] = []
    tracks, shares = crowd.tracks[::-1], crowd.shares[: -search.length - 1 : -1]
    # lists with the same largest row are similar: of sessions one after another most vectors are in the cache already
    order = search.lists.take(crowd.current, axis=0).max(axis=1, initial=-1).argsort(kind="stable")
    for first in range(0, max(len(crowd), 1), _BLOCK):
        some = order[first : first + _BLOCK]
        played = shares.take(some, axis=1).T.astype(np.float32) / np.float32(WHOLE)
        past = None if profiles is None else profiles.of(crowd, some)
        blocks.append(search.best(tracks.take(some, axis=1).T, played, k, past))
    width = max(block.shape[1] for block in blocks)  # of the longest profiles of a block
    whole = [np.pad(block, ((0, 0), (0, width - block.shape[1])), constant_values=-1) for block in blocks]
    return np.asarray(np.concatenate(whole)[order.argsort()])


@settings("true_neighbours")
class TrueNeighbours(Policy):
    """Recommends one of the tracks nearest to the last track by true embeddings: the lists of a perfect item model.

    Args:
        world: the world whose tracks are recommended; must have at least two.

    Raises:
        InputError: `num_tracks` is out of range, or the world has one track.
    """

    is_stateless = True

    def __init__(
        self, *, num_tracks: Annotated[int, Setting("number of nearest tracks", least=1, most=10_000)], world: World
    ) -> None:
        super().__init__(world=world, policy="true_neighbours", num_tracks=num_tracks)
        self._nearest = NearestTracks(world.embeddings, num_tracks)

    def recommend(self, crowd: Crowd) -> Recommended:
        """Recommend the next track of each session."""
        places = self.rng.integers(self._nearest.length, size=len(crowd))
        picked = self._nearest.of(crowd.current)[np.arange(len(crowd)), places]
        return Recommended(picked.astype(np.int64), np.full(len(crowd), 1 / self._nearest.length))


class Oracle(Policy):
    """Recommends the track with the largest share of all, because it knows the taste of each session.

    No policy can choose a better next track, therefore this is approximately the upper bound of any policy. The shares
    of some candidates are kept up to date. Shares only decrease during a session, therefore the best candidate is the
    best of all tracks as long as its share is above the best share outside; after that the candidates are chosen again.

    Args:
        world: the world whose tracks are recommended.
    """

    def __init__(self, *, world: World) -> None:
        super().__init__(world=world, policy="oracle")

    def begin(self, crowd: Crowd, rng: np.random.Generator) -> None:
        """Choose the candidates of each session of a new crowd."""
        super().begin(crowd, rng)
        self._best = [self._best_of(crowd, session) for session in range(len(crowd))]

    def recommend(self, crowd: Crowd) -> Recommended:
        """Recommend the next track of each session."""
        tracks = np.empty(len(crowd), np.int64)
        for session, place in enumerate(crowd.place.tolist()):
            best = self._best[place]
            if len(crowd.tracks) > 1:  # the first track is already part of the shares
                best.shares[best.artists == crowd.artists[-1, session]] *= crowd.artist_discount[session]
                best.shares[best.tracks == crowd.current[session]] = -1
            if best.shares.max() < best.outside:
                best = self._best[place] = self._best_of(crowd, session)
            tracks[session] = best.tracks[best.shares.argmax()]
        return Recommended(tracks, np.ones(len(crowd)))

    def _best_of(self, crowd: Crowd, session: int) -> "_Best":
        """The tracks with the largest shares for a session, after the tracks it has played."""
        artist_of, affinity = self.world.catalog.artist_of, self.world.embeddings @ crowd.taste[session]
        shares = expit((affinity.astype(np.float64) - crowd.bias[session]) * crowd.sharpness[session])
        num_played = np.bincount(crowd.artists[:, session], minlength=self.world.catalog.num_artists)
        shares *= crowd.artist_discount[session] ** num_played[artist_of]
        shares[crowd.tracks[:, session]] = -1
        size = min(_CANDIDATES, len(shares))
        rest, best = np.split(np.argpartition(shares, -size), [-size])
        return _Best(best, artist_of[best], shares[best], shares[rest].max(initial=-1))


class _Best(NamedTuple):
    """The candidates (K) of a session: their rows, artists and shares, and the largest share of all other tracks."""

    tracks: Int64[np.ndarray, "K"]
    artists: Int64[np.ndarray, "K"]
    shares: Float64[np.ndarray, "K"]
    outside: float


@settings("service")
class RemoteService(Policy):
    """Recommends what a running service answers to `POST /next/<user>`; `POST /last/<user>` ends a session.

    The service is `serve.py` or botify, the service of 2023. The requests of one step are sent concurrently over
    persistent connections. Ids are percent-encoded in the path.

    Args:
        url: `http://host:port`.
        token: bearer token of the service; None without one.
        world: the world whose tracks the service recommends.

    Raises:
        InputError: a setting is out of range, the service does not answer, or its answer is not a track of the world.
    """

    _NUM_COMPARED = 30  # tracks, besides the first and the last

    def __init__(
        self,
        *,
        url: str,
        connections: Annotated[int, Setting("largest number of concurrent requests", least=1, most=10_000)],
        retries: Annotated[int, Setting("of a request without an answer, or with status 500+", least=0, most=100)],
        timeout_s: Annotated[float, Setting("timeout of a request, in seconds", above=0)],
        token: str | None,
        world: World,
    ) -> None:
        # the service alone knows what it recommends, and writes propensities to its own log
        super().__init__(world=world, policy="service", url=url.rstrip("/"))
        self._url, self._connections, self._retries, self._timeout_s = url.rstrip("/"), connections, retries, timeout_s
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._runner = asyncio.Runner()  # starts where it is used, which may be another process
        self._session: aiohttp.ClientSession | None = None

    @property
    def hint(self) -> str | None:
        """That it may be the run whose tastes the listeners have."""
        if (model := self.world.model) is None:
            return None
        return f"whether it serves {model.name} is not checked; if it does, its time means nothing"

    def check(self) -> None:
        """Refuse a service whose catalogue is not that of the world, by some of its tracks."""
        asyncio.run(self._check())  # and not the runner, which may start in another process

    async def _check(self) -> None:
        catalog = self.world.catalog
        some = np.random.default_rng(0).integers(len(catalog), size=self._NUM_COMPARED).tolist()
        async with self._open() as session:
            for row in dict.fromkeys([0, len(catalog) - 1, *some]):
                track, artist = catalog.track_ids[row], catalog.artists[catalog.artist_of[row]]
                ours = {"title": catalog.titles[row], "artist": artist}
                given = await self._ask(session, "GET", "track", track)
                theirs = {name: given.get(name) or ours[name] for name in ours} if isinstance(given, dict) else None
                if theirs != ours:
                    raise InputError(
                        f"{self._url} has another catalogue than this world: track {track} is {ours} here, and "
                        f"{theirs} there; start the service with recommendations for this world, or simulate listeners "
                        "of its tracks: world=catalogue world.tracks=<its run>"
                    )

    def recommend(self, crowd: Crowd) -> Recommended:
        """Recommend the next track of each session."""
        answers = self._runner.run(self._post_all("next", crowd))
        ids: list[Any] = [answer.get("track") if isinstance(answer, dict) else None for answer in answers]
        unknown = [track for track in ids if id_problem(track)]
        rows = self.world.catalog.rows_of([] if unknown else ids)
        unknown += [ids[place] for place in np.flatnonzero(rows < 0)]
        if unknown:
            raise InputError(
                f"{self._url} recommends {unknown[0]!r}, which is not one of the {len(self.world.catalog)} tracks of "
                "this world; start the service with recommendations for this world"
            )
        return Recommended(rows, np.full(len(rows), np.nan))

    def finish(self, crowd: Crowd) -> None:
        """Send the end of each session."""
        self._runner.run(self._post_all("last", crowd))

    def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            self._runner.run(self._session.close())
        self._runner.close()

    def _open(self) -> "aiohttp.ClientSession":
        import aiohttp

        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections),
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(sock_connect=self._timeout_s, sock_read=self._timeout_s),
        )

    async def _post_all(self, call: str, crowd: Crowd) -> list[Any]:
        if self._session is None:
            self._session = self._open()
        users = self.world.listeners.user_ids[crowd.users].tolist()
        tracks = self.world.catalog.track_ids[crowd.current].tolist()
        requests = [
            asyncio.ensure_future(self._ask(self._session, "POST", call, user, {"track": track, "time": time}))
            for user, track, time in zip(users, tracks, (crowd.shares[-1] / WHOLE).tolist(), strict=True)
        ]
        try:
            return await asyncio.gather(*requests)
        finally:
            for request in requests:
                request.cancel()
            await asyncio.gather(*requests, return_exceptions=True)

    async def _ask(self, session: "aiohttp.ClientSession", method: str, call: str, of: Id, body: Any = None) -> Any:
        """The answer to a request about an id; None where a GET finds nothing."""
        from aiohttp import ClientError
        from yarl import URL

        # as text, the client would change it again
        url, problem = URL(f"{self._url}/{call}/{quote(str(of), safe='')}", encoded=True), ""
        for attempt in range(self._retries + 1):
            if attempt:
                await asyncio.sleep(min(0.1 * 2**attempt, 5.0))
            try:
                async with session.request(method, url, json=body) as response:
                    text = await response.text()
                    problem = f"status {response.status}: {text[:200]}"
                    if response.status == HTTPStatus.OK:
                        return json.loads(text)
                    if response.status == HTTPStatus.NOT_FOUND and method == "GET":
                        return None
                    if response.status < HTTPStatus.INTERNAL_SERVER_ERROR:
                        break
            except (ClientError, TimeoutError, ValueError) as error:
                problem = str(error) or type(error).__name__
        raise InputError(
            f"{method} {url} failed {attempt + 1} times, last with {problem}; check that the service of this world runs"
        )


def make_policies(
    arms: Any, *, templates: Mapping[str, partial[Any]], world: World, locate: Locate
) -> dict[str, Policy]:
    """Create the policy of each arm.

    Args:
        arms: the recommender of each arm: one of `templates`, a path, `run:…`, `model:…` or `http://…`; or a mapping
            with this name under `recommender` and settings of this arm beside it.
        templates: factory of each kind of policy, with its default settings.
        world: the world whose tracks they recommend.
        locate: finds the file of a run or a model.

    Returns:
        The policy of each arm, in the order of the arms.

    Raises:
        InputError: an arm has an invalid name, names no recommender, or names one that cannot be read.
    """
    if not isinstance(arms, Mapping):
        raise InputError(f"arms must be a mapping such as arms={{C: random, T1: popular}}, got {arms!r}")
    return {arm: _policy(f"arms.{arm}", arms[arm], templates, world, locate) for arm in check_arms(arms)}


def _policy(where: str, given: Any, templates: Mapping[str, partial[Any]], world: World, locate: Locate) -> Policy:
    own = {key: given[key] for key in given if key != "recommender"} if isinstance(given, Mapping) else {}
    name = recommender_name(given)
    kind = "path" if name is None or "policy" in own else parse_name(name).kind
    policy: Policy
    if name is not None and kind in ("word", "url"):
        word = "service" if kind == "url" else name
        if word not in templates or name in ("recommendations", "service"):
            words = sorted(set(templates) - {"recommendations", "service"})
            others = f"{FILES}, {SERVICES}" if "service" in templates else FILES
            raise InputError(unknown_recommender(where, name, words, others))
        refuse_unknown(own, [*templates[word].keywords], key=where)
        policy = templates[word](**own, **({"url": name} if kind == "url" else {}), world=world)
    else:
        lists = templates.get("recommendations")
        arm, file = read_arm(where, given, defaults=USUAL | (lists.keywords if lists else {}), locate=locate)
        policy = Lists(arm=arm, file=file, world=world)
    if world.model and policy.description.get("lists") == world.model.lists:
        raise InputError(
            f"{where}: {name} is the run whose vectors are the tastes of the listeners of this world, and would be "
            "measured by itself; choose another arm, or the tastes of another run with world.model=run:<id>"
        )
    return policy


def hints(policies: Mapping[str, Policy]) -> list[str]:
    """What is wrong with the settings of each arm, or cannot be known of it, a line each.

    Args:
        policies: the policy of each arm.
    """
    return [f"arm {arm}: {policy.hint}" for arm, policy in policies.items() if policy.hint]
