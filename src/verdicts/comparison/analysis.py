"""Which set-up is best, and is the difference real? The statistics of `compare.py`.

A set-up is the whole config except the seed; its runs differ only in the seed. Validation chooses: set-ups are sorted
by the mean of one validation metric over seeds, and the first is the best. Test metrics are reported and choose
nothing. R runs of a set-up, Q test queries, G test sessions.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from math import inf
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int64

from segue.errors import InputError
from segue.settings import Setting, settings
from segue.statistics.direction import direction
from segue.statistics.holm import holm
from segue.statistics.intervals import MeanInterval
from segue.statistics.online import TIME, VAL_TIME
from segue.statistics.paired import PairedDifference, QueryScores, paired_difference
from segue.statistics.ranking import ACCURACY, BY_NEWNESS
from segue.verdicts.comparison.paired_listening import is_paired, listening_scores
from segue.verdicts.comparison.verdict import BEATS, NOT_DISTINGUISHABLE, WORSE, Heard, disagreement, verdict

QUERY = ("session", "previous", "following")
"""The columns that identify a test query."""

TESTED = tuple(ACCURACY)
"""The metrics with one value per query, which two set-ups can be tested on. Those of BY_NEWNESS are
tested too, where the test queries have new tracks."""


_OF_NEW_TRACKS = {f"test/{name}" for name in BY_NEWNESS}
"""Metrics that a run has only where its test queries have new tracks."""

ESTIMATES = ("estimate/first_step_dr", "estimate/session_snips")
"""What `abtest.py candidate=run:<id>` estimated of a run."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """One tracked run.

    Args:
        run_id: id of the run in MLflow.
        setup: name of the set-up, the same for all runs that differ only in the seed.
        seed: seed of the run.
        metrics: final values by name, such as `test/ndcg_at_10` or `fit_seconds`; a value that is not finite counts
            as missing.
        queries: the run's `test_queries.parquet` with at least the columns QUERY and TESTED, or None. Columns of
            BY_NEWNESS are NaN where a query is not in the group.
        listening: the run's listening test (`LISTENERS_FILE`), or None.
        history: learning curves by metric, as pairs of epoch (counted from 0) and value.
        alpha: share of the track cosine in [0, 1]; None for a model that has none.
        world: the overrides that choose the world whose simulated logs it learned from, such as
            `("world=published",)`, empty for the default world; None for other logs.
    """

    run_id: str
    setup: str
    seed: int
    metrics: Mapping[str, float]
    queries: pd.DataFrame | None
    listening: pd.DataFrame | None
    history: Mapping[str, Sequence[tuple[int, float]]]
    alpha: float | None
    world: tuple[str, ...] | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Setup:
    """The runs of one set-up, sorted by seed, and the mean of each metric.

    Args:
        name: name of the set-up.
        runs: its runs.
        means: mean and interval over runs, by metric.
    """

    name: str
    runs: tuple[Run, ...]
    means: Mapping[str, MeanInterval]

    @property
    def alpha(self) -> float | None:
        """Mean alpha of its runs (they differ where alpha is learned); None if a run has no alpha."""
        alphas = [run.alpha for run in self.runs if run.alpha is not None]
        return float(np.mean(alphas)) if len(alphas) == len(self.runs) else None

    @property
    def runs_with_queries(self) -> list[tuple[Run, pd.DataFrame]]:
        """The runs that have test queries, and these queries."""
        return [(run, run.queries) for run in self.runs if run.queries is not None and len(run.queries)]

    @property
    def repeated_seeds(self) -> list[int]:
        """Seeds that occur in more than one of its runs."""
        return [seed for seed, count in Counter(run.seed for run in self.runs).items() if count > 1]


@dataclass(frozen=True, kw_only=True)
class Difference(PairedDifference):
    """Value of a set-up minus the value of the best set-up, in a test metric: negative where the set-up is worse.

    The interval covers this one difference. `holm_p_value` is corrected over all differences of the metric.

    Args:
        setup: name of the set-up.
        metric: the test metric.
        holm_p_value: p-value after Holm's correction; NaN where there was no test.
    """

    setup: str
    metric: str
    holm_p_value: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """Set-ups, best first, and the tested differences of the others from the best.

    Args:
        select: the metric that chose.
        mode: `max` or `min`: which mean of `select` is best.
        level: confidence level of all intervals, such as 0.95. `1 - level`: probability of a false alarm.
        metrics: the metrics that are shown, `select` first.
        missing: requested metrics that no run has.
        setups: best first; set-ups without `select` are last.
        differences: one for each tested set-up and metric.
        primary: the test metric that the verdict is about; TIME if the listening test chose; None if none is tested.
        num_queries: size of the test set; 0 if no run has its queries.
        num_sessions: number of test sessions.
        num_listeners: number of listeners that differences in TIME are paired by; 0 if these are not tested.
    """

    select: str
    mode: str
    level: int | float
    metrics: tuple[str, ...]
    missing: tuple[str, ...]
    setups: tuple[Setup, ...]
    differences: tuple[Difference, ...]
    primary: str | None
    num_queries: int
    num_sessions: int
    num_listeners: int

    @property
    def best(self) -> Setup:
        """The set-up that validation chose."""
        return self.setups[0]

    def difference(self, setup: str, metric: str) -> Difference | None:
        """The difference of a set-up in a metric; None for the best set-up itself and where nothing was tested."""
        return next((one for one in self.differences if (one.setup, one.metric) == (setup, metric)), None)

    def is_significant(self, difference: Difference) -> bool:
        """Whether a difference is significant after Holm's correction."""
        return difference.holm_p_value < 1 - self.level

    def better(self, metric: str) -> str | None:
        """`max` if higher is better, `min` if lower is better, None if neither is."""
        return self.mode if metric == self.select else direction(metric)

    def best_run(self, setup: Setup) -> Run:
        """The run of a set-up with the best value of `select`."""
        sign = 1 if self.mode == "max" else -1
        return max(setup.runs, key=lambda run: sign * run.metrics.get(self.select, -sign * inf))

    def leads(self, setup: Setup, metric: str) -> bool:
        """Whether no other set-up has a better mean; False if the metric has no better, or fewer than two have it."""
        better = self.better(metric)
        means = [one.means[metric].mean for one in self.setups if one.means[metric].num]
        if better is None or len(means) < 2 or not setup.means[metric].num:
            return False
        return setup.means[metric].mean == (max(means) if better == "max" else min(means))

    @property
    def verdict(self) -> str:
        """One sentence: which set-up is best by validation, and what the test shows."""
        tested = [one for one in self.differences if one.metric == self.primary]
        return verdict(
            best=self.best.name,
            others=[setup.name for setup in self.setups[1:]],
            outcomes={one.setup: self._outcome(one) for one in tested},
            select=self.select,
            primary=self.primary,
            alpha=1 - self.level,
        )

    @property
    def offline(self) -> str | None:
        """The metric that would choose if there were no listeners; None where it does, or if none is shown."""
        return next((name for name in self.metrics if name.startswith("val/")), None) if self.is_online else None

    @property
    def is_online(self) -> bool:
        """Whether the time of simulated listeners chose."""
        return self.select.startswith("online/")

    @property
    def disagreement(self) -> str | None:
        """One sentence if an offline metric would choose another set-up than the listeners, and why; else None."""
        if (offline := self.offline) is None:
            return None
        known = [setup for setup in self.setups if setup.means[offline].num]
        sign = -1 if direction(offline) == "min" else 1
        theirs = max(known, key=lambda setup: sign * setup.means[offline].mean)
        one = self.difference(theirs.name, TIME)
        if theirs is self.best or one is None:
            return None
        values = [{name: mean.mean for name, mean in setup.means.items() if mean.num} for setup in (theirs, self.best)]
        return disagreement(
            metric=offline,
            chosen=Heard.of(theirs.name, values[0]),
            best=Heard.of(self.best.name, values[1]),
            is_sure=self.is_significant(one),
        )

    def _outcome(self, difference: Difference) -> str:
        """The result of the best set-up against another one."""
        if not self.is_significant(difference):
            return NOT_DISTINGUISHABLE
        return BEATS if difference.difference < 0 else WORSE

    def record(self) -> dict[str, Any]:
        """The comparison as plain values, for `comparison.json` and the table."""
        setups = []
        for setup in self.setups:
            means = {
                metric: {
                    "num_runs": mean.num,
                    "mean": mean.mean,
                    "lower": mean.lower,
                    "upper": mean.upper,
                    "leads": self.leads(setup, metric),
                }
                for metric, mean in setup.means.items()
            }
            own = [one for one in self.differences if one.setup == setup.name]
            tests = {one.metric: {**asdict(one), "sure": self.is_significant(one)} for one in own}
            setups.append(
                {
                    "setup": setup.name,
                    "alpha": setup.alpha,
                    "seeds": [run.seed for run in setup.runs],
                    "run_ids": [run.run_id for run in setup.runs],
                    "metrics": means,
                    "differences": tests,
                }
            )
        return {
            "verdict": self.verdict,
            "disagreement": self.disagreement,
            "select": self.select,
            "mode": self.mode,
            "level": self.level,
            "primary": self.primary,
            "metrics": list(self.metrics),
            "missing": list(self.missing),
            "better": {metric: self.better(metric) for metric in self.metrics},
            "num_queries": self.num_queries,
            "num_sessions": self.num_sessions,
            "num_listeners": self.num_listeners,
            "setups": setups,
        }


