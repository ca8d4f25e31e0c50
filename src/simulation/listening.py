"""The listening test: recommenders are played to the listeners of a world, all with the same random numbers.

A session has a random number for each of its steps, whatever is recommended and whichever other sessions have ended.
Two recommenders therefore meet the same listeners in the same mood, and their difference is much more precise than each
of their means. S sessions, N tracks of the world, L of a run, K of a list, u listeners who were played to, E plays.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Annotated

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int, Int32, Int64

from segue.assignment import treatments
from segue.catalog import Catalog
from segue.errors import InputError
from segue.picking.arm import Arm
from segue.picking.picker import draw
from segue.picking.places import shares_of, uniform_place
from segue.picking.session_search import SessionSearch
from segue.runs.profiles import Profiles
from segue.runs.session_vectors import SessionVectors
from segue.settings import Setting, settings
from segue.simulation.arm_profiles import ArmProfiles
from segue.simulation.listener import WHOLE, Crowd, listen, start
from segue.simulation.neighbours import NearestTracks
from segue.simulation.policies import session_candidates
from segue.simulation.traffic import planned_ms
from segue.simulation.world import World
from segue.statistics.discovery import Discovery
from segue.statistics.intervals import LEVEL, MeanInterval

PARTS = ("val", "test")
"""Listeners kept for validation, and those whose time is reported; a hash of the listener decides."""

TRACK_MS = 210_000
"""Duration of a track; it decides only how long ago earlier plays were."""

_Tracks = Int32[np.ndarray, "E"]
Recommend = Callable[[Crowd, Float64[np.ndarray, "S"]], Int64[np.ndarray, "S"]]
"""The next track of each session, from a random number in [0, 1) for each; -1 where there is none to recommend."""

NumSessions = Annotated[int, Setting("number of sessions, half of them for validation", least=1, most=100_000_000)]
Seed = Annotated[int, Setting("of the sessions; not the seed of the run, nor that of traffic", least=0)]
NumHits = Annotated[int, Setting("most played tracks that popular recommends and that count as hits", least=1)]
NumNearest = Annotated[int, Setting("nearest tracks from which true_neighbours recommends", least=1, most=10_000)]


@dataclass(frozen=True, eq=False, kw_only=True)
class Heard:
    """What the listeners of one part heard from a recommender. Shares are of all recommended tracks.

    Args:
        listeners: row of each listener who had a session, ascending.
        time: mean time per session of each of them, in tracks played in full.
        coverage: share of the catalogue that was recommended at least once.
        share_of_hits: share of tracks that are among the most played.
        share_of_same_artist: share of tracks by the artist of the track before.
        fallbacks: number of random tracks, because there was none to recommend.
        discovery: mean over listeners of what they knew before; see `Discovery`. Empty where that is not known.
    """

    listeners: Int64[np.ndarray, "u"]
    time: Float64[np.ndarray, "u"]
    num_sessions: int
    coverage: float
    share_of_hits: float
    share_of_same_artist: float
    fallbacks: int
    discovery: Mapping[str, float] = field(default_factory=dict)

    @property
    def interval(self) -> MeanInterval:
        """The mean of `time` over listeners, with its interval."""
        return MeanInterval.of(self.time, LEVEL)


@settings("callbacks.listening")
class ListeningTest:
    """Sessions that are the same for every recommender. Listeners have equally many, or one more.

    Raises:
        InputError: a setting is out of range, or a part has fewer than two listeners.
    """

    def __init__(self, world: World, *, sessions: NumSessions, seed: Seed, hits: NumHits) -> None:
        self.world, self.hits, self._seed, self._num_sessions = world, hits, seed, sessions
        people = world.listeners
        self._users = np.resize(self._rng(0).permutation(len(people)), sessions)
        part_of = treatments(people.user_ids, experiment="listening test", num_arms=len(PARTS))[self._users]
        self._sessions = {name: np.flatnonzero(part_of == number) for number, name in enumerate(PARTS)}
        num_listeners = {name: len(self.listeners(name)) for name in PARTS}
        if min(num_listeners.values()) < 2:
            raise InputError(
                f"callbacks.listening.sessions={sessions} reaches {num_listeners['val']} listeners for validation and "
                f"{num_listeners['test']} others of the {len(people)} of this world, and needs two of each; use more "
                "sessions or a larger world, or leave the listening test out with callbacks.listening=null"
            )
        self._is_hit = np.zeros(len(world.catalog), bool)
        self._is_hit[world.top_tracks[:hits]] = True

    def digest(self) -> str:
        """What two runs must share so that their values can be paired, as sixteen hexadecimal digits."""
        return hashlib.sha256(f"{self.world.digest()} {self._num_sessions} {self._seed}".encode()).hexdigest()[:16]

    def listeners(self, part: str) -> Int64[np.ndarray, "u"]:
        """Row of each listener of a part, ascending.

        Args:
            part: one of PARTS.
        """
        return np.unique(self._users[self._sessions[part]])

    def play(self, recommend: Recommend, part: str, profiles: ArmProfiles | None = None) -> Heard:
        """Play the sessions of a part. They start at any time of a day, and none of them knows of another.

        Args:
            part: one of PARTS.
            profiles: what the listeners have heard before, to count how much of it they hear again.
        """
        numbers, num_tracks = self._sessions[part], len(self.world.catalog)
        interest_draws, first_draws, time_draws = self._draws(0, numbers)
        users, started_ms = self._users[numbers], planned_ms(time_draws)
        crowd, ended, fallbacks = start(self.world, users, interest_draws, first_draws, started_ms=started_ms), [], 0
        for step in count(1):
            boredom_draws, draws, spare_draws = self._draws(step, numbers[crowd.place])
            tracks = recommend(crowd, draws)
            fallbacks += int((tracks < 0).sum())
            tracks = np.where(tracks < 0, uniform_place(spare_draws, num_tracks), tracks)
            crowd = listen(self.world, crowd, tracks, boredom_draws)
            if (has_ended := crowd.budget <= 0).any():
                ended.append(crowd.where(has_ended))
                crowd = crowd.where(~has_ended)
            if not len(crowd):
                break
        hundredths = np.concatenate([one.shares.sum(0, dtype=np.int64) for one in ended])
        listeners, place = np.unique(np.concatenate([one.users for one in ended]), return_inverse=True)
        owner = np.concatenate([np.tile(one.users, len(one.tracks) - 1) for one in ended])  # of each recommended track
        tracks = np.concatenate([one.tracks[1:].ravel() for one in ended])
        is_same = np.concatenate([(one.artists[1:] == one.artists[:-1]).ravel() for one in ended])
        return Heard(
            listeners=listeners,
            time=np.bincount(place, hundredths) / np.bincount(place) / WHOLE,
            num_sessions=len(users),
            coverage=len(np.unique(tracks)) / num_tracks,
            share_of_hits=float(self._is_hit[tracks].mean()),
            share_of_same_artist=float(is_same.mean()),
            fallbacks=fallbacks,
            discovery={} if profiles is None else self._discovery(profiles, listeners, owner, tracks),
        )

    def _discovery(
        self, profiles: ArmProfiles, listeners: Int64[np.ndarray, "u"], owner: Int64[np.ndarray, "E"], tracks: _Tracks
    ) -> dict[str, float]:
        """The mean share of tracks that listeners (u) knew before, over those who had heard anything.

        Args:
            owner: the listener of each track.
        """
        before, plays_of = Discovery(len(self.world.catalog), self.world.catalog.artist_of), np.bincount(owner)
        profiles.tell(before)
        old = listeners[before.has_past(listeners, np.ones_like(listeners))]
        known = before.known(owner, tracks, np.ones_like(tracks)) if len(old) else {}
        num_known = {name: np.bincount(owner[one], minlength=len(plays_of)) for name, one in known.items()}
        return {name: float((num[old] / plays_of[old]).mean()) for name, num in num_known.items()}

    def frame(self, heard: Mapping[str, Heard]) -> pd.DataFrame:
        """The mean time of each listener, a row each: `listening.parquet`.

        Args:
            heard: by the name of the part.
        """
        ids = self.world.listeners.user_ids
        parts = [
            pd.DataFrame({"listener": ids[one.listeners], "part": part, "mean_time_per_session": one.time})
            for part, one in heard.items()
        ]
        return pd.concat(parts, ignore_index=True).assign(test=self.digest())

    def _rng(self, number: int) -> np.random.Generator:
        # spawn keys of traffic have one or four numbers (`traffic.py`), therefore its random numbers are others
        return np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=(0, number)))

    def _draws(self, step: int, numbers: Int64[np.ndarray, "S"]) -> Float64[np.ndarray, "3 S"]:
        """Three random numbers for each session at a step."""
        return self._rng(1 + step).random((3, self._num_sessions))[:, numbers]


def uniformly(candidates: Callable[[Crowd], Int[np.ndarray, "S K"]]) -> Recommend:
    """One of the candidates, as `pick=uniform` does: for the listening test.

    Args:
        candidates: those of each session; -1 fills up.
    """

    def recommend(crowd: Crowd, draws: Float64[np.ndarray, "S"]) -> Int64[np.ndarray, "S"]:
        rows = candidates(crowd)
        return draw(shares_of((rows >= 0).astype(np.float64)), rows, draws)[0]

    return recommend


def from_lists(lists: Int[np.ndarray, "N K"]) -> Recommend:
    """A track of the list of the last track, uniformly.

    Args:
        lists: rows of tracks for each track of the world; -1 where a list has ended.
    """
    return uniformly(lambda crowd: lists[crowd.current])


@settings("callbacks.listening")
def references(world: World, *, hits: NumHits, neighbours: NumNearest) -> Mapping[str, Recommend]:
    """What a recommender is compared with: `random` and `popular` as floors, `true_neighbours`, which knows
    the true affinity of every two tracks but is no upper bound.

    Args:
        world: the world of the listeners.

    Raises:
        InputError: a setting is out of range.
    """
    num_tracks, top, near = len(world.catalog), world.top_tracks[:hits], NearestTracks(world.embeddings, neighbours)
    return {
        "random": lambda crowd, draws: uniform_place(draws, num_tracks),  # noqa: ARG005
        "popular": lambda crowd, draws: top[uniform_place(draws, len(top))],  # noqa: ARG005
        "true_neighbours": uniformly(lambda crowd: near.of(crowd.current)),
    }


class RunPlayer:
    """Plays what a run recommends, as it would be served. Its tracks (L) are tracks of the world.

    Args:
        test: of the world that the logs of the run came from.
        catalog: the tracks of the run.
        num_lists: number of last tracks whose lists are searched where the session is the query.
        profiles: what the listeners of the logs have heard; None if that is not known.

    Raises:
        InputError: the catalogue has tracks that the world does not have.
    """

    def __init__(
        self, test: ListeningTest, catalog: Catalog, *, num_lists: int, profiles: Profiles | None = None
    ) -> None:
        self._test, self._rows, self._num_lists = test, test.world.catalog.rows_of(catalog.track_ids), num_lists
        if (self._rows < 0).any():
            raise InputError(
                f"callbacks.listening.world has {len(test.world.catalog)} tracks, and track "
                f"{catalog.track_ids[int((self._rows < 0).argmax())]} of the logs is none of them; name the world that "
                "the logs came from, or leave the listening test out with callbacks.listening=null"
            )
        self._profiles = None if profiles is None else ArmProfiles(profiles, test.world)
        if self._profiles is not None:
            self._profiles.prepare(0, TRACK_MS)

    def play(self, part: str, rows: Int64[np.ndarray, "L K"], vectors: SessionVectors | None) -> Heard:
        """Play the lists of a run.

        Args:
            part: one of PARTS.
            rows: recommendations of each track, best first; -1 where a list has ended.
            vectors: those of a head whose query is the session; None to draw a track from the list of the last one.
        """
        catalog = self._test.world.catalog
        lists = np.full((len(catalog), rows.shape[1]), -1, np.int32)
        lists[self._rows] = np.where(rows >= 0, self._rows[rows], -1)
        if vectors is None:
            return self._test.play(from_lists(lists), part, self._profiles)
        queries, items = np.zeros((2, len(catalog), vectors.queries.shape[1]), np.float32)
        queries[self._rows], items[self._rows] = vectors.queries, vectors.items  # those of unknown tracks are zero
        counted = None if vectors.counted is None else vectors.counted.at_rows(self._rows, len(catalog))
        listener = None if self._profiles is None else vectors.listener
        of_world = replace(vectors, queries=queries, items=items, counted=counted, listener=listener)
        arm = Arm(recommender="lists", context=vectors.context, num_lists=self._num_lists)
        search = SessionSearch(arm, of_world, lists, catalog.artist_of)
        profiles = self._profiles if search.knows_listeners else None

        def candidates(crowd: Crowd) -> Int32[np.ndarray, "S K"]:
            if profiles is not None and len(crowd.tracks) == 1:
                profiles.begin(crowd)
            return session_candidates(search, crowd, profiles, k=rows.shape[1])

        return self._test.play(uniformly(candidates), part, self._profiles)
