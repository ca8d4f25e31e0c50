"""Traffic: the sessions of a day, simulated by one or several processes with the same result.

The listeners of an arm are divided into *shards*. The sessions of a shard are simulated in *waves*; in one wave each
listener has at most one session. A few waves are a *task*, with its own random numbers.
V sessions, E plays of a track, U listeners, W waves.
"""

import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import groupby, pairwise, zip_longest
from multiprocessing import get_context
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int32, Int64, UInt8

from segue.assignment import treatments
from segue.errors import InputError
from segue.runs.profiles import DAY_MS
from segue.simulation.habits import Habits
from segue.simulation.listener import Crowd, listen, start
from segue.simulation.memory import Memory
from segue.simulation.policies import Policy
from segue.simulation.world import World

SHARD = 1024
"""Largest number of listeners of a shard: enough for fast arrays, few enough to give every core a shard."""

TASK = 4 * SHARD
"""Approximate number of sessions of a task."""

MAX_TASKS_TOGETHER = 32
"""Largest number of tasks whose sessions are in the same arrays, which reduces the fixed cost of a step."""

NO_HABITS = Habits()

EVENTS: dict[str, Any] = {"tracks": np.int32, "shares": np.uint8, "propensities": np.float64}
"""Columns of `Plays` with an entry for each track, and their types."""

_NO_WAVE = np.iinfo(np.int64).max  # more than anyone visits


@dataclass(frozen=True, eq=False, kw_only=True)
class Plays:
    """Completed sessions (V) and the tracks played in them (E), session after session.

    Args:
        users: row of the listener of each session.
        visits: number of each session among those of its listener on this day, from 0.
        lengths: number of tracks of each session.
        hundredths: sum of the shares played in each session, in hundredths.
        tracks: row of each track; empty if events are not kept.
        shares: share played of each track, in hundredths, 0 to 100; empty if events are not kept.
        propensities: probability with which each track was recommended; NaN for the first track of a session and where
            it is not known; empty if events are not kept.
    """

    users: Int64[np.ndarray, "V"]
    visits: Int64[np.ndarray, "V"]
    lengths: Int64[np.ndarray, "V"]
    hundredths: Int64[np.ndarray, "V"]
    tracks: Int32[np.ndarray, "E"]
    shares: UInt8[np.ndarray, "E"]
    propensities: Float64[np.ndarray, "E"]

    @classmethod
    def join(cls, parts: Sequence["Plays"]) -> "Plays":
        """Concatenate sessions.

        Args:
            parts: may be empty.
        """
        none = {name: np.empty(0, EVENTS.get(name, np.int64)) for name in cls.__dataclass_fields__}
        return cls(
            **{name: np.concatenate([one, *(getattr(part, name) for part in parts)]) for name, one in none.items()}
        )

    @classmethod
    def of(
        cls, crowd: Crowd, visits: Int64[np.ndarray, "V"], propensities: Sequence[Float64[np.ndarray, "P"]]
    ) -> "Plays":
        """The sessions of a crowd.

        Args:
            crowd: sessions that have ended.
            visits: number of each session among those of its listener on this day, shape `[V]`.
            propensities: for each track, its probability in each session at the first step (P), at `crowd.place`; empty
                if the single tracks are not kept.
        """
        known = np.array([of_step[crowd.place] for of_step in propensities]).reshape(-1, len(crowd))
        events = (column[: len(known)].T.ravel() for column in (crowd.tracks, crowd.shares, known))
        return cls(
            users=crowd.users,
            visits=visits,
            lengths=np.full(len(crowd), len(crowd.tracks)),
            hundredths=crowd.shares.sum(0, dtype=np.int64),
            **dict(zip(EVENTS, events, strict=True)),
        )


@dataclass(frozen=True, kw_only=True)
class Task:
    """Some waves of a shard.

    Args:
        arm: number of the arm.
        users: row of each listener of the shard.
        num_visits: number of sessions of each listener on this day, over all tasks of the shard.
        waves: the waves of this task; wave n has session n of each listener with more than n sessions, from 0.
        seed: of the run.
        key: distinguishes the random numbers of this task from those of all others of the run.
        day: its number; says how long ago earlier plays were.
        starts: planned start of the session of each listener in each of these waves, as a share of the day, and any
            number where there is no session; of no waves without a plan.
    """

    arm: int
    users: Int64[np.ndarray, "U"]
    num_visits: Int64[np.ndarray, "U"]
    waves: range
    seed: int
    key: tuple[int, ...]
    day: int = 1
    starts: Float64[np.ndarray, "W U"] | None = None