@settings()
def compare(
    runs: Sequence[Run],
    *,
    select: str,
    mode: Annotated[Literal["max", "min"], Setting("which mean of select is best")],
    metrics: Sequence[str],
    level: Annotated[float, Setting("confidence level of the intervals", least=0.5, most=0.9999, hint="0.95 is usual")],
) -> Comparison:
    """Sort the set-ups by validation, and test each against the best.

    Args:
        runs: runs of all set-ups, in any order.
        select: the validation metric that chooses the best set-up.
        metrics: metrics to show. Those of TESTED and BY_NEWNESS, named `test/<name>`, are also tested. Effects of A/B
            tests (`ab/…_effect_percent`) and estimates from other logs (ESTIMATES) are always shown where a run has
            them.

    Returns:
        Set-ups, best first, with the tested differences.

    Raises:
        InputError: no run has `select`, or it is a test metric, or `mode` contradicts it; runs were tested on
            different queries; `level` is out of range.
    """
    _check(runs, select, mode)
    known = {name for run in runs for name, value in run.metrics.items() if np.isfinite(value)}
    effects = sorted(name for name in known if re.fullmatch("ab/.*_effect_percent", name))
    requested = list(dict.fromkeys([select, *metrics, *effects, *(name for name in ESTIMATES if name in known)]))
    if not any(name.startswith("online/") for name in known):  # logs of no world
        requested = [name for name in requested if not name.startswith("online/")]
    # what cannot be estimated from the logs of the runs is not missing
    optional = {name for name in requested if name.startswith("offline/")} | _OF_NEW_TRACKS
    requested = [name for name in requested if name in known or name not in optional]
    shown = tuple(name for name in requested if name in known)
    setups = sorted((_setup(own, shown, level) for own in _by_setup(runs)), key=lambda one: _rank(one, select, mode))
    tested = [name for name in shown if name in (f"test/{one}" for one in (*TESTED, *BY_NEWNESS))]
    scores, num_queries, num_sessions = _query_scores(setups, tested)
    listened = listening_scores(
        {setup.name: [run.listening for run in setup.runs if run.listening is not None] for setup in setups}
        if TIME in shown and is_paired([run.listening for run in runs])
        else {}
    )
    scores = {TIME: listened, **scores} if listened else scores
    differences = [
        difference
        for metric, of_setup in scores.items()
        if setups[0].name in of_setup
        for difference in differences_from_first(of_setup, metric, level)
    ]
    of_select = "test/" + select.rsplit("/")[-1]
    primary = of_select if of_select in tested else next(iter(tested), None)
    if listened and select.startswith("online/"):
        primary = TIME
    return Comparison(
        select=select,
        mode=mode,
        level=level,
        metrics=shown,
        missing=tuple(name for name in requested if name not in known),
        setups=tuple(setups),
        differences=tuple(differences),
        primary=primary,
        num_queries=num_queries,
        num_sessions=num_sessions,
        num_listeners=len(next(iter(listened.values())).session_sums) if listened else 0,
    )


