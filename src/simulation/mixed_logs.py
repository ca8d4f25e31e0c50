"""Simulated logs for training: written once, and reused until their inputs change."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from filelock import FileLock

from segue.errors import InputError
from segue.settings import Setting, settings
from segue.simulation.experiment import ArmReport, NumSessions, Plan, TrackSeconds, run_experiment
from segue.simulation.policies import make_policies
from segue.simulation.world import World

ProgressBar = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Opens a progress bar, given its label and total; what it returns takes the number of steps done."""


@settings("datamodule.prepare")
class MixedLogs:
    """Logs of traffic with several recommenders. Call it with a parent folder to get the folder of the logs.

    Args:
        world: the world of the listeners.
        arms: a recommender for each part of the traffic.
        first_day: date of the sessions, such as 2026-01-05.

    Attributes:
        world: the world of the listeners.

    Raises:
        InputError: an arm is invalid, or a setting is out of range.
    """

    def __init__(
        self,
        *,
        world: World,
        arms: Mapping[str, Any],
        templates: Mapping[str, partial[Any]],
        sessions: NumSessions = 20_000,
        seed: Annotated[int, Setting("not the seed of the run: runs of all seeds share the logs", least=0)] = 1,
        first_day: str,
        track_seconds: TrackSeconds,
        progress: ProgressBar,
    ) -> None:
        traffic: dict[str, Any] = {"first_day": first_day, "track_seconds": track_seconds}
        self.world, self._progress = world, progress
        if own := [name for name, arm in arms.items() if isinstance(arm, Mapping) and "policy" in arm]:
            raise InputError(
                f"datamodule.prepare.arms.{own[0]}: policy= names code, which settings of a run may not, as they may "
                "be a stranger's; use simulate.py, and datamodule=botify for its logs"
            )
        self._plan = Plan(experiment="MIXED", sessions=sessions, seed=seed, **traffic)
        self._policies = make_policies(arms, templates=templates, world=world, locate=_reject_stored)

    def __call__(self, folder: Path) -> Path:
        """Write the logs, unless logs of the same inputs exist.

        Args:
            folder: parent folder of all such logs.

        Returns:
            The folder of these logs; its name is the digest of their inputs.

        Raises:
            InputError: a recommender fails.
        """
        arms = {arm: policy.description for arm, policy in self._policies.items()}
        inputs = asdict(self._plan), self.world.digest(), dict(self.world.attributes), arms
        digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]
        complete, making = folder / digest, folder / f".{digest}.making"
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{digest}.lock"):
            if not complete.is_dir():
                shutil.rmtree(making, ignore_errors=True)  # left by a process that was killed
                run_experiment(self.world, self._policies, self._plan, making, progress=self._one_bar)
                making.rename(complete)
        return complete

    @contextmanager
    def _one_bar(self, planned: Mapping[str, int]) -> Iterator[ArmReport]:
        with self._progress("simulating logs", sum(planned.values())) as advance:
            yield lambda _arm, sessions, _mean: advance(sessions)


def world_of(prepared_by: object) -> World | None:
    """The world of the simulated logs that a datamodule reads; None for other logs.

    Args:
        prepared_by: what wrote the logs before they were read.
    """
    return prepared_by.world if isinstance(prepared_by, MixedLogs) else None


def _reject_stored(name: str) -> Path:
    raise InputError(
        f"{name}: simulated logs for training can use the recommenders of the world only; name one of conf/arm"
    )
