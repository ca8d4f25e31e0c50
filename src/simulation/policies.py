"""Policies: the recommendations of an arm to each session of a crowd, and how they are named.

S sessions, T tracks played so far, N tracks in the catalogue, K tracks of a list.
"""

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, cast
from urllib.parse import quote

import numpy as np
from jaxtyping import Float64, Int32, Int64
from scipy.special import expit

from segue.assignment import check_arms
from segue.catalog import Id, id_problem, keys_of
from segue.errors import InputError
from segue.picking.last_ten import NUM_PLAYS, LastPlays, LastTen, check_no_other_rules
from segue.picking.picker import (
    LEARNED,
    LISTS,
    NUM_POPULAR,
    ArtistTracks,
    Picker,
    check_familiar,
    check_picking,
    familiar_share,
    new_rows,
)
from segue.picking.session_search import MOST_LISTS, SessionSearch, gap_hint
from segue.runs.profiles import ENTRY, Profiles
from segue.runs.profiles import FILE as PROFILES
from segue.runs.recommendations import Recommendations, file_digest, lists_of
from segue.runs.recommender_names import FILES, SERVICES, parse_name, recommender_name, unknown_recommender
from segue.runs.session_vectors import FILE, LAST_TEN, SessionVectors, context_of
from segue.settings import Setting, settings
from segue.simulation.arm_profiles import ArmProfiles
from segue.simulation.listener import WHOLE, Crowd
from segue.simulation.neighbours import NearestTracks
from segue.simulation.world import World

if TYPE_CHECKING:
    import aiohttp

# Tracks per session whose shares `Oracle` keeps up to date. Their number changes the speed only.
_CANDIDATES = 1024

_BLOCK = 256  # sessions whose candidates are searched together: enough for fast arrays, few enough for the cache


# Policies that are named by the file or service they read, and the setting that takes that name.
_BY_ADDRESS = {"recommendations": "path", "service": "url"}

# The template of a name that is not itself one, by its kind.
_TEMPLATES = {"url": "service", "stored": "recommendations", "path": "recommendations"}

Locate = Callable[[str], Path]
"""Finds the `recommendations.jsonl` of the name of a run or a registered model."""


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
        policy: that of the picker.
        settings: other settings of the picker.
    """

    is_stateless = True

    def __init__(self, *, world: World, policy: str, **settings: Any) -> None:
        super().__init__(world=world, policy=policy)
        self.picker = Picker(policy=policy, artists=ArtistTracks.of(world.catalog.artist_of), **settings)

    def recommend(self, crowd: Crowd) -> Recommended:
        """Recommend the next track of each session."""
        picked = self.picker.pick_next(self.candidates(crowd), crowd.tracks[::-1].T, self.rng)
        self.fallbacks += int((picked.sources > 0).sum())
        return Recommended(picked.rows, picked.propensities)

    def candidates(self, crowd: Crowd) -> Int32[np.ndarray, "S K"]:
        """The list of each session, best first; of no columns where there are none."""
        return np.empty((len(crowd), 0), np.int32)


class Random(Picks):
    """Recommends a random track of the catalogue, uniformly."""

    def __init__(self, *, world: World) -> None:
        super().__init__(world=world, policy="random")


class StickyArtist(Picks):
    """Recommends another track of the same artist, uniformly; a random track if the artist has no other."""

    def __init__(self, *, world: World) -> None:
        super().__init__(world=world, policy="sticky_artist")


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
        super().__init__(world=world, policy="popular", popular=world.top_tracks[:num_tracks])
        self.description["num_tracks"] = num_tracks


class Lists(Picks):
    """Recommends a track of the list of the last track, or of the list of the listener, from a recommendations file.

    Args:
        path: a `recommendations.jsonl`.
        pick: `uniform` among the K tracks, as in the service of 2023; `ranked` (best first) or `weighted` (by 1 / rank)
            never repeat a track within a session.
        artist_gap: artists of this many last tracks are skipped if the list has tracks of others, 0 to 1000.
        exploration: share of the picks that are among new tracks, in [0, 0.5]; see `Picker`.
        exploration_plays: tracks with fewer plays in training are new, at least 1.
        fallback: what follows where a list has no track left: `random`, or `artist` first, as in the service.
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
        fallback: str = "random",
        world: World,
    ) -> None:
        how: dict[str, Any] = {"pick": pick, "artist_gap": artist_gap}
        how |= {"fallback": fallback} if fallback != "random" else {}
        explores = {"exploration": exploration, "exploration_plays": exploration_plays}
        check_picking({**how, **explores}, "recommendations.")
        given, users = Recommendations.read(Path(path), world.catalog), keys_of(world.listeners.user_ids)
        if given.users is not None and not np.isin(users, given.users).any():
            raise InputError(
                f"{path} has lists of {len(given.users)} other users, and of none of the {len(users)} listeners of "
                "this world; use lists of its users"
            )
        self.is_of_users = given.users is not None
        new = {"new": new_rows(given.plays, exploration_plays, path)} if exploration else {}
        popular = world.top_tracks[:NUM_POPULAR]
        super().__init__(
            world=world, policy=LISTS[self.is_of_users], exploration=exploration, popular=popular, **how, **new
        )
        self.lists = (given.rows if given.users is None else lists_of(users, given.users, given.rows)).astype(np.int32)
        # where the lists were, and a digest of that file
        self.description |= {**how, "file": str(Path(path).absolute()), "lists": file_digest(Path(path))}
        self.description |= explores if exploration else {}

    def candidates(self, crowd: Crowd) -> Int32[np.ndarray, "S K"]:
        """The list of each session, best first."""
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