def planned_ms(starts: Float64[np.ndarray, "S"]) -> Int64[np.ndarray, "S"]:
    """Shares of a day in milliseconds.

    Args:
        starts: in [0, 1).
    """
    return (starts * DAY_MS).astype(np.int64)


def play(
    world: World,
    policy: Policy,
    tasks: Sequence[Task],
    *,
    keep_events: bool,
    memory: Memory | None = None,
    midnight: int = 0,
    habits: Habits = NO_HABITS,
) -> Iterator[Plays]:
    """Simulate the sessions of tasks together.

    The result of a task does not depend on the other tasks, because each has its own random numbers.

    Args:
        world: the world of the listeners.
        policy: the recommender; more than one task requires that it `is_stateless`.
        tasks: the tasks.
        keep_events: whether the single tracks are kept, with their propensities.
        memory: what the listeners of the world have played; it is changed. None for nothing.
        midnight: start of the day, in milliseconds since 1970.
        habits: what the listeners do because of earlier days.

    Yields:
        Sessions that have ended, step by step.
    """
    memory, day = memory or Memory.empty(len(world.listeners), 0), tasks[0].day
    seeds = (np.random.SeedSequence(task.seed, spawn_key=task.key).spawn(2) for task in tasks)
    listener_rngs, policy_rngs = zip(*(map(np.random.default_rng, pair) for pair in seeds), strict=True)
    for wave, visits in enumerate(zip_longest(*(task.waves for task in tasks), fillvalue=_NO_WAVE)):
        present = [
            np.flatnonzero((task.num_visits > visit) & ~memory.has_left[task.users])
            for task, visit in zip(tasks, visits, strict=True)
        ]
        sizes = [len(places) for places in present]
        firsts = np.cumsum([0, *sizes])
        users, planned = np.empty(firsts[-1], np.int64), np.zeros(firsts[-1], np.int64)
        draws = np.concatenate([rng.random((2, size)) for rng, size in zip(listener_rngs, sizes, strict=True)], axis=1)
        for task, places, (first, end) in zip(tasks, present, pairwise(firsts.tolist()), strict=True):
            users[first:end] = task.users[places]
            if task.starts is not None and first < end:
                planned[first:end] = midnight + planned_ms(task.starts[wave, places])
        crowd = start(world, users, draws[0], draws[1], memory.past(users, day), planned)
        visit_of = np.repeat(visits, sizes)
        policy.begin(crowd, policy_rngs[0])
        propensities = [np.full(len(crowd), np.nan)] if keep_events else []
        while len(crowd):
            parts = pairwise(np.searchsorted(crowd.place, firsts).tolist())
            tracks, (chances, boredom_draws) = np.empty(len(crowd), np.int64), np.empty((2, len(crowd)))
            for (first, end), listener_rng, policy.rng in zip(parts, listener_rngs, policy_rngs, strict=True):
                if first < end:
                    tracks[first:end], chances[first:end] = policy.recommend(crowd.part(first, end))
                    listener_rng.random(out=boredom_draws[first:end])
            if keep_events:
                propensities.append(np.empty(len(users)))
                propensities[-1][crowd.place] = chances
            crowd = listen(world, crowd, tracks, boredom_draws, habits.worth(crowd, tracks))
            if not (has_ended := crowd.budget <= 0).any():
                continue
            ended, crowd = crowd.where(has_ended), crowd.where(~has_ended)
            policy.finish(ended)
            if memory.plays.size:
                lengths = np.full(len(ended), len(ended.tracks))
                memory.add(ended.users, lengths, ended.tracks.T.ravel(), ended.shares.T.ravel(), day)
            if habits.leaving:
                nums = np.diff(np.searchsorted(ended.place, firsts)).tolist()
                draws_of = [rng.random(num) for rng, num in zip(listener_rngs, nums, strict=True)]
                memory.has_left[ended.users] |= habits.leave(ended, np.concatenate(draws_of))
            yield Plays.of(ended, visit_of[ended.place], propensities)


