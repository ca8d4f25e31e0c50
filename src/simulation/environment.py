"""The listener as Gymnasium environments, for people who come from reinforcement learning.

An episode is a session, an action the row of the track recommended, the reward the share of it that is played.
B environments side by side.
"""

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from jaxtyping import Bool, Float64, Int64

from src.simulation.listener import HISTORY, WHOLE, Crowd, listen, start
from src.simulation.world import World

Observation = dict[str, Any]
"""`user`: row of the listener; `track`: row of the track played last; `played_ratio`: share of it played."""


def _observation_space(world: World) -> Any:  # spaces.Dict, whose own bases beartype warns of
    return spaces.Dict(
        {
            "user": spaces.Discrete(len(world.listeners)),
            "track": spaces.Discrete(len(world.catalog)),
            "played_ratio": spaces.Box(0.0, 1.0, (1,), np.float32),
        }
    )


def _begin(world: World, num_sessions: int, rng: np.random.Generator) -> Crowd:
    users = rng.integers(len(world.listeners), size=num_sessions)
    return start(world, users, rng.random(num_sessions), rng.random(num_sessions))


def _observe(crowd: Crowd) -> Observation:
    return {
        "user": crowd.users,
        "track": crowd.current.astype(np.int64),
        "played_ratio": (crowd.shares[-1] / WHOLE).astype(np.float32)[:, None],
    }


class ListenerEnv(gym.Env[Observation, np.int64]):
    """One listener at a time.

    Args:
        world: whose listeners play.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - as the base class has it

    def __init__(self, world: World) -> None:
        self._world = world
        self.observation_space = _observation_space(world)
        self.action_space = spaces.Discrete(len(world.catalog))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """A listener, drawn uniformly, begins a session and has heard its first track."""
        super().reset(seed=seed, options=options)
        self._crowd = _begin(self._world, 1, self.np_random)
        return self._observation(), {}

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Play one more track; the episode ends with the listener's patience."""
        self._crowd = listen(self._world, self._crowd, np.array([action], np.int64), self.np_random.random(1))
        observation = self._observation()
        return observation, float(observation["played_ratio"][0]), bool(self._crowd.budget[0] <= 0), False, {}

    def _observation(self) -> Observation:
        return {name: column[0] for name, column in _observe(self._crowd).items()}


class ListenerVectorEnv(VectorEnv[Observation, Int64[np.ndarray, "B"], Float64[np.ndarray, "B"]]):
    """Many listeners at once, in arrays; where a session has ended, the next step begins another.

    Args:
        num_envs: sessions side by side (B).
        world: whose listeners play.
    """

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
        """Begin a session in every environment."""
        super().reset(seed=seed, options=options)
        self._crowd = _begin(self._world, self.num_envs, self.np_random)
        return _observe(self._crowd), {}

    def step(
        self, actions: Int64[np.ndarray, "B"]
    ) -> tuple[Observation, Float64[np.ndarray, "B"], Bool[np.ndarray, "B"], Bool[np.ndarray, "B"], dict[str, Any]]:
        """Play each session one more track, or begin a new one where the last has ended."""
        over = self._crowd.budget <= 0
        played = listen(self._world, self._crowd, np.asarray(actions, np.int64), self.np_random.random(self.num_envs))
        self._crowd = self._begin_again(played, np.flatnonzero(over)) if over.any() else played
        rewards = np.where(over, 0.0, self._crowd.shares[-1] / WHOLE)
        return _observe(self._crowd), rewards, self._crowd.budget <= 0, np.zeros(self.num_envs, bool), {}

    def _begin_again(self, crowd: Crowd, places: Int64[np.ndarray, "b"]) -> Crowd:
        """Put new sessions in some places; what was played there before is forgotten."""
        fresh = _begin(self._world, len(places), self.np_random)
        columns = {name: getattr(crowd, name).copy() for name in Crowd.__dataclass_fields__}
        for name, column in columns.items():
            if name in HISTORY:
                column[:-1, places] = HISTORY[name]
                column[-1, places] = getattr(fresh, name)[-1]
            elif name != "place":
                column[places] = getattr(fresh, name)
        oldest = int((columns["tracks"] >= 0).any(1).argmax())
        return replace(crowd, **columns | {name: columns[name][oldest:] for name in HISTORY})


gym.register(
    "segue/Listener-v0",
    entry_point=f"{__name__}:{ListenerEnv.__name__}",
    vector_entry_point=f"{__name__}:{ListenerVectorEnv.__name__}",
)
