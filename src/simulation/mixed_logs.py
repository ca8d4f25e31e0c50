"""Simulated logs for training: written once, and reused until their inputs change."""

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from filelock import FileLock

from segue.errors import InputError
from segue.runs.atomic import write_whole
from segue.settings import Setting, settings
from segue.simulation.experiment import ArmReport, NumSessions, TrackSeconds, run_experiment
from segue.simulation.policies import make_policies
from segue.simulation.world import World

_PACKAGE = Path(__file__).resolve().parents[1]
# Files of the package that the simulation may import, and that can therefore decide what is simulated.
_DECISIVE = ("*.py", "picking/*.py", "runs/*.py", "simulation/*.py", "statistics/*.py")

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
        log: Annotated[
            Mapping[Literal["with_propensity"], bool],
            Setting("whether next lines have the probability of the recommendation, and the release"),
        ] = {"with_propensity": True},
        progress: ProgressBar,
    ) -> None:
        self.world, self._progress = world, progress
        self._policies = make_policies(arms, templates=templates, world=world, locate=_reject_stored)
        self._settings: dict[str, Any] = {
            "sessions": sessions,
            "seed": seed,
            "first_day": first_day,
            "track_seconds": track_seconds,
            **{str(name): value for name, value in log.items()},
        }
        self._inputs = {
            **self._settings,
            "world": world.digest(),
            "arms": dict(arms),
            "templates": {name: template.keywords for name, template in sorted(templates.items())},
            "code": code_digest(),
        }
        if world.attributes:
            self._inputs["attributes"] = hashlib.sha256(json.dumps(dict(world.attributes)).encode()).hexdigest()[:16]

    def __call__(self, folder: Path) -> Path:
        """Write the logs, unless logs of the same inputs exist.

        Args:
            folder: parent folder of all such logs.

        Returns:
            The folder of these logs; its name is the digest of their inputs.

        Raises:
            InputError: the folder has other logs, cannot be written, or a recommender fails.
        """
        digest = hashlib.sha256(json.dumps(self._inputs, sort_keys=True, default=str).encode()).hexdigest()[:16]
        if (folder / "tracks.json").exists():
            raise InputError(
                f"{folder} already has logs; read them with datamodule=botify, or choose another datamodule.path"
            )
        complete, partial_folder = folder / digest, folder / f".{digest}.making"
        if complete.is_dir():
            return complete
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / f".{digest}.lock"):
                if not complete.is_dir():
                    shutil.rmtree(partial_folder, ignore_errors=True)  # left by a process that was killed
                    self._simulate(partial_folder)
                    partial_folder.rename(complete)
        except OSError as error:
            raise InputError(
                f"cannot write logs to {folder}: {error.strerror}; choose another folder with datamodule.path=<folder>"
            ) from None
        return complete

    def _simulate(self, folder: Path) -> None:
        keep_interest_neighbours(self.world, folder.parent)

        @contextmanager
        def one_bar(planned: Mapping[str, int]) -> Iterator[ArmReport]:
            with self._progress("simulating logs", sum(planned.values())) as advance:
                yield lambda _arm, sessions, _mean: advance(sessions)

        run_experiment(
            world=self.world,
            policies=self._policies,
            experiment="MIXED",
            days=1,
            workers=1,
            folder=folder,
            write_logs=True,
            after=None,
            provenance={name: str(value) for name, value in self._inputs.items()},
            progress=one_bar,
            **self._settings,
        )


def world_of(prepared_by: object) -> World | None:
    """The world of the simulated logs that a datamodule reads; None for other logs.

    Args:
        prepared_by: what wrote the logs before they were read.
    """
    return prepared_by.world if isinstance(prepared_by, MixedLogs) else None


def keep_interest_neighbours(world: World, folder: Path) -> None:
    """Give a world its `interest_neighbours`: read them, or compute and write them for later runs.

    Args:
        folder: parent folder of simulated logs; has a file for each world. A damaged file is written again.
    """
    path = folder / f"interest_neighbours-{world.digest()}-{code_digest()[:8]}.npz"
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            found = kept["number_of"], kept["neighbours"]
    except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile):
        found = world.interest_neighbours
        with suppress(OSError):  # without the file they are computed again
            write_whole(path, lambda partial: np.savez(partial, number_of=found[0], neighbours=found[1]))
    vars(world)["interest_neighbours"] = found  # where the cached property keeps its value


@cache
def code_digest() -> str:
    """Digest of the code that decides what is simulated.

    Returns:
        Sixteen hexadecimal digits.
    """
    paths = (path for pattern in _DECISIVE for path in sorted(_PACKAGE.glob(pattern)))
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:16]


def _reject_stored(name: str) -> Path:
    raise InputError(
        f"{name}: simulated logs for training can use the recommenders of the world only; name one of conf/arm"
    )
