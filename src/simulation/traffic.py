"""Traffic: the sessions of a day, played by one process or many, the same whatever their number.

The listeners of an arm are dealt into *shards*. A shard plays its listeners' sessions in waves, each listener at most
one session a wave; a few waves are a *task*, with random numbers of its own. V sessions, E listens, U listeners.
"""

import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby, pairwise, zip_longest
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from typing import Any

import numpy as np
from jaxtyping import Float64, Int32, Int64, UInt8

from src.assignment import treatments
from src.errors import InputError
from src.simulation.listener import Crowd, listen, start
from src.simulation.policies import Policy
from src.simulation.world import World

SHARD = 1024
"""Listeners of a shard at most: enough for arrays to pay, few enough for every core to get some."""

TASK = 4 * SHARD
"""Sessions of a task, about: seconds of a service, a moment of anything else."""

SIDE_BY_SIDE = 32
"""Tasks whose sessions share arrays at most: what a step costs besides its sessions is shared as well."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Plays:
    """Sessions that were played to their end, and their listens one after another.

    Args:
        users: row of the listener of each session.
        visits: which of the listener's sessions of the day it is, from 0.
        lengths: how many tracks it has.
        hundredths: sum of the shares played in it.
        tracks: row of the track of each listen, session after session; empty where events are not kept.
        shares: share played in each listen, in hundredths; empty where events are not kept.
    """

    users: Int64[np.ndarray, "V"]
    visits: Int64[np.ndarray, "V"]
    lengths: Int64[np.ndarray, "V"]
    hundredths: Int64[np.ndarray, "V"]
    tracks: Int32[np.ndarray, "E"]
    shares: UInt8[np.ndarray, "E"]

    @classmethod
    def join(cls, parts: Sequence["Plays"]) -> "Plays":
        """One after another."""
        return cls(
            **{
                name: np.concatenate([getattr(part, name) for part in parts])
                if parts
                else np.empty(0, EVENTS.get(name, np.int64))
                for name in cls.__dataclass_fields__
            }
        )

    @classmethod
    def of(cls, crowd: Crowd, visits: Int64[np.ndarray, "V"], *, keep_events: bool) -> "Plays":
        """Sessions of a crowd as they stand; `visits` as above."""
        return cls(
            users=crowd.users,
            visits=visits,
            lengths=np.full(len(crowd), len(crowd.tracks)),
            hundredths=crowd.shares.sum(0, dtype=np.int64),
            tracks=crowd.tracks.T.ravel() if keep_events else np.empty(0, np.int32),
            shares=crowd.shares.T.ravel() if keep_events else np.empty(0, np.uint8),
        )

    def sorted_by(self, *keys: Int64[np.ndarray, "V"]) -> "Plays":
        """The same sessions in another order: by the last key first, as `np.lexsort` has it."""
        order = np.lexsort(keys)
        lengths = self.lengths[order]
        ends = lengths.cumsum()
        listens = np.arange(len(self.tracks)) + np.repeat(
            (self.lengths.cumsum() - self.lengths)[order] - (ends - lengths), lengths
        )
        columns = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return Plays(**{name: column.take(listens if name in EVENTS else order) for name, column in columns.items()})

    @property
    def num_steps(self) -> int:
        """How many recommendations were played: every track but the first of each session."""
        return int(self.lengths.sum()) - len(self.lengths)


EVENTS: dict[str, Any] = {"tracks": np.int32, "shares": np.uint8}
"""Columns of plays with an entry for each listen, and their types."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """Some waves of a shard.

    Args:
        arm: number of the arm.
        users: rows of the listeners.
        num_visits: sessions of each on this day, over all tasks of the shard.
        waves: which of them this task plays; in wave n everybody who has that many plays their session n, from 0.
        seed: of the run.
        key: sets the random numbers of this task apart from all others of the run.
    """

    arm: int
    users: Int64[np.ndarray, "U"]
    num_visits: Int64[np.ndarray, "U"]
    waves: range
    seed: int
    key: tuple[int, ...]


def play(world: World, policy: Policy, tasks: Sequence[Task], *, keep_events: bool) -> Iterator[Plays]:
    """Play tasks side by side; yields whenever sessions have ended.

    What a task comes to does not depend on those beside it: each has its own random numbers, in its own order.

    Args:
        world: where the listeners live.
        policy: recommends; several tasks are for those that are `side_by_side`.
        tasks: whose sessions, and which.
        keep_events: whether the single listens are wanted.
    """
    own = [np.random.SeedSequence(task.seed, spawn_key=task.key).spawn(2) for task in tasks]
    listener_rngs, policy_rngs = zip(
        *((np.random.default_rng(a), np.random.default_rng(b)) for a, b in own), strict=True
    )
    for visits in zip_longest(*(task.waves for task in tasks)):
        present = [
            task.users[:0] if visit is None else task.users[task.num_visits > visit]
            for task, visit in zip(tasks, visits, strict=True)
        ]
        sizes = np.array([len(users) for users in present])
        firsts = np.concatenate([[0], sizes.cumsum()])
        draws = [(rng.random(size), rng.random(size)) for rng, size in zip(listener_rngs, sizes.tolist(), strict=True)]
        crowd = start(world, np.concatenate(present), *map(np.concatenate, zip(*draws, strict=True)))
        visit_of = np.repeat([0 if visit is None else visit for visit in visits], sizes)
        policy.begin(crowd, policy_rngs[0])
        while len(crowd):
            bounds = np.searchsorted(crowd.place, firsts).tolist()
            tracks, boredom_draws = np.empty(len(crowd), np.int64), np.empty(len(crowd))
            for (first, end), listener_rng, policy.rng in zip(
                pairwise(bounds), listener_rngs, policy_rngs, strict=True
            ):
                if first < end:
                    tracks[first:end] = policy.recommend(crowd.part(first, end))
                    listener_rng.random(out=boredom_draws[first:end])
            crowd = listen(world, crowd, tracks, boredom_draws)
            if (over := crowd.budget <= 0).any():
                ended = crowd.where(over)
                policy.finish(ended)
                yield Plays.of(ended, visit_of[ended.place], keep_events=keep_events)
                crowd = crowd.where(~over)


@dataclass(frozen=True, kw_only=True)
class TaskOutcome:
    """What became of tasks: their sessions, how often the policy left a choice to chance, and what stopped it."""

    arm: int
    plays: Plays
    fallbacks: int
    problem: str | None


@dataclass(frozen=True, kw_only=True)
class Day:
    """One day of an experiment: who visits, and when.

    Args:
        day: its number, from 1.
        arm_of: number of the arm of each listener of the world.
        num_visits: sessions of each listener.
        starts: when each session of each listener is planned, listener by listener, in order; share of the day.
        shards: the same, dealt into tasks; those of a shard follow one another.
    """

    day: int
    arm_of: Int64[np.ndarray, "U"]
    num_visits: Int64[np.ndarray, "U"]
    starts: Float64[np.ndarray, "V"]
    shards: list[list[Task]]

    @classmethod
    def plan(cls, world: World, *, day: int, sessions: int, experiment: str, arms: Sequence[str], seed: int) -> "Day":
        """Draw who visits on a day.

        Args:
            world: whose listeners visit.
            day: its number, from 1; each has random numbers of its own.
            sessions: how many, over all arms; listeners are drawn with replacement.
            experiment: its name decides, together with the listener, the arm.
            arms: names of the arms.
            seed: decides everything.

        Raises:
            InputError: an arm gets no listener at all.
        """
        people = world.listeners
        arm_of = treatments(people.user_ids, experiment=experiment, num_arms=len(arms))
        if empty := sorted(set(range(len(arms))) - set(arm_of.tolist())):
            raise InputError(
                f"arm {arms[empty[0]]} gets none of the {len(people)} listeners of this world in experiment "
                f"{experiment!r}; use fewer arms or a larger world"
            )
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(day,)))
        visitors = np.sort(rng.integers(len(people), size=sessions))
        starts = rng.random(sessions)
        num_visits = np.bincount(visitors, minlength=len(people))
        shards = []
        for arm in range(len(arms)):
            users = np.flatnonzero((arm_of == arm) & (num_visits > 0))
            for number, part in enumerate(np.array_split(users, -(-len(users) // SHARD)) if len(users) else []):
                waves, step = range(int(num_visits[part].max())), max(1, TASK // len(part))
                shards.append(
                    [
                        Task(
                            arm=arm,
                            users=part,
                            num_visits=num_visits[part],
                            waves=waves[first : first + step],
                            seed=seed,
                            key=(day, arm, number, first),
                        )
                        for first in waves[::step]
                    ]
                )
        return cls(
            day=day, arm_of=arm_of, num_visits=num_visits, starts=starts[np.lexsort((starts, visitors))], shards=shards
        )

    def in_order(self, plays: Plays) -> Plays:
        """Sessions of the day in an order that does not depend on who played them when, or beside whom."""
        shard_of = np.zeros(len(self.arm_of), np.int64)
        for number, tasks in enumerate(self.shards):
            shard_of[tasks[0].users] = number
        return plays.sorted_by(plays.users, plays.lengths, plays.visits, shard_of[plays.users])


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let Ctrl-C wait until what is being written is whole."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: waiting.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if waiting:
        raise KeyboardInterrupt


class Players:
    """Whoever plays shards: this process, or a pool of them.

    Args:
        world: where the listeners live.
        policies: one for each arm.
        workers: processes; with 1 this one does the work.
        keep_events: whether the single listens are wanted.
    """

    def __init__(self, world: World, policies: Sequence[Policy], *, workers: int, keep_events: bool) -> None:
        self._stage, self._workers = _Stage(world, policies, keep_events), workers
        _ = world.interest_neighbours  # once, here, and not in every process
        self._pool: ProcessPoolExecutor | None = None
        if workers > 1:
            # Ctrl-C is for the parent, which tells the others: they inherit that the signal is blocked
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                with uninterrupted():  # a process that has half arrived would complain
                    context = get_context("spawn")
                    given = self._stage, context.Barrier(workers)
                    self._pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_enter, initargs=given)
                    # each finds nobody idle, and so starts another process
                    arrivals = [self._pool.submit(_wait_for_all) for _ in range(workers)]
                    wait(arrivals)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def __enter__(self) -> "Players":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._pool is not None:
                with uninterrupted():  # half shut, it would complain when Python ends
                    self._pool.shutdown(wait=True, cancel_futures=True)
        finally:
            self._stage.close()

    def play(self, shards: Sequence[Sequence[Task]]) -> Iterator[TaskOutcome]:
        """Play them side by side, the tasks of a shard one after another where the policy may not play them at once."""
        waiting = deque(map(iter, self._stage.rows(shards, self._workers)))
        if self._pool is None:
            while waiting:
                if tasks := next(waiting[0], None):
                    yield self._stage.play(tasks)
                    waiting.rotate(-1)
                else:
                    waiting.popleft()
            return
        running: dict[Future[TaskOutcome], Iterator[list[Task]]] = {}
        while waiting or running:
            while waiting and len(running) < 2 * self._workers:  # one each to play, one each to play next
                row = waiting.popleft()
                if tasks := next(row, None):
                    running[self._pool.submit(_play_here, tasks)] = row
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                waiting.append(running.pop(done))
                yield done.result()


class _Stage:
    """What a process needs to play shards."""

    def __init__(self, world: World, policies: Sequence[Policy], keep_events: bool) -> None:
        self._world, self._policies, self._keep_events = world, policies, keep_events

    def rows(self, shards: Sequence[Sequence[Task]], workers: int) -> list[list[list[Task]]]:
        """Tasks to be played at once, and in each row one after another."""
        rows = []
        for arm, of_arm in groupby(shards, key=lambda shard: shard[0].arm):
            if not self._policies[arm].side_by_side:
                rows += [[[task] for task in shard] for shard in of_arm]
                continue
            tasks = [task for shard in of_arm for task in shard]
            size = min(SIDE_BY_SIDE, -(-len(tasks) // workers))
            rows += [[tasks[first : first + size]] for first in range(0, len(tasks), size)]
        return rows

    def play(self, tasks: Sequence[Task]) -> TaskOutcome:
        policy, parts, problem = self._policies[tasks[0].arm], list[Plays](), None
        before = policy.fallbacks
        try:
            parts.extend(play(self._world, policy, tasks, keep_events=self._keep_events))
        except InputError as error:
            problem = str(error)
        return TaskOutcome(
            arm=tasks[0].arm, plays=Plays.join(parts), fallbacks=policy.fallbacks - before, problem=problem
        )

    def close(self) -> None:
        for policy in self._policies:
            policy.close()


_stage: _Stage | None = None
_all_here: Barrier | None = None


def _enter(stage: _Stage, all_here: Barrier) -> None:
    """Make this process ready."""
    global _stage, _all_here
    _stage, _all_here = stage, all_here


def _wait_for_all() -> None:
    assert _all_here is not None
    _all_here.wait()


def _play_here(tasks: list[Task]) -> TaskOutcome:
    assert _stage is not None
    return _stage.play(tasks)