def _check(runs: Sequence[Run], select: str, mode: str) -> None:
    if select.startswith("test/"):
        raise InputError(
            f"select={select} is a test metric; only validation chooses the best set-up; use select=val/<metric>"
        )
    if select.startswith("offline/"):
        raise InputError(
            f"select={select} is estimated from the test logs; only validation chooses the best set-up; use "
            "select=val/<metric>"
        )
    if select == TIME:
        raise InputError(
            f"select={select} is of the listeners whose time is reported; other listeners choose the best set-up; use "
            f"select={VAL_TIME}"
        )
    if direction(select) not in (mode, None):
        raise InputError(f"select={select} mode={mode} chooses the worst set-up; use mode={direction(select)}")
    if not any(np.isfinite(run.metrics.get(select, np.nan)) for run in runs):
        known = sorted(
            {name for run in runs for name in run.metrics if name.startswith("val/")}
            | {VAL_TIME for run in runs if VAL_TIME in run.metrics}
        )
        remedy = f"use one of {', '.join(known)}" if known else "they have no validation metric"
        raise InputError(f"select={select}: none of the {len(runs)} runs has this metric; {remedy}")


def _by_setup(runs: Sequence[Run]) -> list[list[Run]]:
    by_name: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: (run.setup, run.seed, run.run_id)):
        by_name.setdefault(run.setup, []).append(run)
    return list(by_name.values())


