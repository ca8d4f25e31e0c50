"""Traffic: the sessions of a day, played by one process or many, the same whatever their number.

The listeners of an arm are dealt into *shards*. A shard plays its listeners' sessions in waves, each listener at most
one session a wave; a few waves are a *task*, with random numbers of its own. V sessions, E listens, U listeners.
"""

import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
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
        dtypes = {"tracks": np.int32, "shares": np.uint8}
        return cls(
            **{
                name: np.concatenate([getattr(part, name) for part in parts])
                if parts
                else np.empty(0, dtypes.get(name, np.int64))
                for name in cls.__dataclass_fields__
            }
        )

    @classmethod
    def of(cls, crowd: Crowd, visit: int, *, keep_events: bool) -> "Plays":
        """Sessions of a crowd as they stand."""
        return cls(
            users=crowd.users,
            visits=np.full(len(crowd), visit),
            lengths=np.full(len(crowd), len(crowd.tracks)),
            hundredths=crowd.shares.sum(0, dtype=np.int64),
            tracks=crowd.tracks.T.ravel() if keep_events else np.empty(0, np.int32),
            shares=crowd.shares.T.ravel() if keep_events else np.empty(0, np.uint8),
        )

    @property
    def num_steps(self) -> int:
        """How many recommendations were played: every track but the first of each session."""
        return int(self.lengths.sum()) - len(self.lengths)


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


def play(world: World, policy: Policy, task: Task, *, keep_events: bool) -> Iterator[Plays]:
    """Play a task; yields whenever sessions have ended.

    Args:
        world: where the listeners live.
        policy: recommends.
        task: whose sessions, and which.
        keep_events: whether the single listens are wanted.
    """
    own = np.random.SeedSequence(task.seed, spawn_key=task.key)
    listener_rng, policy_rng = map(np.random.default_rng, own.spawn(2))
    for visit in task.waves:
        present = task.users[task.num_visits > visit]
        crowd = start(world, present, listener_rng.random(len(present)), listener_rng.random(len(present)))
        policy.begin(crowd, policy_rng)
        while len(crowd):
            crowd = listen(world, crowd, policy.recommend(crowd), listener_rng.random(len(crowd)))
            if (over := crowd.budget <= 0).any():
                ended = crowd.where(over)
                policy.finish(ended)
                yield Plays.of(ended, visit, keep_events=keep_events)
                crowd = crowd.where(~over)


@dataclass(frozen=True, kw_only=True)
class Played:
    """What became of a task: its sessions, how often its policy left a choice to chance, and what stopped it.

    `key` puts tasks in an order that does not depend on who played them when.
    """

    arm: int
    key: tuple[int, ...]
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
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._stage.close()

    def play(self, shards: Sequence[Sequence[Task]]) -> Iterator[Played]:
        """Play them side by side, the tasks of a shard one after another."""
        waiting = deque(iter(shard) for shard in shards)
        if self._pool is None:
            while waiting:
                if task := next(waiting[0], None):
                    yield self._stage.play(task)
                    waiting.rotate(-1)
                else:
                    waiting.popleft()
            return
        running: dict[Future[Played], Iterator[Task]] = {}
        while waiting or running:
            while waiting and len(running) < 2 * self._workers:  # one each to play, one each to play next
                tasks = waiting.popleft()
                if task := next(tasks, None):
                    running[self._pool.submit(_play_here, task)] = tasks
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                waiting.append(running.pop(done))
                yield done.result()

    def map(self, function: Callable[..., Any], *columns: Any) -> Iterator[Any]:
        """Like `map`, by the same processes."""
        return map(function, *columns) if self._pool is None else self._pool.map(function, *columns)


class _Stage:
    """What a process needs to play shards."""

    def __init__(self, world: World, policies: Sequence[Policy], keep_events: bool) -> None:
        self._world, self._policies, self._keep_events = world, policies, keep_events

    def play(self, task: Task) -> Played:
        policy, parts, problem = self._policies[task.arm], list[Plays](), None
        before = policy.fallbacks
        try:
            parts.extend(play(self._world, policy, task, keep_events=self._keep_events))
        except InputError as error:
            problem = str(error)
        return Played(
            arm=task.arm, key=task.key, plays=Plays.join(parts), fallbacks=policy.fallbacks - before, problem=problem
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


def _play_here(task: Task) -> Played:
    assert _stage is not None
    return _stage.play(task)
