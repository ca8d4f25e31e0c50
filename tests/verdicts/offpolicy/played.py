"""Logs with propensities in a small world, for the tests of off-policy estimates."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from segue.runs.recommendations import Recommendations
from segue.simulation.policies import Lists, Policy
from segue.simulation.world import World
from segue.verdicts.offpolicy.behaviours import LogFolder
from segue.verdicts.offpolicy.decisions import Decisions, read_decisions
from segue.verdicts.offpolicy.estimates import EstimateSettings, OffPolicyLog
from tests.simulation.running import run


def simulate(world: World, folder: Path, policies: Mapping[str, Policy], **changes: Any) -> dict[str, Any]:
    return run(world, folder, policies, **{"sessions": 1500, **changes})


def neighbours(world: World, path: Path, num: int = 8, step: int = 1) -> Path:
    """Lists of the tracks that follow a track in the catalogue, at every `step`."""
    rows = (np.arange(len(world.catalog))[:, None] + step * (1 + np.arange(num))) % len(world.catalog)
    scores = np.full(rows.shape, np.nan, np.float32)
    Recommendations(rows=rows, scores=scores).write(path, world.catalog, format="botify")
    return path


def lists(world: World, path: Path, pick: str = "uniform", artist_gap: int = 0) -> Lists:
    return Lists(path=str(path), pick=pick, artist_gap=artist_gap, world=world)


def opened(run: Path) -> tuple[LogFolder, OffPolicyLog]:
    folder = LogFolder.open(run / "logs")
    return folder, OffPolicyLog(
        read_decisions(folder.logs, folder.catalog, max_rejected=0.0, session_gap_minutes=30), folder
    )


def first_decisions(users: list[int], tracks: list[int]) -> Decisions:
    """Sessions that have played one track, the first one of their users."""
    num = len(users)
    none, nan = np.zeros(num, np.int64), np.full(num, np.nan)
    columns: dict[str, Any] = {"started_ms": none, "times_ms": none, "setting": none, "num_before": none}
    return Decisions(
        users=np.array(users),
        settings=[],
        first=np.arange(num),
        lengths=none + 1,
        tracks=np.array(tracks),
        shares=nan,
        is_kept=np.ones(num, bool),
        numbers=np.zeros((num, 2), np.int64),
        propensities=nan,
        left_out={},
        num_sessions=num,
        lines_rejected=0,
        **columns,
    )


def settings(**changes: Any) -> EstimateSettings:
    usual: dict[str, Any] = {
        "clip": 100.0, "min_effective_sample_size": 2.0, "max_without_support": 0.01, "min_session_weight": 0.9,
    }  # fmt: skip
    return EstimateSettings(**{**usual, **changes})


def without_propensity(_: int, line: str) -> str:
    """A line of a log without propensity and release."""
    return re.sub(r', "propensity".*', "}", line)


def edit(log: Path, change: Callable[[int, str], str]) -> None:
    """Change the lines of a log, given their number and text."""
    lines = log.read_text(encoding="utf-8").splitlines()
    log.write_text("".join(change(number, line) + "\n" for number, line in enumerate(lines)), encoding="utf-8")
