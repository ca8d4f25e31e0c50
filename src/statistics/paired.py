"""The paired difference of two set-ups, with the variation across seeds and test sessions.

R runs of a set-up, Q test queries, G test sessions.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from scipy import stats

from segue.statistics.intervals import clustered_variance

_ROUNDING = 1e-12  # metrics are in [0, 1]: a smaller difference is a rounding error of a sum


@dataclass(frozen=True, kw_only=True, eq=False)
class QueryScores:
    """Summary of one set-up and one metric, as the paired test needs it.

    Args:
        mean: over queries and runs.
        session_sums: for each session, the sum over its queries of the value (averaged over runs) less the mean.
        num_queries: Q.
        run_means: mean over queries of each run.
    """

    mean: float
    session_sums: Float64[np.ndarray, "G"]
    num_queries: int
    run_means: Float64[np.ndarray, "R"]

    @classmethod
    def of(cls, values: Float64[np.ndarray, "R Q"], session: Int64[np.ndarray, "Q"]) -> "QueryScores":
        """The summary of the values of each run and query.

        Args:
            values: value of each query in each run, shape `[R, Q]`.
            session: session of each query, numbered 0..G-1, shape `[Q]`.
        """
        of_query = values.mean(0)
        mean = float(of_query.mean())
        sums = np.bincount(session, of_query - mean)
        return cls(mean=mean, session_sums=sums, num_queries=len(session), run_means=values.mean(1))


@dataclass(frozen=True)
class PairedDifference:
    """A difference with its interval and p-value.

    Numbers are NaN if there is no test: with one session only, or if a difference other than 0 does not vary at all.

    Args:
        difference: the difference of the means.
        lower: lower bound of its interval.
        upper: upper bound of its interval.
        p_value: two-sided, in [0, 1].
        degrees_of_freedom: of the t distribution.
    """

    difference: float
    lower: float = float("nan")
    upper: float = float("nan")
    p_value: float = float("nan")
    degrees_of_freedom: float = float("nan")


def paired_difference(ours: QueryScores, theirs: QueryScores, level: float) -> PairedDifference:
    """The mean of one set-up less the mean of another, paired by query.

    The variance is the sum of two parts:

    - Test sessions. Both set-ups answered the same queries, therefore this is the variance of the paired difference.
      Queries of one session are similar, therefore sessions are the unit (linearised ratio, G/(G−1)).
    - Seeds. This is the variance of the means of the runs, divided by R, for each side with at least two runs. It is
      unpaired, because the same seed gives different weights in a different architecture.

    The interaction of seed and query is in both parts, therefore the error is slightly too large. A side with one run
    has no estimate for its seed; that part is left out. A part that is 0 does not enter the degrees of freedom.

    Args:
        ours: summary of one set-up.
        theirs: summary of the other set-up on the same queries.
        level: of the interval, in (0, 1).

    Returns:
        The difference, its interval, p-value and degrees of freedom.

    Source: Liang & Zeger 1986 (clusters), Satterthwaite 1946 (sum of variances).
    """
    difference, residual = round(ours.mean - theirs.mean, 12), ours.session_sums - theirs.session_sums
    num_sessions, seeds = len(residual), [one.run_means for one in (ours, theirs) if len(one.run_means) > 1]
    parts = [(float(means.var(ddof=1)) / len(means), len(means) - 1) for means in seeds]
    if num_sessions > 1:
        parts.append((clustered_variance(residual, ours.num_queries), num_sessions - 1))
    parts = [(variance, df) for variance, df in parts if variance > _ROUNDING**2]
    if difference == 0 and not parts:
        return PairedDifference(0.0, 0.0, 0.0, p_value=1.0)
    if num_sessions < 2 or not parts:
        return PairedDifference(difference)
    total = sum(variance for variance, _ in parts)
    df = total**2 / sum(variance**2 / own for variance, own in parts)
    margin = float(stats.t.ppf((1 + level) / 2, df)) * total**0.5
    p_value = 2 * float(stats.t.sf(abs(difference) / total**0.5, df))
    return PairedDifference(difference, difference - margin, difference + margin, p_value, df)
