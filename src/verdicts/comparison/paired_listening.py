"""The listening tests of runs: whether they can be paired, and which metric chooses the best set-up.

L reported listeners, R runs of a set-up.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from segue.statistics.online import VAL_TIME
from segue.statistics.paired import QueryScores


def choose_metric(
    names: Sequence[str], metrics: Sequence[Mapping[str, float]], listening: Sequence[pd.DataFrame | None]
) -> tuple[str, str | None]:
    """The metric that chooses the best set-up: the first that every run has, or else the last.

    Args:
        names: metrics in order, at least one.
        metrics: final values of each run.
        listening: the listening test of each run, None where it has none. VAL_TIME chooses only if all of them are of
            the same sessions.

    Returns:
        Its name; and a sentence if some runs have an earlier metric that does not choose, else None.
    """
    notes: list[str] = []
    for name in names[:-1]:
        num_known = sum(bool(np.isfinite(own.get(name, np.nan))) for own in metrics)
        if num_known == len(metrics) and (name != VAL_TIME or is_paired(listening)):
            return name, " ".join(notes) or None
        if num_known == len(metrics):
            notes.append(f"{name} does not choose, because the runs were played in different sessions.")
        elif num_known:
            notes.append(f"{name} does not choose, because {len(metrics) - num_known} of {len(metrics)} runs lack it.")
    return names[-1], " ".join(notes) or None


def is_paired(listening: Sequence[pd.DataFrame | None]) -> bool:
    """Whether all runs have a listening test, of the same listeners and sessions."""
    known = [frame for frame in listening if frame is not None and len(frame)]
    return len(known) == len(listening) > 0 and len({test for frame in known for test in set(frame["test"])}) == 1


def listening_scores(setups: Mapping[str, Sequence[pd.DataFrame]]) -> dict[str, QueryScores]:
    """The values of each set-up for a paired test: a listener is both the query and the session.

    Args:
        setups: for each set-up the listening tests of its runs, all of the same sessions.
    """
    scores = {}
    for name, frames in setups.items():
        reported = [frame[frame["part"] == "test"].sort_values("listener") for frame in frames]
        values = np.stack([frame["mean_time_per_session"].to_numpy(np.float64) for frame in reported])
        scores[name] = QueryScores.of(values, np.arange(values.shape[1]))
    return scores
