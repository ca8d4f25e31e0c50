"""Which set-up is best, and is the difference real? The statistics of `compare.py`.

A set-up is everything that is chosen but the seed; its runs differ in the seed alone. Validation chooses: set-ups are
sorted by the mean of one metric over seeds, and the first is the best. Test metrics stand beside it and choose nothing.
R runs of a set-up, Q test queries, G test sessions.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from src.comparison.verdict import BEATS, OPEN, WORSE, verdict
from src.errors import InputError, check_number
from src.evaluation.direction import direction
from src.statistics.holm import holm
from src.statistics.intervals import MeanInterval
from src.statistics.paired import PairedDifference, QueryScores, paired_difference

QUERY = ("session", "previous", "following")
"""The columns of a run's queries that say which test they are."""

TESTED = ("recall_at_1", "recall_at_10", "recall_at_50", "ndcg_at_10", "mrr")
"""The columns that have one value for each query, so that two set-ups can be tested. Higher is better."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """One tracked run.

    Args:
        run_id: of the run in MLflow.
        setup: label of the set-up, the same for all runs that differ in the seed alone.
        seed: of the run.
        metrics: final values by name, such as `test/ndcg_at_10` or `fit_seconds`; what is not finite is missing.
        queries: the run's `test_queries.parquet` with at least the columns QUERY and TESTED, or None.
        history: learning curves, epoch and value, by metric.
        alpha: share of the track cosine, where the model has one.
    """

    run_id: str
    setup: str
    seed: int
    metrics: Mapping[str, float]
    queries: pd.DataFrame | None
    history: Mapping[str, Sequence[tuple[int, float]]]
    alpha: float | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Setup:
    """The runs of one set-up in the order of their seeds, and the mean of each metric."""

    name: str
    runs: tuple[Run, ...]
    means: Mapping[str, MeanInterval]

    @property
    def alpha(self) -> float | None:
        """Mean over its runs, which differ where alpha is learned; None where a run has none."""
        alphas = [run.alpha for run in self.runs if run.alpha is not None]
        return float(np.mean(alphas)) if len(alphas) == len(self.runs) else None

    @property
    def queried(self) -> list[tuple[Run, pd.DataFrame]]:
        """The runs that know their test queries, and so can be tested, with these."""
        return [(run, run.queries) for run in self.runs if run.queries is not None and len(run.queries)]

    @property
    def repeated_seeds(self) -> list[int]:
        """Seeds that more than one of its runs has."""
        return [seed for seed, count in Counter(run.seed for run in self.runs).items() if count > 1]


@dataclass(frozen=True, kw_only=True)
class Difference(PairedDifference):
    """A set-up less the best one, in a test metric: negative where it is worse.

    The interval holds for this difference by itself; `holm_p_value` for all of the metric's together.
    """

    setup: str
    metric: str
    holm_p_value: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """Set-ups, best first, and how surely the others differ from the best on test.

    Args:
        select: the metric that chose.
        mode: whether its highest or its lowest mean is the best.
        level: of all intervals, such as 0.95; the error that is accepted is the rest.
        metrics: what is shown, `select` first.
        missing: metrics that were asked for and no run has.
        setups: best first; those without `select` are last.
        differences: of each tested set-up and metric.
        primary: the test metric that the verdict is about; None where none of TESTED is shown.
        num_queries: of the test set, 0 where no run knows its queries.
        num_sessions: of the test set.
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

    @property
    def best(self) -> Setup:
        """The set-up that validation chose."""
        return self.setups[0]

    def difference(self, setup: str, metric: str) -> Difference | None:
        """The one of a set-up and a metric; None for the best itself and what was not tested."""
        return next((one for one in self.differences if (one.setup, one.metric) == (setup, metric)), None)

    def is_sure(self, one: Difference) -> bool:
        """Whether a difference is significant among all of its metric."""
        return one.holm_p_value < 1 - self.level

    def better(self, metric: str) -> str | None:
        """Whether higher or lower is better, or neither."""
        return self.mode if metric == self.select else direction(metric)

    def leads(self, setup: Setup, metric: str) -> bool:
        """Whether no set-up has a better mean; never where nothing is better, or nobody to be better than."""
        better = self.better(metric)
        means = [one.means[metric].mean for one in self.setups if one.means[metric].num]
        if better is None or len(means) < 2 or not setup.means[metric].num:
            return False
        return setup.means[metric].mean == (max(means) if better == "max" else min(means))

    @property
    def verdict(self) -> str:
        """One sentence: who is best by validation, and what the test says of it."""
        tested = [one for one in self.differences if one.metric == self.primary]
        return verdict(
            best=self.best.name,
            others=[setup.name for setup in self.setups[1:]],
            outcomes={one.setup: self._outcome(one) for one in tested},
            select=self.select,
            primary=self.primary,
            alpha=1 - self.level,
        )

    def _outcome(self, one: Difference) -> str:
        """What the best set-up is to another one, by the difference between them."""
        return (BEATS if one.difference < 0 else WORSE) if self.is_sure(one) else OPEN

    def record(self) -> dict[str, Any]:
        """As plain values, for `comparison.json` and the table."""
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
            tests = {one.metric: {**asdict(one), "sure": self.is_sure(one)} for one in own}
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
            "select": self.select,
            "mode": self.mode,
            "level": self.level,
            "primary": self.primary,
            "metrics": list(self.metrics),
            "missing": list(self.missing),
            "better": {metric: self.better(metric) for metric in self.metrics},
            "num_queries": self.num_queries,
            "num_sessions": self.num_sessions,
            "setups": setups,
        }