@settings("recommendations")
class SessionLists(Lists):
    """Recommends of the lists of the last tracks what is best for the session, by its query vector.

    The K best, as many as a list has, take the place of the list of the last track; `pick` and `artist_gap` apply
    to them. With `ranked` and no exploration all candidates do, so that `artist_gap` finds other artists. Tracks
    already heard follow the rule of the training run, and are left out where `pick` never repeats a track.

    With `knows_listeners` they are the best for the session and the listener, whose profile it continues. It begins
    with the profiles of its run, `profiles.npz` beside the file; without that file all listeners are new.

    Args:
        path: a `recommendations.jsonl` with `vectors.npz` beside it.
        world: the world whose tracks are recommended; the files must be of its catalogue.
        knows_listeners: whether the listener is part of the query; needs vectors of a run with `context=listener`.
        familiar: share of what is played that the listener may know, in [0, 1]; see `SessionSearch.best`.
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
        knows_listeners: bool = False,
        familiar: float = 1.0,
        **picking: Any,
    ) -> None:
        super().__init__(path=path, world=world, **picking)
        if self.is_of_users:
            raise InputError(f"context=session needs lists of tracks, and {path} has lists of users")
        file = Path(path).with_name(FILE)
        vectors = SessionVectors.read(file, world.catalog)
        self._search = SessionSearch(
            vectors if knows_listeners else replace(vectors, listener=None),
            self.lists,
            num_lists=num_lists,
            may_repeat=not self.picker.avoids_heard,
            artist_of=world.catalog.artist_of,
        )
        self.hint = gap_hint(vectors, pick=self.picker.pick, artist_gap=self.picker.artist_gap)
        """What is wrong with `pick`; see `gap_hint`."""
        self._num_kept = self._search.num_kept(self.picker)
        self.description |= {"policy": "session_lists", "num_lists": num_lists, "vectors": file_digest(file)}
        self._familiar = familiar
        if knows_listeners:
            self._know_listeners(Path(path).with_name(PROFILES))

    def _know_listeners(self, file: Path) -> None:
        """Begin with the profiles of the run."""
        self.is_stateless = False
        self.description["policy"] = "listener_lists"
        self.description |= {"familiar": self._familiar} if self._familiar != 1 else {}
        given = Profiles.of(np.zeros(0, np.int64), np.zeros(0, ENTRY))
        if file.is_file():
            given, self.description["profiles"] = Profiles.read(file), file_digest(file)
        else:
            self.hint = f"{file} is not there; all listeners are new at first"
        self.profiles = ArmProfiles(given, self.world)
        if self._familiar < 1:
            gap = self._search.known_gap(given.in_rows(self.world.catalog), self.picker.artist_gap)
            self._search.vectors, self.description["known_gap"] = replace(self._search.vectors, known_gap=gap), gap

    def candidates(self, crowd: Crowd) -> Int32[np.ndarray, "S K"]:
        """The best tracks for each session, and its listener."""
        return session_candidates(self._search, crowd, self.profiles, k=self._num_kept, familiar=self._familiar)


class LastTenLists(Lists):
    """Recommends from the lists of the last ten plays of the listener, over sessions: see `picking/last_ten.py`.

    Args:
        path: a `recommendations.jsonl`.
        world: the world whose tracks are recommended; the file must be of its catalogue.

    Raises:
        InputError: the file cannot be read, is for another catalogue, or has lists of users.
    """

    num_past = NUM_PLAYS

    def __init__(self, *, path: str, world: World) -> None:
        super().__init__(path=path, world=world, pick="uniform", artist_gap=0)
        if self.is_of_users:
            raise InputError(f"context={LAST_TEN} needs lists of tracks, and {path} has lists of users")
        self._rule = LastTen(lists=self.lists, artists=self.picker.artists)
        self.description = {"policy": "lists", "context": LAST_TEN} | {
            name: self.description[name] for name in ("file", "lists")
        }

    def recommend(self, crowd: Crowd) -> Recommended:
        """Recommend the next track of each session."""
        tracks = np.concatenate([crowd.tracks[: -NUM_PLAYS - 1 : -1], crowd.past_tracks[:NUM_PLAYS]])
        shares = np.concatenate([crowd.shares[: -NUM_PLAYS - 1 : -1], crowd.past_shares[:NUM_PLAYS]]) / WHOLE
        picked = self._rule.pick_next(LastPlays(tracks.T, shares.T), self.rng)
        self.fallbacks += int(picked.sources.sum())
        return Recommended(picked.rows, picked.propensities)


def session_candidates(
    search: SessionSearch, crowd: Crowd, profiles: ArmProfiles | None = None, *, k: int, familiar: float = 1.0
) -> Int32[np.ndarray, "S K"]:
    """The best tracks of the lists of the last tracks of each session.

    Args:
        search: finds them.
        crowd: the sessions.
        profiles: those of the listeners, which began with the sessions; None to leave them out.
        k: how many are kept (K).
        familiar: see `SessionSearch.best`.

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
        past, now_ms = (None, None) if profiles is None else profiles.of(crowd, some)
        blocks.append(search.best(tracks.take(some, axis=1).T, played, k, past, now_ms, familiar))
    width = max(block.shape[1] for block in blocks)  # of the longest profiles of a block
    whole = [np.pad(block, ((0, 0), (0, width - block.shape[1])), constant_values=-1) for block in blocks]
    return np.asarray(np.concatenate(whole)[order.argsort()])


