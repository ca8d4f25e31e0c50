"""Simulated listeners as Gymnasium environments, for reinforcement learning.

An episode is a session, an action is the row of the recommended track, the reward is the share of it that is played.
B environments in parallel.
"""

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from jaxtyping import Bool, Float64, Int64

from segue.simulation.listener import HISTORY, PAST, WHOLE, Crowd, listen, start
from segue.simulation.world import World

Observation = dict[str, Any]
"""`user`: row of the listener; `track`: row of the last track; `played_ratio`: share of it played, in [0, 1]."""


def _observation_space(world: World) -> Any:  # spaces.Dict; beartype warns about its base classes
    return spaces.Dict(
        {
            "user": spaces.Discrete(len(world.listeners)),
            "track": spaces.Discrete(len(world.catalog)),
            "played_ratio": spaces.Box(0.0, 1.0, (1,), np.float32),
        }
    )


def _start_sessions(world: World, num_sessions: int, rng: np.random.Generator) -> Crowd:
    users = rng.integers(len(world.listeners), size=num_sessions)
    return start(world, users, rng.random(num_sessions), rng.random(num_sessions))


def _observe(crowd: Crowd) -> Observation:
    return {
        "user": crowd.users,
        "track": crowd.current.astype(np.int64),
        "played_ratio": (crowd.shares[-1] / WHOLE).astype(np.float32)[:, None],
    }


class ListenerEnv(gym.Env[Observation, np.int64]):
    """One session at a time."""

    metadata = {"render_modes": []}  # noqa: RUF012 - as in the base class

    def __init__(self, world: World) -> None:
        self._world = world
        self.observation_space = _observation_space(world)
        self.action_space = spaces.Discrete(len(world.catalog))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start the session of a listener drawn uniformly; its first track has been played.

        Args:
            seed: of the random numbers; None continues the previous ones.
            options: not used.

        Returns:
            The observation and an empty dictionary.
        """
        super().reset(seed=seed, options=options)
        self._crowd = _start_sessions(self._world, 1, self.np_random)
        return self._observation(), {}

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Play one more track.

        Args:
            action: row of the recommended track.

        Returns:
            The observation, the reward in [0, 1], whether the session has ended, False (an episode is never
            truncated), and an empty dictionary.
        """
        self._crowd = listen(self._world, self._crowd, np.array([action], np.int64), self.np_random.random(1))
        observation = self._observation()
        return observation, float(observation["played_ratio"][0]), bool(self._crowd.budget[0] <= 0), False, {}

    def _observation(self) -> Observation:
        return {name: column[0] for name, column in _observe(self._crowd).items()}


class ListenerVectorEnv(VectorEnv[Observation, Int64[np.ndarray, "B"], Float64[np.ndarray, "B"]]):
    """Many sessions in parallel (B), as arrays; after a session has ended, the next step starts another one."""

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self, num_envs: int, world: World) -> None:
        self.num_envs, self._world = num_envs, world
        self.single_observation_space = _observation_space(world)
        self.single_action_space = spaces.Discrete(len(world.catalog))
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start a session in every environment.

        Args:
            seed: of the random numbers; None continues the previous ones.
            options: not used.

        Returns:
            The observations, and an empty dictionary.
        """
        super().reset(seed=seed, options=options)
        self._crowd = _start_sessions(self._world, self.num_envs, self.np_random)
        return _observe(self._crowd), {}

    def step(
        self, actions: Int64[np.ndarray, "B"]
    ) -> tuple[Observation, Float64[np.ndarray, "B"], Bool[np.ndarray, "B"], Bool[np.ndarray, "B"], dict[str, Any]]:
        """Play one more track in each session, or start a new session where the previous one has ended.

        Args:
            actions: row of the recommended track of each session, shape `[B]`; ignored where a session starts.

        Returns:
            The observations, rewards in [0, 1] (0 where a session starts), which sessions have ended, which were
            truncated (none), and an empty dictionary.
        """
        has_ended = self._crowd.budget <= 0
        played = listen(self._world, self._crowd, np.asarray(actions, np.int64), self.np_random.random(self.num_envs))
        self._crowd = self._replace_sessions(played, np.flatnonzero(has_ended)) if has_ended.any() else played
        rewards = np.where(has_ended, 0.0, self._crowd.shares[-1] / WHOLE)
        return _observe(self._crowd), rewards, self._crowd.budget <= 0, np.zeros(self.num_envs, bool), {}

    def _replace_sessions(self, crowd: Crowd, places: Int64[np.ndarray, "b"]) -> Crowd:
        """Put new sessions in some places, without the history of the previous ones."""
        started = _start_sessions(self._world, len(places), self.np_random)
        columns = {name: getattr(crowd, name).copy() for name in Crowd.__dataclass_fields__}
        for name, column in columns.items():
            if name in HISTORY:
                column[:-1, places] = HISTORY[name]
                column[-1, places] = getattr(started, name)[-1]
            elif name not in ("place", *PAST):
                column[places] = getattr(started, name)
        oldest = int((columns["tracks"] >= 0).any(1).argmax())
        return replace(crowd, **columns | {name: columns[name][oldest:] for name in HISTORY})


gym.register(
    "segue/Listener-v0",
    entry_point=f"{__name__}:{ListenerEnv.__name__}",
    vector_entry_point=f"{__name__}:{ListenerVectorEnv.__name__}",
)
