"""The example of a Gymnasium environment: Gymnasium's own checker, and the sessions of the simulator."""

import importlib.util
from types import ModuleType

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from segue.simulation.world import World
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gymnasium_listeners", ROOT / "examples" / "gymnasium_listeners.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_checker_of_gymnasium_finds_no_problem(example: ModuleType, world: World) -> None:
    check_env(example.ListenerEnv(world), skip_render_check=True)


def test_an_episode_is_a_session(example: ModuleType, world: World) -> None:
    env = example.ListenerEnv(world)
    seen, _ = env.reset(seed=3)
    assert seen["played_ratio"] == 1
    rewards, is_over = list[float](), False
    while not is_over:
        track = np.int64(len(rewards) % len(world.catalog))
        seen, reward, is_over, is_truncated, _ = env.step(track)
        assert (seen["track"], float(seen["played_ratio"][0]), is_truncated) == (track, reward, False)
        rewards.append(reward)
    assert env.crowd.budget[0] == 0
    assert rewards == pytest.approx((env.crowd.shares[1:, 0] / 100).tolist())