def _setup(runs: list[Run], metrics: Sequence[str], level: float) -> Setup:
    values = {name: np.array([run.metrics.get(name, np.nan) for run in runs], np.float64) for name in metrics}
    means = {name: MeanInterval.of(of_runs[np.isfinite(of_runs)], level) for name, of_runs in values.items()}
    return Setup(name=runs[0].setup, runs=tuple(runs), means=means)


def _rank(setup: Setup, select: str, mode: str) -> tuple[bool, float, str]:
    """Sort key: the best first, equal ones by name, those without the metric last."""
    mean = setup.means[select]
    return not mean.num, (-mean.mean if mode == "max" else mean.mean) if mean.num else 0.0, setup.name


def _query_scores(
    setups: Sequence[Setup], metrics: Sequence[str]
) -> tuple[dict[str, dict[str, QueryScores]], int, int]:
    """By test metric, the scores of each set-up that has queries; the number of queries and of sessions."""
    known = [pair for setup in setups for pair in setup.runs_with_queries]
    if not known:
        return {metric: {} for metric in metrics}, 0, 0
    (first, queries), *rest = known
    for run, own in rest:
        if len(own) != len(queries) or any(
            not np.array_equal(own[name].to_numpy(), queries[name].to_numpy()) for name in QUERY
        ):
            raise InputError(
                f"runs {first.run_id} ({first.setup}) and {run.run_id} ({run.setup}) were tested on different queries, "
                f"{len(queries):,} and {len(own):,}, and cannot be compared; choose runs of the same data and the same "
                "callbacks.ranking.max_test_queries with parent=<run id> or filter=<condition>"
            )
    sessions, session = np.unique(queries["session"].to_numpy(), return_inverse=True)
    scores: dict[str, dict[str, QueryScores]] = {metric: {} for metric in metrics}
    for metric in metrics:
        for setup in setups:
            name = metric.removeprefix("test/")
            values = [own[name].to_numpy(np.float64) for _, own in setup.runs_with_queries if name in own]
            if values:
                scores[metric][setup.name] = _scores_of_group(np.stack(values), session)
    return scores, len(queries), len(sessions)


def _scores_of_group(values: Float64[np.ndarray, "R Q"], session: Int64[np.ndarray, "Q"]) -> QueryScores:
    """The scores of the queries that have a value; the groups of BY_NEWNESS depend on the data alone."""
    has_value = np.isfinite(values).all(0)
    _, of_group = np.unique(session[has_value], return_inverse=True)
    return QueryScores.of(values[:, has_value], of_group.astype(np.int64))


def differences_from_first(scores: Mapping[str, QueryScores], metric: str, level: float) -> list[Difference]:
    """The difference of every other set-up from the first one, in one metric.

    Holm's correction is over all pairs, although only pairs with the first set-up are reported. Favourable seeds make
    a set-up the first by validation and also raise its test scores, therefore the choice of pairs matters. With a
    correction over the reported pairs only, eight equal set-ups of ten runs each raised a false alarm in 10 % of the
    experiments instead of 5 %.

    Args:
        scores: scores of each set-up on the same test queries, the best by validation first.
        metric: name of the metric.
        level: confidence level of the intervals, such as 0.95.

    Returns:
        One difference for each set-up except the first, in the order of `scores`.
    """
    pairs = list(combinations(scores, 2))
    differences = [paired_difference(scores[second], scores[first], level) for first, second in pairs]
    corrected = holm([difference.p_value for difference in differences])
    return [
        Difference(setup=second, metric=metric, holm_p_value=p_value, **asdict(difference))
        for (first, second), difference, p_value in zip(pairs, differences, corrected, strict=True)
        if first == next(iter(scores))
    ]
