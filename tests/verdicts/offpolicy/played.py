"""Logs with propensities in a small world, for the tests of estimates."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from segue.runs.recommendations import Recommendations
from segue.simulation.policies import Policy
from segue.simulation.world import World
from segue.verdicts.offpolicy.candidate import Candidate, candidate_of, catalog_of_logs
from segue.verdicts.offpolicy.decisions import Decisions, read_decisions
from segue.verdicts.offpolicy.estimate import OffPolicy, estimate
from tests.simulation.running import run

DEFAULTS: dict[str, Any] = {
    "pick": "uniform", "artist_gap": 0, "familiar": "learned", "exploration": 0.0,
    "fallback": "random", "context": None, "num_lists": 4,
}  # fmt: skip
"""The settings of a candidate, as conf/arm/recommendations.yaml has them."""


def simulate(world: World, folder: Path, policies: Mapping[str, Policy], **changes: Any) -> dict[str, Any]:
    return run(world, folder, policies, **{"sessions": 1500, **changes})


def neighbours(world: World, path: Path, num: int = 8) -> Path:
    """Lists of the tracks that follow a track in the catalogue."""
    rows = (np.arange(len(world.catalog))[:, None] + 1 + np.arange(num)) % len(world.catalog)
    plays = np.where(np.arange(len(world.catalog)) % 7 == 2, 1, 80)
    given = Recommendations(rows=rows, scores=np.full(rows.shape, np.nan, np.float32), plays=plays)
    given.write(path, world.catalog, format="botify")
    return path


def opened(folder: Path, given: Any) -> tuple[Decisions, Candidate]:
    """The decisions of the log of a run, and a candidate."""
    catalog, popular, _ = catalog_of_logs(folder / "logs", None)
    log = read_decisions(folder / "logs", catalog, max_rejected=0.01, session_gap_minutes=30)
    return log, candidate_of(given, locate=Path, defaults=DEFAULTS, catalog=catalog, popular=popular)


def estimated(folder: Path, given: Any) -> OffPolicy:
    return estimate(*opened(folder, given), catalog_of_logs(folder / "logs", None)[0].artist_of)
