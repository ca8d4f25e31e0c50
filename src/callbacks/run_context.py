"""What the callbacks of one run share: the data, and values that they pass to each other and to `train.py`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
from jaxtyping import Float64, Int64
from pytorch_lightning import LightningModule
from typing_extensions import get_protocol_members

from segue.datamodules.split_datamodule import SplitDataModule
from segue.models.contracts import Ranker
from segue.reports.training_tables import ExampleTrack
from segue.runs.history import RunHistory
from segue.runs.phases import PhaseClock
from segue.runs.session_vectors import SessionVectors


@dataclass(frozen=True, eq=False, kw_only=True)
class RankedQueries:
    """The test queries and their ranks, Q of them.

    Args:
        following: row of the track that followed.
        rank: its rank among all candidates, from 1.
    """

    following: Int64[np.ndarray, "Q"]
    rank: Float64[np.ndarray, "Q"]


@dataclass(eq=False, kw_only=True)
class RunContext:
    """The data and the results of a run. Each result is set by one callback.

    A callback may be left out; code that reads a value must work without it.

    Args:
        datamodule: the data, set up.
        clock: counts the time of each phase; a callback that takes long ends a phase of its own.
        history: what was measured.
        test_queries: set by `RankingMetrics` in the test; None without queries.
        recommendations: the file that `Export` wrote.
        lists: reads the rows of the recommendations of each track, best first; set by `Export`, until the test has
            ended.
        vectors: the vectors of the head; None for a baseline. Set by `Export`.
        examples: some tracks and their best recommendations, for people; set by `Export`.
        pictures: the files that `Pictures` drew.
        is_pruned: whether the search has pruned the run.
    """

    datamodule: SplitDataModule
    clock: PhaseClock = field(default_factory=PhaseClock)
    history: RunHistory = field(default_factory=RunHistory)
    test_queries: RankedQueries | None = None
    recommendations: Path | None = None
    lists: Callable[[], Int64[np.ndarray, "N K"]] | None = None
    vectors: SessionVectors | None = None
    examples: Sequence[ExampleTrack] = ()
    pictures: list[Path] = field(default_factory=list)
    is_pruned: Callable[[], bool] = lambda: False


def ranker_of(pl_module: LightningModule) -> Ranker:
    """The module as the ranker that it is.

    Raises:
        TypeError: it is none, a bug of ours.
    """
    if missing := sorted(name for name in get_protocol_members(Ranker) if not hasattr(pl_module, name)):
        raise TypeError(f"{type(pl_module).__name__} is no Ranker (src/models/contracts.py): no {', '.join(missing)}")
    return cast(Ranker, pl_module)
