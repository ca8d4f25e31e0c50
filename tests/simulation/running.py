"""Runs of the simulator in a small world, for tests."""

import json
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from segue.simulation.experiment import Plan, run_experiment
from segue.simulation.policies import Policy, Popular, Random, StickyArtist
from segue.simulation.world import World

MIDNIGHT = 1_767_571_200_000


def run(
    world: World,
    folder: Path,
    policies: Mapping[str, Policy] | None = None,
    *,
    after: Path | None = None,
    progress: Any = lambda _: nullcontext(lambda *_: None),
    **changes: Any,
) -> dict[str, Any]:
    """Simulate 400 sessions of a day, of three arms."""
    if policies is None:
        three = StickyArtist(world=world), Popular(num_tracks=20, world=world)
        policies = {"C": Random(world=world), "T1": three[0], "T2": three[1]}
    usual: dict[str, Any] = {"sessions": 400, "seed": 1, "first_day": "2026-01-05", "track_seconds": 200.0}
    plan = Plan(**{"experiment": "TEST", **usual, **changes})
    return run_experiment(world, policies, plan, folder, after=after, progress=progress)


def log_of(folder: Path) -> list[dict[str, Any]]:
    """The lines of all days of a run."""
    paths = sorted(folder.glob("logs/*/data.json"))
    return [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
