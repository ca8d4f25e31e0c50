"""The Gymnasium environments: the checker of the library, and the behaviour of the listener."""

import re
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from segue.simulation.environment import ListenerEnv, ListenerVectorEnv
from segue.simulation.world import World
from tests.conftest import ROOT


def test_the_checker_of_gymnasium_finds_no_problem(world: World) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make("segue/Listener-v0", world=world).unwrapped)


def test_parallel_sessions_have_the_mean_reward_of_single_sessions(world: World) -> None:
    """Mean reward of a step under random recommendations, both ways."""
    one = ListenerEnv(world)
    rng, rewards = np.random.default_rng(0), []
    one.reset(seed=0)
    for _ in range(6000):
        _, reward, over, _, _ = one.step(np.int64(rng.integers(400)))
        rewards.append(reward)
        if over:
            one.reset()
    many = ListenerVectorEnv(200, world)
    many.reset(seed=1)
    total, steps = 0.0, 0
    over_before = np.zeros(200, bool)
    for _ in range(120):
        _, played, over_now, _, _ = many.step(rng.integers(400, size=200))
        total, steps = total + float(played.sum()), steps + int((~over_before).sum())
        assert (played[over_before] == 0).all()
        over_before = over_now
    assert abs(total / steps - np.mean(rewards)) < 0.03


def test_a_new_session_does_not_remember_the_previous_one(world: World) -> None:
    """A track that the previous session has played is new to the next one; otherwise its share would be 0."""
    hit = int(world.top_tracks[0])
    env = ListenerVectorEnv(50, world)
    env.reset(seed=0)
    total_reward = 0.0
    for _ in range(60):
        observation, rewards, *_ = env.step(np.full(50, hit))
        assert env.observation_space.contains(observation)
        total_reward += rewards.sum()
    # the first play of the hit counts in every session; about thirty sessions per environment
    assert total_reward > 50
    assert env.metadata["autoreset_mode"] is gym.vector.AutoresetMode.NEXT_STEP


def test_gymnasium_creates_both_environments_by_name(world: World) -> None:
    assert isinstance(gym.make("segue/Listener-v0", world=world).unwrapped, ListenerEnv)
    assert isinstance(gym.make_vec("segue/Listener-v0", num_envs=3, world=world).unwrapped, ListenerVectorEnv)


def test_the_example_of_the_documentation_runs(capfd: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs" / "simulation.md").read_text(encoding="utf-8")
    [example] = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(example.splitlines()) <= 20
    exec(compile(example, "docs/simulation.md", "exec"), {})
    assert "mean time per session" in capfd.readouterr().out