@dataclass(frozen=True, kw_only=True)
class Day:
    """The plan of one day of an experiment.

    Args:
        day: its number, from 1.
        arm_of: number of the arm of each listener of the world.
        num_visits: number of sessions of each listener.
        starts: planned start of each session, as a share of the day in [0, 1); sorted by listener, then by time.
        shards: the tasks of each shard; the tasks of one shard are played in order.
    """

    day: int
    arm_of: Int64[np.ndarray, "U"]
    num_visits: Int64[np.ndarray, "U"]
    starts: Float64[np.ndarray, "V"]
    shards: list[list[Task]]

    @classmethod
    def plan(cls, world: World, *, day: int, sessions: int, experiment: str, arms: Sequence[str], seed: int) -> "Day":
        """Draw the listeners and the start times of a day.

        Args:
            world: the world of the listeners.
            day: number of the day, from 1; each day has its own random numbers.
            sessions: number of sessions over all arms; listeners are drawn with replacement.
            experiment: name of the experiment; with the listener it decides the arm.
            arms: names of the arms.
            seed: of the run.

        Raises:
            InputError: an arm has no listener.
        """
        people = world.listeners
        arm_of = treatments(people.user_ids, experiment=experiment, num_arms=len(arms))
        if empty := sorted(set(range(len(arms))) - set(arm_of.tolist())):
            raise InputError(
                f"arm {arms[empty[0]]} has none of the {len(people)} listeners of this world in experiment "
                f"{experiment!r}; use fewer arms or a larger world"
            )
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(day,)))
        visitors = np.sort(rng.integers(len(people), size=sessions))
        starts = rng.random(sessions)
        starts = starts[np.lexsort((starts, visitors))]
        num_visits = np.bincount(visitors, minlength=len(people))
        first_visit, shards = num_visits.cumsum() - num_visits, list[list[Task]]()
        for arm in range(len(arms)):
            users = np.flatnonzero((arm_of == arm) & (num_visits > 0))
            for number, part in enumerate(np.array_split(users, -(-len(users) // SHARD)) if len(users) else []):
                of_shard: dict[str, Any] = {"arm": arm, "users": part, "num_visits": num_visits[part], "seed": seed}
                every, step, tasks = range(int(num_visits[part].max())), max(1, TASK // len(part)), list[Task]()
                for waves in (every[first : first + step] for first in every[::step]):
                    places = (first_visit[part] + np.array(waves)[:, None]).clip(max=sessions - 1)
                    key = (day, arm, number, waves[0])
                    tasks.append(Task(**of_shard, waves=waves, key=key, day=day, starts=starts[places]))
                shards.append(tasks)
        return cls(day=day, arm_of=arm_of, num_visits=num_visits, starts=starts, shards=shards)

    def in_order(self, plays: Plays) -> Plays:
        """Sort the sessions of the day into an order that does not depend on the number of workers.

        Args:
            plays: the sessions, in any order.
        """
        shard_of = np.zeros(len(self.arm_of), np.int64)
        for number, tasks in enumerate(self.shards):
            shard_of[tasks[0].users] = number
        order = np.lexsort((plays.users, plays.lengths, plays.visits, shard_of[plays.users]))
        lengths = plays.lengths[order]
        shift = (plays.lengths.cumsum() - plays.lengths)[order] - (lengths.cumsum() - lengths)
        listens, columns = np.arange(len(plays.tracks)) + shift.repeat(lengths), vars(plays).items()
        return Plays(**{name: column.take(listens if name in EVENTS else order) for name, column in columns})


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of some tasks of one arm.

    Args:
        arm: number of the arm.
        plays: the completed sessions.
        fallbacks: number of recommendations that were random because the policy had nothing to recommend.
        problem: message of the error that stopped the policy; None without one.
    """

    arm: int
    plays: Plays
    fallbacks: int
    problem: str | None


class _Known(NamedTuple):
    """What is known of some listeners, as another process needs it: their memory, and their profiles in an arm."""

    arm: int
    users: Int64[np.ndarray, "u"]
    memory: Memory
    profiles: Mapping[int, np.ndarray]


class Players:
    """Simulates shards, in this process or in a pool of processes.

    Args:
        world: the world of the listeners.
        policies: the policy of each arm.
        workers: number of processes; with 1 this process simulates.
        keep_events: whether the single tracks are kept, with their propensities.
        memory: what the listeners have played before; None if nothing depends on it. It is kept up to date.
        habits: what the listeners do because of earlier days.
    """

    def __init__(
        self,
        world: World,
        policies: Sequence[Policy],
        *,
        workers: int,
        keep_events: bool,
        memory: Memory | None = None,
        habits: Habits = NO_HABITS,
    ) -> None:
        self._world, self._policies, self._workers, self._pool = world, policies, workers, None
        self._memory = memory or Memory.empty(len(world.listeners), 0)
        self._how: dict[str, Any] = {"keep_events": keep_events, "memory": self._memory, "habits": habits}
        self._goes_on = bool(self._memory.plays.size or habits.leaving)  # a session depends on those before it
        if workers > 1:
            each = Players(world, policies, workers=1, **self._how)
            self._pool = ProcessPoolExecutor(workers, get_context("spawn"), _init_worker, (each,))

    def __enter__(self) -> "Players":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        for policy in self._policies:
            policy.close()

    def play(self, shards: Sequence[Sequence[Task]], midnight: int = 0) -> Iterator[Outcome]:
        """Simulate shards.

        Args:
            shards: the tasks of each shard. They are simulated in order, or together if the policy `is_stateless`.
            midnight: start of their day, in milliseconds since 1970.

        Yields:
            The result of some tasks of one arm, as soon as they are complete.
        """
        chains = list(self._chains(shards))
        if self._pool is None:
            yield from (self.outcome([tasks], midnight) for chain in chains for tasks in chain)
            return
        # the processes start here, and inherit that Ctrl-C is blocked: this one gets it
        previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            running = []
            for chain in chains:
                known = self.known(chain[0][0].arm, np.concatenate([task.users for task in chain[0]]))
                running.append(self._pool.submit(_play_in_worker, chain, midnight, known))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, previous)
        for done in as_completed(running):
            outcome, known = done.result()
            self.learn(known)
            yield outcome

    def known(self, arm: int, users: Int64[np.ndarray, "u"]) -> _Known:
        """What is known of some listeners of an arm."""
        profiles = self._policies[arm].profiles
        return _Known(arm, users, self._memory.of(users), profiles.remembered(users.tolist()) if profiles else {})

    def learn(self, known: _Known) -> None:
        """Replace what is known of some listeners of an arm."""
        self._memory.put(known.users, known.memory)
        if profiles := self._policies[known.arm].profiles:
            profiles.remember(known.profiles)

    def outcome(self, chain: Sequence[Sequence[Task]], midnight: int) -> Outcome:
        """Simulate a chain of batches in this process."""
        arm, parts, problem = chain[0][0].arm, list[Plays](), None
        policy, num_before = self._policies[arm], self._policies[arm].fallbacks
        try:
            for tasks in chain:
                parts.extend(play(self._world, policy, tasks, **self._how, midnight=midnight))
        except InputError as error:
            problem = str(error)
        return Outcome(arm=arm, plays=Plays.join(parts), fallbacks=policy.fallbacks - num_before, problem=problem)

    def _chains(self, shards: Sequence[Sequence[Task]]) -> Iterator[list[list[Task]]]:
        """Chains of batches: the tasks of a batch are simulated together, the batches of a chain one after another.

        With memory the tasks of a shard are in different batches, because each begins where the one before it ended.
        """
        for arm, of_arm in groupby(shards, key=lambda shard: shard[0].arm):
            own, size = list(of_arm), 1
            if self._policies[arm].is_stateless:
                if not self._goes_on:
                    own = [[task] for shard in own for task in shard]
                size = min(MAX_TASKS_TOGETHER, -(-len(own) // self._workers))
            for first in range(0, len(own), size):
                batches = zip_longest(*own[first : first + size])
                yield [[task for task in batch if task is not None] for batch in batches]


_players: Players  # of a process of the pool


def _init_worker(players: Players) -> None:
    global _players
    _players = players


def _play_in_worker(chain: list[list[Task]], midnight: int, known: _Known) -> tuple[Outcome, _Known]:
    _players.learn(known)
    return _players.outcome(chain, midnight), _players.known(known.arm, known.users)