def compare(runs: Sequence[Run], *, select: str, mode: str, metrics: Sequence[str], level: int | float) -> Comparison:
    """Sort the set-ups by validation, and test each against the best.

    Args:
        runs: of all set-ups, in any order.
        select: the metric that chooses, of validation.
        mode: whether its highest ("max") or lowest ("min") mean is the best.
        metrics: what is shown. Those of TESTED, as `test/<name>`, are also tested; effects of A/B tests that any run
            has are shown besides.
        level: of the intervals, such as 0.95.

    Raises:
        InputError: no run has `select`, or it is of the test set, or `mode` contradicts it; runs were tested on
            different queries; `level` is no such share.
    """
    _check(runs, select, mode, level)
    known = {name for run in runs for name, value in run.metrics.items() if np.isfinite(value)}
    online = sorted(name for name in known if re.fullmatch("ab/.*_effect_percent", name))
    wanted = list(dict.fromkeys([select, *metrics, *online]))
    shown = tuple(name for name in wanted if name in known)
    setups = sorted((_setup(own, shown, level) for own in _by_setup(runs)), key=lambda one: _place(one, select, mode))
    tested = [name for name in shown if name.removeprefix("test/") in TESTED and name.startswith("test/")]
    samples, num_queries, num_sessions = _samples(setups, tested)
    differences = [
        one for metric, own in samples.items() if setups[0].name in own for one in against_first(own, metric, level)
    ]
    of_select = "test/" + select.rsplit("/")[-1]
    primary = of_select if of_select in tested else next(iter(tested), None)
    return Comparison(
        select=select,
        mode=mode,
        level=level,
        metrics=shown,
        missing=tuple(name for name in wanted if name not in known),
        setups=tuple(setups),
        differences=tuple(differences),
        primary=primary,
        num_queries=num_queries,
        num_sessions=num_sessions,
    )


def _check(runs: Sequence[Run], select: str, mode: str, level: int | float) -> None:
    check_number("level", level, least=0.5, most=0.9999, hint="0.95 is usual")
    if mode not in ("max", "min"):
        raise InputError(f"mode must be max or min, got {mode!r}")
    if select.startswith("test/"):
        raise InputError(f"select={select} is a test metric, and the test set chooses nothing; use select=val/<metric>")
    if direction(select) not in (mode, None):
        raise InputError(f"select={select} mode={mode} chooses the worst set-up; use mode={direction(select)}")
    if not any(np.isfinite(run.metrics.get(select, np.nan)) for run in runs):
        known = sorted({name for run in runs for name in run.metrics if name.startswith("val/")})
        has = ", ".join(known) or "nothing of validation"
        raise InputError(f"select={select}: none of the {len(runs)} runs has it; they have {has}")


def _by_setup(runs: Sequence[Run]) -> list[list[Run]]:
    gathered: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: (run.setup, run.seed, run.run_id)):
        gathered.setdefault(run.setup, []).append(run)
    return list(gathered.values())


def _setup(runs: list[Run], metrics: Sequence[str], level: float) -> Setup:
    values = {name: np.array([run.metrics.get(name, np.nan) for run in runs], np.float64) for name in metrics}
    means = {name: MeanInterval.of(given[np.isfinite(given)], level) for name, given in values.items()}
    return Setup(name=runs[0].setup, runs=tuple(runs), means=means)


def _place(setup: Setup, select: str, mode: str) -> tuple[bool, float, str]:
    """Sorts the best first, equals by name, and those that do not have the metric last."""
    mean = setup.means[select]
    return not mean.num, (-mean.mean if mode == "max" else mean.mean) if mean.num else 0.0, setup.name


def _samples(setups: Sequence[Setup], metrics: Sequence[str]) -> tuple[dict[str, dict[str, QueryScores]], int, int]:
    """For each test metric the set-ups that have queries, in their order; number of queries and of sessions."""
    asked = [one for setup in setups for one in setup.queried]
    if not asked:
        return {metric: {} for metric in metrics}, 0, 0
    (first, queries), *rest = asked
    for run, own in rest:
        if len(own) != len(queries) or any(
            not np.array_equal(own[name].to_numpy(), queries[name].to_numpy()) for name in QUERY
        ):
            raise InputError(
                f"runs {first.run_id} ({first.setup}) and {run.run_id} ({run.setup}) were tested on different queries, "
                "so they cannot be compared; choose runs of the same data with parent=<run id> or filter=<condition>"
            )
    sessions, session = np.unique(queries["session"].to_numpy(), return_inverse=True)
    samples: dict[str, dict[str, QueryScores]] = {metric: {} for metric in metrics}
    for metric in metrics:
        for setup in setups:
            values = [own[metric.removeprefix("test/")].to_numpy(np.float64) for _, own in setup.queried]
            if values:
                samples[metric][setup.name] = QueryScores.of(np.stack(values), session.astype(np.int64))
    return samples, len(queries), len(sessions)


def against_first(samples: Mapping[str, QueryScores], metric: str, level: float) -> list[Difference]:
    """Every set-up but the first less the first, by one metric.

    Holm's correction is over all pairs, though only those with the first are reported: favourable seeds make a set-up
    the first by validation and raise its test scores too, so the choice of pairs matters. Corrected over the others
    alone, eight equal set-ups of ten runs each raised a false alarm 10 % of the time, where 5 % was promised.
    """
    pairs = list(combinations(samples, 2))
    found = [paired_difference(samples[other], samples[one], level) for one, other in pairs]
    corrected = holm([one.p_value for one in found])
    return [
        Difference(setup=other, metric=metric, holm_p_value=p_value, **asdict(one))
        for (first, other), one, p_value in zip(pairs, found, corrected, strict=True)
        if first == next(iter(samples))
    ]
