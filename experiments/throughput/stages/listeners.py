"""Steps of simulated listeners: random recommendations, no logs, one process."""

import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from experiments.studying import SMALL_WORLD, composed, sized
from experiments.throughput.race import Contender, Stage, Work

if TYPE_CHECKING:
    from segue.simulation.policies import Policy
    from segue.simulation.world import World


def make_world(*overrides: str) -> "World":
    from hydra.utils import instantiate

    world: World = instantiate(composed("simulate", *overrides).world, _convert_="all")
    _ = world.interest_neighbours  # computed now: it is a part of the world, not of a step
    return world


def world_of(small: bool) -> "World":
    """The world of all contenders."""
    return make_world(*sized((f"world={'small' if small else 'published'}",), SMALL_WORLD))


def simulated_day(world: "World", policy: "Policy", *, sessions: int, workers: int, logs: bool) -> dict[str, Any]:
    """A day of one policy as `simulate.py` plays it, with propensities.

    Returns:
        The record of the experiment, with `steps_per_second` and `seconds`.
    """
    from segue.simulation.experiment import Plan, run_experiment

    with tempfile.TemporaryDirectory() as folder:
        day: dict[str, Any] = {"first_day": "2026-01-05", "track_seconds": 210.0, "write_logs": logs}
        plan = Plan(experiment="THROUGHPUT", sessions=sessions, workers=workers, seed=1, **day)
        return run_experiment(world, {"C": policy}, plan, Path(folder))


def ours(_: Path, small: bool) -> Work:
    from segue.simulation.policies import Random
    from segue.simulation.traffic import Day, Players

    world = world_of(small)
    plan = Day.plan(
        world, day=1, sessions=sized(100_000 if small else 1_000_000, 300), experiment="BENCH", arms=["C"], seed=1
    )
    players = Players(world, [Random(world=world)], workers=1, keep_events=False)

    def work() -> float:
        return float(sum((played.plays.lengths - 1).sum() for played in players.play(plan.shards)))

    return work


class _Listener:
    """One session after another in plain Python, as in the simulator of 2023, with the same formulas."""

    def __init__(self, world: "World") -> None:
        self.world, self.rng = world, np.random.default_rng(1)

    def begin(self) -> int:
        people = self.world.listeners
        self.user = int(self.rng.integers(len(people)))
        self.interest = int(self.rng.choice(people.interests[self.user]))
        number_of, neighbours = self.world.interest_neighbours
        track = int(neighbours[number_of[self.interest], self.rng.integers(10)])
        self.played, self.artists, self.budget = {track}, {int(self.world.catalog.artist_of[track]): 1}, 5
        return track

    def play(self, track: int) -> float:
        world, people = self.world, self.world.listeners
        artist = int(world.catalog.artist_of[track])
        liking = float(world.embeddings[track] @ world.embeddings[self.interest])
        share = 1 / (1 + math.exp(-(liking - people.bias[self.user]) * people.sharpness[self.user]))
        share = 0.0 if track in self.played else round(share * 0.8 ** self.artists.get(artist, 0), 2)
        self.played.add(track)
        self.artists[artist] = self.artists.get(artist, 0) + 1
        self.budget -= self.rng.random() < 1 - share
        return share


def loop(world: "World", steps: int) -> int:
    """Simulate sessions until at least `steps` steps are done; returns the number of steps."""
    listener, done = _Listener(world), 0
    while done < steps:
        listener.begin()
        while listener.budget:
            listener.play(int(listener.rng.integers(len(world.catalog))))
            done += 1
    return done


class _LoopEnv(gym.Env[dict[str, Any], np.int64]):
    """The listener of the loop as a custom environment, written as in the documentation of Gymnasium."""

    def __init__(self, world: "World") -> None:
        self.listener = _Listener(world)
        self.action_space = spaces.Discrete(len(world.catalog))
        self.observation_space = spaces.Dict(
            {
                "user": spaces.Discrete(len(world.listeners)),
                "track": spaces.Discrete(len(world.catalog)),
                "played_ratio": spaces.Box(0.0, 1.0, (), np.float64),
            }
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed, options=options)
        track = self.listener.begin()
        return {"user": self.listener.user, "track": track, "played_ratio": 1.0}, {}

    def step(self, action: np.int64) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        share = self.listener.play(int(action))
        seen = {"user": self.listener.user, "track": int(action), "played_ratio": share}
        return seen, share, self.listener.budget == 0, False, {}


gym.register(
    "bench/Listener-v0", entry_point=f"{__name__}:{_LoopEnv.__name__}", disable_env_checker=True, order_enforce=False
)


def plain_loop(_: Path, small: bool) -> Work:
    world = world_of(small)
    return lambda: loop(world, sized(20_000 if small else 200_000, 100))


def gymnasium_loop(_: Path, small: bool) -> Work:
    env, steps = gym.make("bench/Listener-v0", world=world_of(small)), sized(10_000 if small else 100_000, 100)

    def work() -> float:
        done = 0
        while done < steps:
            env.reset()
            over = False
            while not over:
                *_, over, _, _ = env.step(env.action_space.sample())
                done += 1
        return done

    return work


def memory_traffic(_: Path, small: bool) -> Work:
    """Only the reads and writes of a step: artists and embeddings of given tracks, the product, three columns."""
    world, sessions, num_steps = world_of(small), 8192, 7  # they stay in the cache; a session has about seven steps
    tracks = np.random.default_rng(1).integers(len(world.catalog), size=(num_steps, sessions))
    tastes = world.embeddings[tracks[0]]
    rows, liking = np.empty_like(tastes), np.empty(sessions, np.float32)
    artists_of = np.empty(sessions, np.int64)
    artists, played = np.empty((2, num_steps, sessions), np.int32)
    shares = np.empty((num_steps, sessions), np.uint8)
    repetitions = sized(20 if small else 200, 1)

    def work() -> float:
        for _ in range(repetitions):
            for step in range(num_steps):
                np.take(world.catalog.artist_of, tracks[step], out=artists_of, mode="clip")
                np.take(world.embeddings, tracks[step], axis=0, out=rows, mode="clip")
                np.einsum("sd,sd->s", rows, tastes, out=liking)
                artists[step], played[step] = artists_of, tracks[step]
                np.copyto(shares[step], liking, casting="unsafe")
        return repetitions * num_steps * sessions

    return work


STAGES = [
    Stage(
        name="listeners",
        unit="steps",
        ours=Contender(name="segue", prepare=ours),
        rivals=[
            Contender(name="loop oracle", prepare=plain_loop, at_least=1000),
            Contender(name="gymnasium loop", prepare=gymnasium_loop, at_least=1000),
        ],
        limits=[Contender(name="memory traffic", prepare=memory_traffic, at_least=0.5)],
    )
]
