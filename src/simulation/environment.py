"""Simulated listeners as Gymnasium environments, for reinforcement learning.

An episode is a session, an action is the row of the recommended track, the reward is the share of it that is played.
B environments in parallel; `gym.make_vec("segue/Listener-v0", num_envs=B, world=world)` creates them.
"""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from jaxtyping import Bool, Float64, Int64

from segue.simulation.listener import HISTORY, WHOLE, Crowd, listen, start
from segue.simulation.world import World

Observation = dict[str, Any]
"""`user`: row of the listener; `track`: row of the last track; `played_ratio`: share of it played, in [0, 1]."""


class ListenerVectorEnv(VectorEnv[Observation, Int64[np.ndarray, "B"], Float64[np.ndarray, "B"]]):
    """Many sessions in parallel, as arrays; after a session has ended, the next step starts another one.

    Args:
        num_envs: number of parallel sessions (B).
        world: the world of the listeners.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self, num_envs: int, world: World) -> None:
        self.num_envs, self._world = num_envs, world
        self.single_observation_space = spaces.Dict(
            {
                "user": spaces.Discrete(len(world.listeners)),
                "track": spaces.Discrete(len(world.catalog)),
                "played_ratio": spaces.Box(0.0, 1.0, (1,), np.float32),
            }
        )
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
        self._crowd = self._start(self.num_envs)
        return self._observe(), {}

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
        self._crowd = listen(
            self._world, self._crowd, np.asarray(actions, np.int64), self.np_random.random(self.num_envs)
        )
        if has_ended.any():
            self._restart(np.flatnonzero(has_ended))
        rewards = np.where(has_ended, 0.0, self._crowd.shares[-1] / WHOLE)
        return self._observe(), rewards, self._crowd.budget <= 0, np.zeros(self.num_envs, bool), {}

    def _start(self, num_sessions: int) -> Crowd:
        users = self.np_random.integers(len(self._world.listeners), size=num_sessions)
        return start(self._world, users, self.np_random.random(num_sessions), self.np_random.random(num_sessions))

    def _restart(self, places: Int64[np.ndarray, "b"]) -> None:
        """Put new sessions in some places, without the history of the previous ones."""
        started = self._start(len(places))
        columns = {name: column.copy() for name, column in vars(self._crowd).items()}
        for name in columns.keys() - {"place"}:
            if name in HISTORY:
                columns[name][:, places] = HISTORY[name]
            columns[name][(-1, places) if name in HISTORY else places] = getattr(started, name)
        oldest = int((columns["tracks"] >= 0).any(1).argmax())
        self._crowd = Crowd(**columns | {name: columns[name][oldest:] for name in HISTORY})

    def _observe(self) -> Observation:
        return {
            "user": self._crowd.users,
            "track": self._crowd.current.astype(np.int64),
            "played_ratio": (self._crowd.shares[-1] / WHOLE).astype(np.float32)[:, None],
        }


gym.register("segue/Listener-v0", vector_entry_point=f"{__name__}:{ListenerVectorEnv.__name__}")
