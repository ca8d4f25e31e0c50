"""Traffic: the sessions of a day, simulated by one or several processes with the same result.

The listeners of an arm are divided into *shards*. The sessions of a shard are simulated in *waves*; in one wave each
listener has at most one session. A few waves are a *task*, with its own random numbers.
V sessions, E plays of a track, U listeners.
"""

import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby, pairwise, zip_longest
from multiprocessing import get_context
from typing import Any

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
        empty = {name: np.empty(0, EVENTS.get(name, np.int64)) for name in cls.__dataclass_fields__}
        return cls(
            **{name: np.concatenate([none, *(getattr(one, name) for one in parts)]) for name, none in empty.items()}
        )

    @classmethod
    def of(
        cls,
        crowd: Crowd,
        visits: Int64[np.ndarray, "V"],
        propensities: Sequence[Float64[np.ndarray, "P"]] = (),
        *,
        keep_events: bool,
    ) -> "Plays":
        """The sessions of a crowd.

        Args:
            crowd: sessions that have ended.
            visits: number of each session among those of its listener on this day, shape `[V]`.
            propensities: for each recommendation, the probability of that of each session at the first step (P), at
                `crowd.place`; empty if they are not known.
            keep_events: whether the single tracks are kept.
        """
        events = {name: np.empty(0, kind) for name, kind in EVENTS.items()}
        if keep_events:
            known = np.full(crowd.tracks.shape, np.nan)
            for step, of_step in enumerate(propensities, start=1):
                known[step] = of_step[crowd.place]
            events = dict(
                zip(EVENTS, (column.T.ravel() for column in (crowd.tracks, crowd.shares, known)), strict=True)
            )
        return cls(
            users=crowd.users,
            visits=visits,
            lengths=np.full(len(crowd), len(crowd.tracks)),
            hundredths=crowd.shares.sum(0, dtype=np.int64),
            **events,
        )


EVENTS: dict[str, Any] = {"tracks": np.int32, "shares": np.uint8, "propensities": np.float64}
"""Columns of `Plays` with an entry for each track, and their types."""


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
        starts: planned start of each session of the shard, as a share of the day; those of a listener one after
            another. None without a plan.
    """

    arm: int
    users: Int64[np.ndarray, "U"]
    num_visits: Int64[np.ndarray, "U"]
    waves: range
    seed: int
    key: tuple[int, ...]
    day: int = 1
    starts: Float64[np.ndarray, "V"] | None = None

    def starts_ms(self, listeners: Int64[np.ndarray, "S"], visit: int, midnight: int) -> Int64[np.ndarray, "S"]:
        """Planned start of a session of some listeners, in milliseconds since 1970.

        Args:
            listeners: their places in `users`.
            visit: number of the session among those of the day, from 0.
            midnight: start of the day.
        """
        if self.starts is None:
            return np.zeros(len(listeners), np.int64)
        first = self.num_visits.cumsum() - self.num_visits
        return planned_ms(self.starts[first[listeners] + visit]) + midnight


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
    with_propensity: bool,
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
        keep_events: whether the single tracks are kept.
        with_propensity: whether the probability of each recommendation is kept.
        memory: what the listeners of the tasks have played, a row each, in the order of the tasks; it is changed.
        midnight: start of the day, in milliseconds since 1970.
        habits: what the listeners do because of earlier days.

    Yields:
        Sessions that have ended, step by step.
    """
    seeds = (np.random.SeedSequence(task.seed, spawn_key=task.key).spawn(2) for task in tasks)
    listener_rngs, policy_rngs = zip(*(map(np.random.default_rng, pair) for pair in seeds), strict=True)
    first_rows = np.cumsum([0, *(len(task.users) for task in tasks)])
    day, world = tasks[0].day, habits.world_on(world, tasks[0].day)
    for visits in zip_longest(*(task.waves for task in tasks), fillvalue=np.iinfo(np.int64).max):
        present = [np.flatnonzero(task.num_visits > visit) for task, visit in zip(tasks, visits, strict=True)]
        if memory is not None and memory.has_left.any():
            spans = zip(first_rows, present, strict=False)
            present = [places[~memory.has_left[first + places]] for first, places in spans]
        sizes = np.array([len(places) for places in present])
        rows = np.concatenate([first + places for first, places in zip(first_rows, present, strict=False)])
        users = np.concatenate([task.users[places] for task, places in zip(tasks, present, strict=True)])
        firsts = np.concatenate([[0], sizes.cumsum()])
        draws = [(rng.random(size), rng.random(size)) for rng, size in zip(listener_rngs, sizes.tolist(), strict=True)]
        past = None if memory is None else memory.past(rows, day)
        planned = (task.starts_ms(places, n, midnight) for task, places, n in zip(tasks, present, visits, strict=True))
        started_ms = np.concatenate(list(planned))
        interest_draws, first_draws = map(np.concatenate, zip(*draws, strict=True))
        crowd = start(world, users, interest_draws, first_draws, past, started_ms)
        if habits.favourites or habits.hits:
            chosen = [rng.random((2, size)) for rng, size in zip(listener_rngs, sizes.tolist(), strict=True)]
            crowd = habits.begin(world, crowd, day, np.concatenate(chosen, axis=1))
        visit_of = np.repeat(visits, sizes)
        policy.begin(crowd, policy_rngs[0])
        num_sessions, propensities = len(crowd), list[Float64[np.ndarray, "P"]]()
        while len(crowd):
            parts = pairwise(np.searchsorted(crowd.place, firsts).tolist())
            tracks, (chances, boredom_draws) = np.empty(len(crowd), np.int64), np.empty((2, len(crowd)))
            for (first, end), listener_rng, policy.rng in zip(parts, listener_rngs, policy_rngs, strict=True):
                if first < end:
                    tracks[first:end], chances[first:end] = policy.recommend(crowd.part(first, end))
                    listener_rng.random(out=boredom_draws[first:end])
            if with_propensity:
                propensities.append(np.empty(num_sessions))
                propensities[-1][crowd.place] = chances
            crowd = listen(world, crowd, tracks, boredom_draws, habits.worth(crowd, tracks))
            if (has_ended := crowd.budget <= 0).any():
                ended = crowd.where(has_ended)
                policy.finish(ended)
                if memory is not None:
                    lengths = np.full(len(ended), len(ended.tracks))
                    memory.add(rows[ended.place], lengths, ended.tracks.T.ravel(), ended.shares.T.ravel(), day)
                    if habits.leaving:
                        nums = np.diff(np.searchsorted(ended.place, firsts)).tolist()
                        draws_of = [rng.random(num) for rng, num in zip(listener_rngs, nums, strict=True)]
                        memory.has_left[rows[ended.place]] |= habits.leave(ended, np.concatenate(draws_of))
                yield Plays.of(ended, visit_of[ended.place], propensities, keep_events=keep_events)
                crowd = crowd.where(~has_ended)


