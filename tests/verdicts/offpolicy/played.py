"""Logs with propensities in a small world, for the tests of estimates."""

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from segue.runs.recommendations import Recommendations
from segue.simulation.experiment import run_experiment
from segue.simulation.policies import Policy
from segue.simulation.world import World
from segue.verdicts.offpolicy.candidate import Candidate, candidate_of, catalog_of_logs
from segue.verdicts.offpolicy.decisions import Decisions, read_decisions
from segue.verdicts.offpolicy.estimate import OffPolicy, estimate

DEFAULTS: dict[str, Any] = {
    "pick": "uniform", "artist_gap": 0, "familiar": "learned", "exploration": 0.0, "exploration_plays": 10,
    "fallback": "random", "context": None, "num_lists": 4,
}  # fmt: skip
"""The settings of a candidate, as conf/arm/recommendations.yaml has them."""


def simulate(world: World, folder: Path, policies: Mapping[str, Policy], **changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "experiment": "TEST",
        "sessions": 1500,
        "days": 1,
        "workers": 1,
        "seed": 1,
        "first_day": "2026-01-05",
        "track_seconds": 200.0,
        "write_logs": True,
        "with_propensity": True,
        "after": None,
        "provenance": {},
        "progress": lambda _: nullcontext(lambda *_: None),
    }
    return run_experiment(world=world, policies=policies, folder=folder, **{**settings, **changes})


def neighbours(world: World, path: Path, num: int = 8) -> Path:
    """Lists of the tracks that follow a track in the catalogue."""
    rows = (np.arange(len(world.catalog))[:, None] + 1 + np.arange(num)) % len(world.catalog)
    plays = np.where(np.arange(len(world.catalog)) % 7 == 2, 1, 80)
    given = Recommendations(rows=rows, scores=np.full(rows.shape, np.nan, np.float32), plays=plays)
    given.write(path, world.catalog, format="botify")
    return path


def opened(run: Path, given: Any) -> tuple[Decisions, Candidate]:
    """The decisions of the log of a run, and a candidate."""
    catalog, popular, _ = catalog_of_logs(run / "logs", None)
    log = read_decisions(run / "logs", catalog, max_rejected=0.01, session_gap_minutes=30)
    return log, candidate_of(given, locate=Path, defaults=DEFAULTS, catalog=catalog, popular=popular)


def estimated(run: Path, given: Any) -> OffPolicy:
    return estimate(*opened(run, given), catalog_of_logs(run / "logs", None)[0].artist_of)
