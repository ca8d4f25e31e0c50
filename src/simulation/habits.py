"""Habits: what listeners do because of earlier days. Each is off unless it is set, and then nothing else changes.

A track that was heard often is worth less and recovers, favourites return, tastes drift, listeners leave for good after
bad sessions, some days have a hit. S sessions, L earlier plays of each that are remembered.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated

import numpy as np
from jaxtyping import Bool, Float64, Int64

from segue.settings import Setting, settings
from segue.simulation.listener import WHOLE, Crowd
from segue.simulation.world import World
from segue.statistics.discovery import KNOWN

NUM_PLAYS = 200
"""Plays of a listener that habits look at; older ones are forgotten."""
HIT_DAYS = 0.25
"""Share of the days that have a hit."""


@settings("habits")
@dataclass(frozen=True, kw_only=True)
class Habits:
    """What listeners do because of earlier days; a day begins where a day of traffic does."""

    fatigue: Annotated[
        float, Setting("the share played of a track is multiplied by exp(−fatigue · earlier plays)", least=0, most=10)
    ] = 0.0
    recovery_days: Annotated[
        float, Setting("days after which an earlier play tires half as much", above=0, most=1000)
    ] = 7.0
    favourites: Annotated[
        float, Setting("share of the sessions that begin with a track that the listener has loved", least=0, most=1)
    ] = 0.0
    drift: Annotated[
        float, Setting("probability that an interest of a listener moves to a near track overnight", least=0, most=1)
    ] = 0.0
    leaving: Annotated[
        float, Setting("probability to leave for good after a session without a loved recommendation", least=0, most=1)
    ] = 0.0
    hits: Annotated[
        float, Setting("share of the sessions that begin with the hit of their day, if it has one", least=0, most=1)
    ] = 0.0

    @property
    def num_past(self) -> int:
        """Number of earlier plays that are remembered of each listener."""
        return NUM_PLAYS if self.fatigue or self.favourites else 0

    def world_on(self, world: World, day: int) -> World:
        """The world on a day, from 1: its interests have drifted. It does not depend on what was recommended."""
        if not self.drift:
            return world
        known = _newest(world, self.drift)
        first = max((one for one in known if one <= day), default=1)
        now = known.get(first, world)
        for _ in range(first, day):
            now = _next_day(now, self.drift)
        known[day] = now
        if len(known) > 2:
            del known[min(known)]
        return now

    def begin(self, world: World, crowd: Crowd, day: int, draws: Float64[np.ndarray, "2 S"]) -> Crowd:
        """Let some sessions begin with the hit of the day, or with a favourite.

        A favourite is one of the plays of at least 80 % that the listener remembers, each with the same probability;
        the session is then about the interest with the largest affinity to it. A hit changes the first track alone.

        Args:
            draws: uniform in [0, 1); the first ones decide, the second ones choose a favourite.
        """
        hit, interests = hit_of(world, day), world.listeners.interests[crowd.users]
        is_hit = draws[0] < (self.hits if hit >= 0 else 0.0)
        loved = (crowd.past_shares >= KNOWN * WHOLE) & (crowd.past_tracks >= 0)
        num_loved = loved.sum(0)
        returns = ~is_hit & (draws[0] >= 1 - self.favourites) & (num_loved > 0)
        chosen = np.flatnonzero(returns)
        place = (draws[1, chosen] * num_loved[chosen]).astype(np.int64)
        age = (loved[:, chosen].cumsum(0) > place).argmax(0) if len(chosen) else place
        first = np.where(is_hit, hit, crowd.tracks[0])
        first[chosen] = crowd.past_tracks[age, chosen]
        own = interests[chosen]
        affinity = np.einsum("sid,sd->si", world.embeddings[own], world.embeddings[first[chosen]])
        about = own[np.arange(len(chosen)), np.where(own >= 0, affinity, -np.inf).argmax(1)]
        taste = crowd.taste.copy()
        taste[chosen] = world.embeddings[about]
        artists = world.catalog.artist_of[first].astype(np.int32)
        return replace(crowd, taste=taste, tracks=first[None].astype(np.int32), artists=artists[None])

    def worth(self, crowd: Crowd, tracks: Int64[np.ndarray, "S"]) -> Float64[np.ndarray, "S"] | None:
        """What is left of the share that is played of a track which was heard before; None without fatigue.

        exp(−fatigue · Σ share · ½^(age / recovery_days)), over the earlier plays of the track.
        """
        if not self.fatigue:
            return None
        plays, sessions = np.nonzero(crowd.past_tracks == tracks)
        ages = np.maximum(crowd.past_ages[plays, sessions], 0) / self.recovery_days
        tiring = crowd.past_shares[plays, sessions] / WHOLE * 0.5**ages
        return np.asarray(np.exp(-self.fatigue * np.bincount(sessions, tiring, minlength=len(crowd))))

    def leave(self, ended: Crowd, draws: Float64[np.ndarray, "S"]) -> Bool[np.ndarray, "S"]:
        """Which listeners leave for good.

        Args:
            draws: uniform in [0, 1).
        """
        is_bad = ~(ended.shares[1:] >= KNOWN * WHOLE).any(0)
        return np.asarray(is_bad & (draws < self.leaving))


def hit_of(world: World, day: int) -> int:
    """Row of the hit of a day, which is any track; -1 if the day has none."""
    rng = np.random.default_rng(np.random.SeedSequence(len(world.catalog), spawn_key=(1, day)))
    return int(rng.integers(len(world.catalog))) if rng.random() < HIT_DAYS else -1


@lru_cache(maxsize=2)
def _newest(world: World, drift: float) -> dict[int, World]:  # noqa: ARG001 - a key of the cache
    """The world on the two days that were asked for last."""
    return {1: world}


def _next_day(before: World, drift: float) -> World:
    """Each interest moves to one of the tracks from which its sessions begin, with the probability `drift`."""
    people, rng = before.listeners, np.random.default_rng(int(before.digest(), 16))
    number_of, neighbours = before.interest_neighbours
    moves, draws = rng.random((2, *people.interests.shape))
    place = (draws * people.num_neighbours[:, None]).astype(np.int64)
    near = neighbours[number_of[people.interests], place]
    interests = np.where((moves < drift) & (people.interests >= 0), near, people.interests)
    return replace(before, listeners=replace(people, interests=interests))