@dataclass(frozen=True, kw_only=True)
class TaskOutcome:
    """The result of some tasks of one arm.

    Args:
        arm: number of the arm.
        plays: the completed sessions.
        fallbacks: number of recommendations that were random because the policy had nothing to recommend.
        problem: message of the error that stopped the policy; None without one.
        memory: what the listeners of the tasks have played now; None without memory.
        remembered: what the policy remembers of them now; see `Policy.remembered`.
    """

    arm: int
    plays: Plays
    fallbacks: int
    problem: str | None
    memory: Memory | None
    remembered: Mapping[int, np.ndarray]


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
        first_visit = num_visits.cumsum() - num_visits
        shards = []
        for arm in range(len(arms)):
            users = np.flatnonzero((arm_of == arm) & (num_visits > 0))
            for number, part in enumerate(np.array_split(users, -(-len(users) // SHARD)) if len(users) else []):
                waves, step = range(int(num_visits[part].max())), max(1, TASK // len(part))
                of_shard: dict[str, Any] = {"arm": arm, "users": part, "num_visits": num_visits[part], "seed": seed}
                first = first_visit[part] - (num_visits[part].cumsum() - num_visits[part])
                of_shard["starts"] = starts[first.repeat(num_visits[part]) + np.arange(num_visits[part].sum())]
                tasks = ((waves[first : first + step], (day, arm, number, first)) for first in waves[::step])
                shards.append([Task(**of_shard, waves=some, key=key, day=day) for some, key in tasks])
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


@contextmanager
def delayed_interrupt() -> Iterator[None]:
    """Delay Ctrl-C until the end of the block, for example until a file is complete."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    interrupts: list[int] = []
    previous = signal.signal(signal.SIGINT, lambda number, _: interrupts.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
    if interrupts:
        raise KeyboardInterrupt


class Players:
    """Simulates shards, in this process or in a pool of processes.

    Args:
        world: the world of the listeners.
        policies: the policy of each arm.
        workers: number of processes; with 1 this process simulates.
        keep_events: whether the single tracks are kept.
        with_propensity: whether the probability of each recommendation is computed; needs the single tracks.
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
        with_propensity: bool,
        memory: Memory | None = None,
        habits: Habits = NO_HABITS,
    ) -> None:
        with_propensity = keep_events and with_propensity
        kept = {"keep_events": keep_events, "with_propensity": with_propensity, "habits": habits}
        self._policies, self._workers, self._memory = policies, workers, memory
        _ = world.interest_neighbours  # computed once here, not in every process
        self._play = partial(_play_tasks, world, policies, kept)
        self._pool: ProcessPoolExecutor | None = None
        if workers > 1:
            context = get_context("spawn")
            self._pool = ProcessPoolExecutor(workers, context, initializer=_init_worker, initargs=(self._play,))

    def __enter__(self) -> "Players":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._pool is not None:
                with delayed_interrupt():  # a pool that is shut down in part prints a traceback when Python ends
                    self._pool.shutdown(wait=True, cancel_futures=True)
        finally:
            for policy in self._policies:
                policy.close()

    def play(self, shards: Sequence[Sequence[Task]], midnight: int = 0) -> Iterator[TaskOutcome]:
        """Simulate shards.

        Args:
            shards: the tasks of each shard. They are simulated in order, or together if the policy `is_stateless`.
            midnight: start of their day, in milliseconds since 1970.

        Yields:
            The result of some tasks of one arm, as soon as they are complete.
        """
        rows = self._rows(shards)
        if self._pool is None:
            for some in zip_longest(*rows):
                for tasks in some:
                    if tasks is not None:
                        yield self._remember(tasks, self._play(tasks, midnight, *self._memory_of(tasks)))
            return
        running = {self._submit(tasks := next(row), midnight): (tasks, row) for row in map(iter, rows)}
        while running:
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                tasks, row = running.pop(done)
                outcome = self._remember(tasks, done.result())
                if following := next(row, None):
                    running[self._submit(following, midnight)] = following, row
                yield outcome

    def _memory_of(self, tasks: Sequence[Task]) -> tuple[Memory | None, Mapping[int, np.ndarray]]:
        users = _users_of(tasks)
        memory = None if self._memory is None else self._memory.of(users)
        return memory, self._policies[tasks[0].arm].remembered(users)

    def _remember(self, tasks: Sequence[Task], outcome: TaskOutcome) -> TaskOutcome:
        if self._memory is not None and outcome.memory is not None:
            self._memory.put(_users_of(tasks), outcome.memory)
        self._policies[outcome.arm].remember(outcome.remembered)
        return outcome

    def _rows(self, shards: Sequence[Sequence[Task]]) -> list[list[list[Task]]]:
        """Rows of batches: the tasks of a batch are simulated together, the batches of a row one after another.

        With memory the tasks of a shard are in different batches, because each begins where the one before it ended.
        """
        rows = []
        for arm, of_arm in groupby(shards, key=lambda shard: shard[0].arm):
            if self._policies[arm].is_stateless and self._memory is not None:
                own = list(of_arm)
                size = min(MAX_TASKS_TOGETHER, -(-len(own) // self._workers))
                for some in (own[first : first + size] for first in range(0, len(own), size)):
                    rows.append([[task for task in batch if task is not None] for batch in zip_longest(*some)])
            elif self._policies[arm].is_stateless:
                tasks = [task for shard in of_arm for task in shard]
                size = min(MAX_TASKS_TOGETHER, -(-len(tasks) // self._workers))
                rows += [[tasks[first : first + size]] for first in range(0, len(tasks), size)]
            else:
                rows += [[[task] for task in shard] for shard in of_arm]
        return rows

    def _submit(self, tasks: list[Task], midnight: int) -> Future[TaskOutcome]:
        """Give tasks to the pool. Its processes start here, and inherit that Ctrl-C is blocked: this one gets it."""
        assert self._pool is not None
        previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return self._pool.submit(_play_in_worker, tasks, midnight, *self._memory_of(tasks))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _users_of(tasks: Sequence[Task]) -> Int64[np.ndarray, "U"]:
    return np.concatenate([task.users for task in tasks])


def _play_tasks(
    world: World,
    policies: Sequence[Policy],
    kept: Mapping[str, Any],
    tasks: Sequence[Task],
    midnight: int,
    memory: Memory | None,
    remembered: Mapping[int, np.ndarray],
) -> TaskOutcome:
    policy, parts, problem = policies[tasks[0].arm], list[Plays](), None
    num_before = policy.fallbacks
    policy.remember(remembered)
    try:
        parts.extend(play(world, policy, tasks, **kept, memory=memory, midnight=midnight))
    except InputError as error:
        problem = str(error)
    return TaskOutcome(
        arm=tasks[0].arm,
        plays=Plays.join(parts),
        fallbacks=policy.fallbacks - num_before,
        problem=problem,
        memory=memory,
        remembered=policy.remembered(_users_of(tasks)),
    )


_PlayTasks = Callable[[Sequence[Task], int, Memory | None, Mapping[int, np.ndarray]], TaskOutcome]

_play_here: _PlayTasks  # simulates tasks, in a process of the pool


def _init_worker(play_tasks: _PlayTasks) -> None:
    global _play_here
    _play_here = play_tasks


def _play_in_worker(
    tasks: list[Task], midnight: int, memory: Memory | None, remembered: Mapping[int, np.ndarray]
) -> TaskOutcome:
    return _play_here(tasks, midnight, memory, remembered)