def recommended(*, path: str, context: str | None, num_lists: int, world: World, **picking: Any) -> Lists:
    """The policy of a recommendations file: lists of the last track, or the session, or also the listener as the query.

    Args:
        path: a `recommendations.jsonl`.
        context: one of `ARM_CONTEXTS`; None for that of the training run, which its `vectors.npz` beside the file says.
        num_lists: see `SessionLists`.
        world: the world whose tracks are recommended.
        picking: other settings of `Lists`.

    Raises:
        InputError: the file or its vectors cannot be read, or a setting is out of range.
    """
    familiar = familiar_share(picking.pop("familiar", LEARNED), "recommendations.")
    lists = Lists(path=path, world=world, **picking)
    found = "last" if context is None and lists.is_of_users else context_of("recommendations", context, Path(path))
    check_familiar("recommendations: ", familiar, found)
    if found == LAST_TEN:
        return LastTenLists(path=path, world=world)
    if found == "last":
        return lists
    knows: dict[str, Any] = {"knows_listeners": found == "listener", "familiar": familiar}
    return SessionLists(path=path, world=world, num_lists=num_lists, **knows, **picking)


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
        shape = len(crowd), min(_CANDIDATES, len(self.world.catalog))
        (self._candidates, self._artists), self._value = np.empty((2, *shape), np.int32), np.empty(shape)
        self._outside = np.empty(len(crowd))
        for session in range(len(crowd)):
            self._choose(crowd, session)

    def _choose(self, crowd: Crowd, session: int) -> None:
        """Choose the tracks with the largest shares for a session, after the tracks it has played."""
        catalog, place = self.world.catalog, crowd.place[session]
        affinity = self.world.embeddings @ crowd.taste[session]
        value = expit((affinity.astype(np.float64) - crowd.bias[session]) * crowd.sharpness[session])
        num_played = np.bincount(crowd.artists[:, session], minlength=catalog.num_artists)
        value *= crowd.artist_discount[session] ** num_played[catalog.artist_of]
        value[crowd.tracks[:, session]] = -1
        rest, best = np.split(np.argpartition(value, -self._value.shape[1]), [-self._value.shape[1]])
        self._candidates[place], self._value[place] = best, value[best]
        self._artists[place] = catalog.artist_of[best]
        self._outside[place] = value[rest].max(initial=-1)

    def recommend(self, crowd: Crowd) -> Recommended:
        """Recommend the next track of each session."""
        tracks = np.empty(len(crowd), np.int64)
        for session, place in enumerate(crowd.place.tolist()):
            value, candidates = self._value[place], self._candidates[place]
            if len(crowd.tracks) > 1:  # the first track is already part of the values
                value[self._artists[place] == crowd.artists[-1, session]] *= crowd.artist_discount[session]
                value[candidates == crowd.current[session]] = -1
            if value.max() < self._outside[place]:
                self._choose(crowd, session)
            tracks[session] = candidates[value.argmax()]
        return Recommended(tracks, np.ones(len(crowd)))


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

    def check(self) -> None:
        """Refuse a service whose catalogue is not that of the world: by its size, and by some of its tracks."""
        asyncio.run(self._check())  # and not the runner, which may start in another process

    def recommend(self, crowd: Crowd) -> Recommended:
        """Recommend the next track of each session."""
        ids = [self._track_of(answer) for answer in self._runner.run(self._post_all("next", crowd))]
        rows = self.world.catalog.rows_of(ids)
        if (rows < 0).any():
            track = ids[int((rows < 0).argmax())]
            raise InputError(
                f"{self._url} recommends track {track}, which is not one of the {len(self.world.catalog)} tracks of "
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

    def _track_of(self, answer: Any) -> Id:
        track = answer.get("track") if isinstance(answer, dict) else None
        if problem := id_problem(track):
            raise InputError(
                f'{self._url}/next answered {str(answer)[:200]}; expected {{"user": id, "track": id}}, and "track" '
                f"{problem}"
            )
        return cast(Id, track)

    def _open(self) -> "aiohttp.ClientSession":
        import aiohttp

        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections),
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(sock_connect=self._timeout_s, sock_read=self._timeout_s),
        )

    async def _check(self) -> None:
        catalog = self.world.catalog
        some = np.random.default_rng(0).integers(len(catalog), size=self._NUM_COMPARED)
        async with self._open() as session:
            experiments = await self._ask(session, "GET", "experiments")  # which botify does not have
            given = experiments if isinstance(experiments, dict) else {}
            num_tracks, num_kept = given.get("tracks"), given.get("kept")
            without_kept = num_tracks - num_kept if isinstance(num_tracks, int) and isinstance(num_kept, int) else None
            if isinstance(num_tracks, int) and len(catalog) not in (num_tracks, without_kept):
                raise self._mismatch(f"it has {num_tracks:,} tracks, and this world {len(catalog):,}")
            for row in dict.fromkeys([0, len(catalog) - 1, *some.tolist()]):
                answer = await self._ask(session, "GET", "track", catalog.track_ids[row])
                self._compare(row, answer)

    def _compare(self, row: int, answer: Any) -> None:
        """Refuse what the service says of a track, if the world says something else."""
        catalog = self.world.catalog
        title, artist = catalog.titles[row], catalog.artists[catalog.artist_of[row]]
        named = f"track {catalog.track_ids[row]}, {title!r} by {artist!r} in this world,"
        if not isinstance(answer, dict):
            raise self._mismatch(f"{named} is not in it")
        given = answer.get("title"), answer.get("artist")
        if any(name and name != known for name, known in zip(given, (title, artist), strict=True)):
            raise self._mismatch(f"{named} is {given[0]!r} by {given[1]!r} there")

    def _mismatch(self, difference: str) -> InputError:
        return InputError(
            f"{self._url} has another catalogue than this world: {difference}; start the service with recommendations "
            "for this world, or simulate listeners of its tracks: world=catalogue world.tracks=<its run>"
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

    async def _ask(
        self, session: "aiohttp.ClientSession", method: str, call: str, of: Id | None = None, body: Any = None
    ) -> Any:
        """The answer to a request about an id; None where a page is not there, or the service has nothing of the id."""
        from aiohttp import ClientError
        from yarl import URL

        path = call if of is None else f"{call}/{quote(str(of), safe='')}"
        url, problem = URL(f"{self._url}/{path}", encoded=True), ""  # as text, the client would change it again
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
        raise InputError(
            f"arms must be a mapping from arms to recommenders, such as arms={{C: random, T1: popular}}, got {arms!r}"
        )
    return {arm: _policy(f"arms.{arm}", arms[arm], templates, world, locate) for arm in check_arms(arms)}


def _policy(where: str, given: Any, templates: Mapping[str, partial[Any]], world: World, locate: Locate) -> Policy:
    if (name := recommender_name(given)) is None:
        raise InputError(f"{where} must name a recommender, got {given!r}; such as random, or {{recommender: random}}")
    settings = {key: given[key] for key in given if key != "recommender"} if isinstance(given, Mapping) else {}
    named = parse_name(name)
    kind = _TEMPLATES.get(named.kind, name)
    address = str(locate(named.name)) if named.kind == "stored" else named.name
    if kind not in templates or name in _BY_ADDRESS:
        others = f"{FILES}, {SERVICES}" if "service" in templates else FILES
        raise InputError(unknown_recommender(where, name, sorted(set(templates) - set(_BY_ADDRESS)), others))
    settings |= {_BY_ADDRESS[kind]: address} if named.kind != "word" else {}
    known = set(templates[kind].keywords)
    if unknown := sorted(map(str, set(settings) - known - {_BY_ADDRESS.get(kind)})):
        listed = ", ".join(sorted(known)) or "none"
        raise InputError(f"{where}: {unknown[0]!r} is not a setting of {kind}; its settings are: {listed}")
    if settings.get("context") == LAST_TEN:
        check_no_other_rules(where, set(settings) - {_BY_ADDRESS[kind]})
    policy: Policy = templates[kind](**settings, world=world)
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
    lines = {arm: one.hint for arm, one in policies.items() if isinstance(one, SessionLists) and one.hint}
    for arm, one in policies.items():
        if isinstance(one, RemoteService) and (model := one.world.model):
            lines[arm] = f"whether it serves {model.name} is not checked; if it does, its time means nothing"
    return [f"arm {arm}: {line}" for arm, line in lines.items()]
