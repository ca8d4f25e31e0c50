"""Which set-up is best, and is the difference real? The statistics of `compare.py`, and their wording.

A set-up is the whole config except the seed; its runs differ only in the seed. Validation chooses: set-ups are sorted
by the mean of one validation metric over seeds, and the first is the best. Test metrics are reported and choose
nothing. R runs of a set-up, Q test queries, G test sessions.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations, groupby
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd

from segue.errors import InputError
from segue.settings import Setting, settings
from segue.statistics.direction import direction
from segue.statistics.holm import holm
from segue.statistics.intervals import MeanInterval
from segue.statistics.online import TIME, VAL_TIME
from segue.statistics.paired import PairedDifference, QueryScores, paired_difference
from segue.statistics.ranking import ACCURACY, BY_NEWNESS

QUERY = ("session", "previous", "following")
"""The columns that identify a test query."""

TESTED = tuple(ACCURACY)
"""The metrics with one value per query, which two set-ups can be tested on. Those of BY_NEWNESS are
tested too, where the test queries have new tracks."""

ESTIMATE = "estimate/first_step_dr"
"""What `abtest.py candidate=run:<id>` estimated of a run."""

_PAIRED = (*TESTED, *BY_NEWNESS)
_OF_EVERY_RUN = "(val|test)/(?!warm_|cold_).*"  # logs without new tracks, shares or a world lack others
_Scores = dict[str, QueryScores]


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """One tracked run.

    Args:
        run_id: id of the run in MLflow, or its folder.
        setup: name of the set-up, the same for all runs that differ only in the seed.
        metrics: final values by name, such as `test/ndcg_at_10` or `fit_seconds`; a value that is not finite counts
            as missing.
        queries: the run's `test_queries.parquet` with at least the columns QUERY and TESTED, or None. Columns of
            BY_NEWNESS are NaN where a query is not in the group.
        listening: the run's listening test (`LISTENERS_FILE`), or None.
        is_refitted: whether its lists, and what listeners played, are of a model that has learned all sessions.
    """

    run_id: str
    setup: str
    seed: int
    metrics: Mapping[str, float]
    queries: pd.DataFrame | None = None
    listening: pd.DataFrame | None = None
    is_refitted: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Setup:
    """The runs of one set-up, sorted by seed.

    Args:
        means: mean and interval over runs, by metric.
    """

    name: str
    runs: tuple[Run, ...]
    means: Mapping[str, MeanInterval]

    @property
    def queries(self) -> list[pd.DataFrame]:
        """The test queries of the runs that have some."""
        return [run.queries for run in self.runs if run.queries is not None and len(run.queries)]


@dataclass(frozen=True, kw_only=True)
class Difference(PairedDifference):
    """Value of a set-up minus the value of the best set-up, in a test metric: negative where the set-up is worse.

    The interval covers this one difference. `holm_p_value` is corrected over all pairs of set-ups, in this metric; NaN
    where there was no test.
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
    level: float
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

    @property
    def runs(self) -> list[Run]:
        """The runs of all set-ups."""
        return [run for setup in self.setups for run in setup.runs]

    @property
    def winner(self) -> Run:
        """The run with the best validation metric among the runs of the best set-up."""
        sign = 1 if self.mode == "max" else -1
        return max(self.best.runs, key=lambda run: sign * run.metrics.get(self.select, -sign * np.inf))

    def difference(self, setup: str, metric: str | None) -> Difference | None:
        """The difference of a set-up in a metric; None for the best set-up itself and where nothing was tested."""
        return next((one for one in self.differences if (one.setup, one.metric) == (setup, metric)), None)

    def is_significant(self, difference: Difference) -> bool:
        """Whether a difference is significant after Holm's correction."""
        return difference.holm_p_value < 1 - self.level

    def better(self, metric: str) -> str | None:
        """`max` if higher is better, `min` if lower is better, None if neither is."""
        return self.mode if metric == self.select else direction(metric)

    def leads(self, setup: Setup, metric: str) -> bool:
        """Whether no other set-up has a better mean; False if the metric has no better, or fewer than two have it."""
        better, means = self.better(metric), [one.means[metric].mean for one in self.setups if one.means[metric].num]
        if better is None or len(means) < 2:
            return False
        return setup.means[metric].mean == (max(means) if better == "max" else min(means))

    def record(self) -> dict[str, Any]:
        """The comparison as plain values, for `comparison.json`."""
        setups = [
            {
                "setup": setup.name,
                "seeds": [run.seed for run in setup.runs],
                "run_ids": [run.run_id for run in setup.runs],
                "metrics": {
                    metric: {"num_runs": mean.num, "mean": mean.mean, "lower": mean.lower, "upper": mean.upper}
                    | {"leads": self.leads(setup, metric)}
                    for metric, mean in setup.means.items()
                },
                "differences": {
                    one.metric: asdict(one) | {"sure": self.is_significant(one)}
                    for one in self.differences
                    if one.setup == setup.name
                },
            }
            for setup in self.setups
        ]
        better = {metric: self.better(metric) for metric in self.metrics}
        says = {"verdict": verdict(self), "disagreement": disagreement(self), "better": better, "setups": setups}
        return {name: value for name, value in vars(self).items() if name != "differences"} | says


