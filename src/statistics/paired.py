"""How certain the difference of two set-ups is: over the seeds that were drawn, and the sessions that were in the test.

R runs of a set-up, Q test queries, G test sessions.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from scipy import stats

_ROUNDING = 1e-12
"""Accuracy lies in [0, 1]: what is smaller came from the order of a sum."""


@dataclass(frozen=True, kw_only=True, eq=False)
class QueryScores:
    """What a test needs of a set-up and a metric.

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
        """Of the values of each run and query; sessions are numbered 0..G-1."""
        of_query = values.mean(0)
        mean = float(of_query.mean())
        sums = np.bincount(session, of_query - mean)
        return cls(mean=mean, session_sums=sums, num_queries=len(session), run_means=values.mean(1))


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """A difference with its interval, two-sided p-value and degrees of freedom.

    NaN where there is no test: one session only, or a difference that does not vary at all and is not 0.
    """

    difference: float
    lower: float = float("nan")
    upper: float = float("nan")
    p_value: float = float("nan")
    degrees_of_freedom: float = float("nan")


def paired_difference(ours: QueryScores, theirs: QueryScores, level: float) -> PairedDifference:
    """Ours less theirs, paired by query.

    The variance has two parts. Test sessions: both set-ups answered the same queries, so the variance is that of the
    paired difference, and queries of a session are alike, so sessions are the unit (linearised ratio, G/(G−1)). Seeds:
    the variance of the runs' means over R, of each side that has two runs; unpaired, since the same seed draws other
    weights in another architecture. The interaction of seed and query is in both parts, so the error is slightly too
    large. A side of one run has no estimate for its seed, and that part is left out. A part that is 0 drops out of the
    degrees of freedom. Source: Liang & Zeger 1986 (clusters), Satterthwaite 1946 (their sum).
    """
    found, residual = round(ours.mean - theirs.mean, 12), ours.session_sums - theirs.session_sums
    num_sessions, seeds = len(residual), [one.run_means for one in (ours, theirs) if len(one.run_means) > 1]
    parts = [(float(means.var(ddof=1)) / len(means), len(means) - 1) for means in seeds]
    if num_sessions > 1:
        squares = float(residual @ residual) * num_sessions / (num_sessions - 1)
        parts.append((squares / ours.num_queries**2, num_sessions - 1))
    parts = [(variance, df) for variance, df in parts if variance > _ROUNDING**2]
    if found == 0 and not parts:
        return PairedDifference(difference=0.0, lower=0.0, upper=0.0, p_value=1.0)
    if num_sessions < 2 or not parts:
        return PairedDifference(difference=found)
    total = sum(variance for variance, _ in parts)
    df = total**2 / sum(variance**2 / own for variance, own in parts)
    reach = float(stats.t.ppf((1 + level) / 2, df)) * total**0.5
    p_value = 2 * float(stats.t.sf(abs(found) / total**0.5, df))
    return PairedDifference(
        difference=found, lower=found - reach, upper=found + reach, p_value=p_value, degrees_of_freedom=df
    )
