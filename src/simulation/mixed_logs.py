"""Logs of an embedded world for training: made once, and found again by what they are made from."""

import ast
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

from filelock import FileLock

from src.errors import InputError, check_number
from src.recommender_names import recommender_name
from src.runs.provenance import ROOT
from src.simulation.arm_policies import make_policies, template_name
from src.simulation.experiment import ArmReport, run_experiment
from src.simulation.world import World

ProgressBar = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


class MixedLogs:
    """Logs of mixed traffic; call it with the folder that holds all that were made, to get the folder of these.

    Args:
        world: whose listeners make them.
        arms: a recommender for each part of the traffic.
        templates: what makes each kind of recommender.
        sessions: how many, over all arms.
        seed: decides everything but the world.
        first_day: date on the first line.
        track_seconds: how long a track lasts.
        progress: shows a bar while they are made.
    """

    def __init__(
        self,
        *,
        world: World,
        arms: Mapping[str, Any],
        templates: Mapping[str, partial[Any]],
        sessions: int,
        seed: int,
        first_day: str,
        track_seconds: int | float,
        progress: ProgressBar,
    ) -> None:
        check_number("datamodule.prepare.sessions", sessions, whole=True, least=1, most=100_000_000)
        self._world, self._progress = world, progress
        self._policies = make_policies(arms, templates=templates, world=world, locate=_refuse)
        named = {template_name(str(recommender_name(given))) for given in arms.values()}
        playing = {name: template for name, template in templates.items() if name in named}
        self._settings: dict[str, Any] = {
            "sessions": sessions,
            "seed": seed,
            "first_day": first_day,
            "track_seconds": track_seconds,
        }
        self._made_from = {
            **self._settings,
            "world": world.digest(),
            "arms": dict(arms),
            "templates": {name: template.keywords for name, template in sorted(playing.items())},
            "code": _code(playing),
        }

    def __call__(self, folder: Path) -> Path:
        """The folder of the logs, under one that is named by their digest; made where it is missing.

        Raises:
            InputError: it cannot be written, or a recommender fails.
        """
        digest = hashlib.sha256(json.dumps(self._made_from, sort_keys=True, default=str).encode()).hexdigest()[:16]
        if (folder / "tracks.json").exists():
            raise InputError(f"{folder} holds logs already; datamodule=botify reads them, simulated makes its own")
        made, making = folder / digest, folder / f".{digest}.making"
        if made.is_dir():
            return made
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / f".{digest}.lock"):
                if not made.is_dir():
                    shutil.rmtree(making, ignore_errors=True)  # of a run that was killed
                    self._make(making)
                    making.rename(made)
        except OSError as error:
            raise InputError(f"cannot write logs to {folder}: {error.strerror}; set datamodule.path") from None
        return made

    def _make(self, folder: Path) -> None:
        @contextmanager
        def one_bar(planned: Mapping[str, int]) -> Iterator[ArmReport]:
            with self._progress("listeners make logs", sum(planned.values())) as advance:
                yield lambda _arm, sessions, _mean: advance(sessions)

        run_experiment(
            world=self._world,
            policies=self._policies,
            experiment="MIXED",
            days=1,
            workers=1,
            folder=folder,
            write_logs=True,
            after=None,
            provenance={name: str(value) for name, value in self._made_from.items()},
            progress=one_bar,
            **self._settings,
        )


def _code(templates: Mapping[str, partial[Any]]) -> str:
    """Digest of the code that decides what the logs hold: of what plays, of who recommends, and of all they import."""
    makers = [run_experiment, make_policies, *(template.func for template in templates.values())]
    return code_digest({maker.__module__ for maker in makers})


def code_digest(modules: Iterable[str], root: Path = ROOT) -> str:
    """Digest of the text of some modules of `src` and of those that they import, however far away.

    Args:
        modules: names such as `src.simulation.experiment`.
        root: the folder that holds `src`.
    """
    found: dict[str, bytes] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        path = root / f"{name.replace('.', '/')}.py"
        if name.startswith("src.") and name not in found and path.is_file():
            found[name] = path.read_bytes()
            waiting += _imported(found[name])
    sha = hashlib.sha256()
    for name, text in sorted(found.items()):
        sha.update(f"{name} {len(text)}\n".encode() + text)
    return sha.hexdigest()[:16]


@cache
def _imported(text: bytes) -> list[str]:
    """What a module may import, wherever in it: `from a import b` may mean the module `a` or `a.b`."""
    names: list[str] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


def _refuse(name: str) -> Path:
    raise InputError(f"{name}: logs for training are made by recommenders of the world alone; name one in conf/arm")
