#!/usr/bin/env python3
"""The listeners of a world as a Gymnasium environment, for reinforcement learning; this script plays `popular`.

    pip install gymnasium
    python examples/gymnasium_listeners.py

An episode is a session. An action is the row of the recommended track in the catalogue, and the reward is the share of
it that is played. An observation has the row of the listener, that of the last track, and the share of it played.
"""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from segue.runs.provenance import CONF
from segue.simulation.listener import WHOLE, listen, start
from segue.simulation.world import World


class ListenerEnv(gym.Env[dict[str, Any], np.int64]):
    """One session at a time, of a listener drawn uniformly."""

    def __init__(self, world: World) -> None:
        self.world, self.action_space = world, spaces.Discrete(len(world.catalog))
        ratio = spaces.Box(0.0, 1.0, (1,), np.float32)
        self.observation_space = spaces.Dict(
            {"user": spaces.Discrete(len(world.listeners)), "track": self.action_space, "played_ratio": ratio}
        )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], Any]:
        """Start a session; its first track has been played in full."""
        super().reset(seed=seed, options=options)
        user = self.np_random.integers(len(self.world.listeners), size=1)
        self.crowd = start(self.world, user, self.np_random.random(1), self.np_random.random(1))
        return self._observation(), {}

    def step(self, action: np.int64) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Play one more track; the session has ended when the listener is bored."""
        self.crowd = listen(self.world, self.crowd, np.array([action], np.int64), self.np_random.random(1))
        seen = self._observation()
        return seen, float(seen["played_ratio"][0]), bool(self.crowd.budget[0] <= 0), False, {}

    def _observation(self) -> dict[str, Any]:
        played = (self.crowd.shares[-1] / WHOLE).astype(np.float32)
        return {"user": self.crowd.users[0], "track": self.crowd.current.astype(np.int64)[0], "played_ratio": played}


if __name__ == "__main__":
    with initialize_config_dir(str(CONF), version_base="1.3"):
        world = instantiate(compose("simulate").world, _convert_="all")
    env, rng, times = ListenerEnv(world), np.random.default_rng(1), list[float]()
    env.reset(seed=1)
    for _ in range(2000):
        env.reset()
        times.append(1.0)  # the first track
        is_over = False
        while not is_over:
            track = world.top_tracks[rng.integers(100)]  # your policy here
            reward, is_over = env.step(track)[1:3]
            times[-1] += reward
    print(f"{len(times)} sessions, mean time per session {np.mean(times):.2f}")