def choose_metric(names: Sequence[str], runs: Sequence[Run]) -> tuple[str, list[str]]:
    """The metric that chooses the best set-up: the first that every run has, or else the last.

    Args:
        names: metrics in order, at least one. VAL_TIME chooses only if all runs were played in the same sessions.
        runs: what is compared.

    Returns:
        Its name; and a sentence for each earlier metric that some runs have.
    """
    notes: list[str] = []
    for name in names[:-1]:
        num_without = sum(not np.isfinite(run.metrics.get(name, np.nan)) for run in runs)
        if not num_without and (name != VAL_TIME or _is_paired(runs)):
            return name, notes
        if num_without < len(runs):
            why = f"{num_without} of {len(runs)} runs lack it" if num_without else "runs were played in other sessions"
            notes.append(f"{name} does not choose, because {why}.")
    return names[-1], notes


def _is_paired(runs: Sequence[Run]) -> bool:
    """Whether all runs have a listening test, of the same listeners and sessions."""
    tests = [set() if run.listening is None else set(run.listening["test"]) for run in runs]
    return all(tests) and len(set().union(*tests)) == 1


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
            tests (`ab/…_effect_percent`) and ESTIMATE are always shown where a run has them.

    Raises:
        InputError: no run has `select`, or it is a test metric, or `mode` contradicts it; runs were tested on
            different queries; `level` is out of range.
    """
    known = {name for run in runs for name, value in run.metrics.items() if np.isfinite(value)}
    _check_select(select, mode, known)
    more = [*sorted(name for name in known if re.fullmatch("ab/.*_effect_percent", name)), ESTIMATE]
    requested = list(dict.fromkeys([select, *metrics, *more]))
    shown = tuple(name for name in requested if name in known)
    sign = -1 if mode == "max" else 1  # the best first, equal ones by name, those without the metric last
    setups = _setups(_apart(runs), shown, level)
    setups.sort(key=lambda one: (not one.means[select].num, sign * np.nan_to_num(one.means[select].mean), one.name))
    scores, queries = _query_scores(setups, [name for name in shown if name.removeprefix("test/") in _PAIRED])
    listened = _listening_scores(setups) if TIME in shown and _is_paired(runs) else {}
    primary = "test/" + select.rsplit("/")[-1]
    if listened and select.startswith("online/"):
        primary = TIME
    return Comparison(
        select=select,
        mode=mode,
        level=level,
        metrics=shown,
        missing=tuple(one for one in requested if one not in known and re.fullmatch(_OF_EVERY_RUN, one)),
        setups=tuple(setups),
        differences=tuple(
            difference
            for metric, of_setup in {TIME: listened, **scores}.items()
            if setups[0].name in of_setup
            for difference in differences_from_first(of_setup, metric, level)
        ),
        primary=primary if primary == TIME or primary in scores else next(iter(scores), None),
        num_queries=len(queries),
        num_sessions=queries["session"].nunique(),
        num_listeners=len(next(iter(listened.values())).session_sums) if listened else 0,
    )


def _apart(runs: Sequence[Run]) -> Sequence[Run]:
    """Refitted runs as set-ups of their own, where listeners played the tested models of others."""
    kinds = {run.is_refitted for run in runs if any(name.startswith("online/") for name in run.metrics)}
    if len(kinds) < 2:
        return runs
    return [replace(run, setup=f"{run.setup} refitted") if run.is_refitted else run for run in runs]


def _check_select(select: str, mode: str, known: Iterable[str]) -> None:
    choices = sorted(name for name in known if name.startswith("val/") or name == VAL_TIME)
    if select not in choices:
        says = "only validation chooses, and never the listeners whose time is reported"
        raise InputError(f"select={select} is no validation metric of these runs: {says}; use one of {choices}")
    if direction(select) not in (mode, None):
        raise InputError(f"select={select} mode={mode} chooses the worst set-up; use mode={direction(select)}")


def _setups(runs: Sequence[Run], metrics: Sequence[str], level: float) -> list[Setup]:
    found = []
    ordered = sorted(runs, key=lambda run: (run.setup, run.seed, run.run_id))
    for name, group in groupby(ordered, lambda run: run.setup):
        own = tuple(group)
        values = {metric: np.array([run.metrics.get(metric, np.nan) for run in own], np.float64) for metric in metrics}
        means = {metric: MeanInterval.of(one[np.isfinite(one)], level) for metric, one in values.items()}
        found.append(Setup(name=name, runs=own, means=means))
    return found


def _query_scores(setups: Sequence[Setup], metrics: Sequence[str]) -> tuple[dict[str, _Scores], pd.DataFrame]:
    """By test metric, the scores of each set-up that has queries; and the queries, which are the same of all runs."""
    every = [one[list(QUERY)] for setup in setups for one in setup.queries]
    queries = every[0] if every else pd.DataFrame(columns=list(QUERY))
    if any(not np.array_equal(one.to_numpy(), queries.to_numpy()) for one in every):
        raise InputError(
            f"runs were tested on different queries, from {min(map(len, every)):,} to {max(map(len, every)):,}, and "
            "cannot be compared; choose runs of the same data and the same callbacks.ranking.max_test_queries with "
            "parent=<run id> or filter=<condition>"
        )
    scores: dict[str, _Scores] = {metric: {} for metric in metrics}
    for metric, of_setup in scores.items():
        name = metric.removeprefix("test/")
        for setup in setups:
            if rows := [one[name].to_numpy(np.float64) for one in setup.queries if name in one]:
                values = np.stack(rows)
                has_value = np.isfinite(values).all(0)  # the groups of BY_NEWNESS depend on the data alone
                of_group = np.unique(queries["session"].to_numpy()[has_value], return_inverse=True)[1]
                of_setup[setup.name] = QueryScores.of(values[:, has_value], of_group)
    return scores, queries


def _listening_scores(setups: Sequence[Setup]) -> _Scores:
    """The values of each set-up for a paired test: a listener is both the query and the session."""
    scores = {}
    for setup in setups:
        frames = [run.listening for run in setup.runs if run.listening is not None]
        reported = [frame[frame["part"] == "test"].sort_values("listener") for frame in frames]
        values = np.stack([frame["mean_time_per_session"].to_numpy(np.float64) for frame in reported])
        scores[setup.name] = QueryScores.of(values, np.arange(values.shape[1]))
    return scores


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


def verdict(comparison: Comparison) -> str:
    """One sentence without a full stop: which set-up is best by validation, and what the test shows."""
    best, *others = (setup.name for setup in comparison.setups)
    head, primary = f"{best} is best by {comparison.select}", comparison.primary
    if not others:
        return f"{best} is the only set-up: there is nothing to compare it with"
    tested = {one.setup: one for one in comparison.differences if one.metric == primary}
    if not tested:
        return f"{head}; whether the difference is real was not tested"
    clear = {name: one.difference < 0 for name, one in tested.items() if comparison.is_significant(one)}
    sure = f" (Holm p < {1 - comparison.level:.2g})"
    found = {
        "is worse than": ([name for name, is_beaten in clear.items() if not is_beaten], sure),
        "beats": ([name for name, is_beaten in clear.items() if is_beaten], sure),
        "is not distinguishable from": ([name for name in tested if name not in clear], ""),
    }
    results = " and ".join(f"{word} {listed(names)}{end}" for word, (names, end) in found.items() if names)
    untested = [name for name in others if name not in tested]
    left_out = f"; not tested: {listed(untested)}" * bool(untested)
    warning = "; validation and test contradict each other" * (False in clear.values())
    where = "with the reported listeners" if primary == TIME else f"on {str(primary).replace('/', ' ')}"
    return f"{head}; {where} it {results}{left_out}{warning}"


def disagreement(comparison: Comparison) -> str | None:
    """One sentence if an offline metric would choose another set-up than the listeners; else None."""
    offline, best = next((name for name in comparison.metrics if name.startswith("val/")), None), comparison.best
    if offline is None or not comparison.select.startswith("online/"):
        return None
    sign = -1 if direction(offline) == "min" else 1
    theirs = max(comparison.setups, key=lambda one: np.nan_to_num(sign * one.means[offline].mean, nan=-np.inf))
    if (one := comparison.difference(theirs.name, TIME)) is None:  # it is the best one too, or was not tested
        return None
    head = f"Offline ranking disagrees: {offline} would choose {theirs.name}"
    if not comparison.is_significant(one):
        return f"{head}, whose time per session is not distinguishable from that of {best.name}."
    times = f"{theirs.means[TIME].mean:.2f} ({best.name}: {best.means[TIME].mean:.2f})"
    what = "it measures how well the recommendations in the logs are predicted, not how long listeners play"
    return f"{head}, with a mean time per session of {times}; {what}."


def listed(names: Sequence[str], most: int = 6) -> str:
    """Names separated by commas, at most `most` of them and then the number of the others."""
    if len(names) <= most + 1:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} others"
