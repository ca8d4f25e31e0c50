"""Which set-up is best, and is the difference real? The statistics of `compare.py`, and their wording.

A set-up is the whole config except the seed; its runs differ only in the seed. Validation chooses: set-ups are sorted
by the mean of one validation metric over seeds, and the first is the best. Test metrics are reported and choose
nothing. R runs of a set-up, Q test queries, G test sessions.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations, groupby
from typing import Annotated, Literal

import numpy as np
import pandas as pd

from segue.errors import InputError
from segue.settings import Setting, settings
from segue.statistics.direction import direction
from segue.statistics.holm import holm
from segue.statistics.intervals import MeanInterval
from segue.statistics.online import SHARE_OF_HITS, SHARE_OF_SAME_ARTIST, TIME, VAL_TIME
from segue.statistics.paired import PairedDifference, QueryScores, paired_difference
from segue.statistics.ranking import ACCURACY, BY_NEWNESS

QUERY = ("session", "previous", "following")
"""The columns that identify a test query."""

TESTED = tuple(ACCURACY)
"""The metrics with one value per query, which two set-ups can be tested on. Those of BY_NEWNESS are
tested too, where the test queries have new tracks."""

_Scores = dict[str, QueryScores]

ESTIMATE = "estimate/first_step_dr"
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
        world: the overrides that choose the world whose simulated logs it learned from, such as
            `("world=published",)`, empty for the default world; None for other logs.
        is_refitted: whether its lists, and what listeners played, are of a model that has learned all sessions.
    """

    run_id: str
    setup: str
    seed: int
    metrics: Mapping[str, float]
    queries: pd.DataFrame | None = None
    listening: pd.DataFrame | None = None
    history: Mapping[str, Sequence[tuple[int, float]]] = field(default_factory=dict)
    world: tuple[str, ...] | None = None
    is_refitted: bool = False


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
        alphas = [run.metrics["alpha"] for run in self.runs if "alpha" in run.metrics]
        return float(np.mean(alphas)) if len(alphas) == len(self.runs) else None

    @property
    def with_queries(self) -> list[Run]:
        """The runs that have test queries."""
        return [run for run in self.runs if run.queries is not None and len(run.queries)]

    def mean(self, metric: str) -> float:
        """Mean of a metric over its runs; NaN if it is not known."""
        return self.means[metric].mean if metric in self.means else np.nan


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
    def offline(self) -> str | None:
        """The metric that would choose if there were no listeners; None where it does, or if none is shown."""
        shown = [name for name in self.metrics if name.startswith("val/")]
        return shown[0] if shown and self.select.startswith("online/") else None

    def difference(self, setup: str, metric: str | None) -> Difference | None:
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
        return max(setup.runs, key=lambda run: sign * run.metrics.get(self.select, -sign * np.inf))

    @property
    def winner(self) -> Run:
        """The run with the best validation metric among the runs of the best set-up."""
        return self.best_run(self.best)

    def leads(self, setup: Setup, metric: str) -> bool:
        """Whether no other set-up has a better mean; False if the metric has no better, or fewer than two have it."""
        better, means = self.better(metric), [one.means[metric].mean for one in self.setups if one.means[metric].num]
        if better is None or len(means) < 2:
            return False
        return setup.means[metric].mean == (max(means) if better == "max" else min(means))


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
        if num_without == 0 and (name != VAL_TIME or _is_paired(runs)):
            return name, notes
        if num_without == 0:
            notes.append(f"{name} does not choose, because the runs were played in different sessions.")
        elif num_without < len(runs):
            notes.append(f"{name} does not choose, because {num_without} of {len(runs)} runs lack it.")
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
            tests (`ab/…_effect_percent`) and estimates from other logs (ESTIMATES) are always shown where a run has
            them.

    Returns:
        Set-ups, best first, with the tested differences.

    Raises:
        InputError: no run has `select`, or it is a test metric, or `mode` contradicts it; runs were tested on
            different queries; `level` is out of range.
    """
    runs = _apart(runs)
    known = {name for run in runs for name, value in run.metrics.items() if np.isfinite(value)}
    _check_select(select, mode, known, len(runs))
    has_listeners = any(name.startswith("online/") for name in known)
    more = [*sorted(name for name in known if re.fullmatch("ab/.*_effect_percent", name)), ESTIMATE]
    # nothing is wrong where no run has these: the logs allow no estimate, or have no world or no new tracks
    optional = ("estimate/",) if has_listeners else ("estimate/", "online/")
    requested = [
        name
        for name in dict.fromkeys([select, *metrics, *more])
        if name in known or not (name.startswith(optional) or name.removeprefix("test/") in BY_NEWNESS)
    ]
    shown = tuple(name for name in requested if name in known)
    sign = -1 if mode == "max" else 1  # the best first, equal ones by name, those without the metric last
    setups = _setups(runs, shown, level)
    setups.sort(key=lambda one: (not one.means[select].num, sign * np.nan_to_num(one.mean(select)), one.name))
    tested = [name for name in shown if name.removeprefix("test/") in (*TESTED, *BY_NEWNESS)]
    scores, num_queries, num_sessions = _query_scores(setups, tested)
    listened = _listening_scores(setups) if TIME in shown and _is_paired(runs) else {}
    differences = [
        difference
        for metric, of_setup in {TIME: listened, **scores}.items()
        if setups[0].name in of_setup
        for difference in differences_from_first(of_setup, metric, level)
    ]
    of_select = "test/" + select.rsplit("/")[-1]
    primary = of_select if of_select in tested else next(iter(tested), None)
    return Comparison(
        select=select,
        mode=mode,
        level=level,
        metrics=shown,
        missing=tuple(name for name in requested if name not in known),
        setups=tuple(setups),
        differences=tuple(differences),
        primary=TIME if listened and select.startswith("online/") else primary,
        num_queries=num_queries,
        num_sessions=num_sessions,
        num_listeners=len(next(iter(listened.values())).session_sums) if listened else 0,
    )


def _apart(runs: Sequence[Run]) -> Sequence[Run]:
    """Refitted runs as set-ups of their own, where listeners played the tested models of others."""
    kinds = {run.is_refitted for run in runs if any(name.startswith("online/") for name in run.metrics)}
    if len(kinds) < 2:
        return runs
    return [replace(run, setup=f"{run.setup} refitted") if run.is_refitted else run for run in runs]


def _check_select(select: str, mode: str, known: Iterable[str], num_runs: int) -> None:
    others = {
        "test/": "a test metric; only validation chooses the best set-up; use select=val/<metric>",
        TIME: f"of the listeners whose time is reported; other listeners choose the best set-up; use select={VAL_TIME}",
    }
    if reason := next((reason for start, reason in others.items() if select.startswith(start)), None):
        raise InputError(f"select={select} is {reason}")
    if direction(select) not in (mode, None):
        raise InputError(f"select={select} mode={mode} chooses the worst set-up; use mode={direction(select)}")
    if select not in known:
        choices = sorted(name for name in known if name.startswith("val/") or name == VAL_TIME)
        remedy = f"use one of {', '.join(choices)}" if choices else "they have no validation metric"
        raise InputError(f"select={select}: none of the {num_runs} runs has this metric; {remedy}")


def _setups(runs: Sequence[Run], metrics: Sequence[str], level: float) -> list[Setup]:
    found = []
    ordered = sorted(runs, key=lambda run: (run.setup, run.seed, run.run_id))
    for name, group in groupby(ordered, lambda run: run.setup):
        own = tuple(group)
        values = {metric: np.array([run.metrics.get(metric, np.nan) for run in own], np.float64) for metric in metrics}
        means = {metric: MeanInterval.of(one[np.isfinite(one)], level) for metric, one in values.items()}
        found.append(Setup(name=name, runs=own, means=means))
    return found


def _query_scores(setups: Sequence[Setup], metrics: Sequence[str]) -> tuple[dict[str, _Scores], int, int]:
    """By test metric, the scores of each set-up that has queries; the number of queries and of sessions."""
    scores: dict[str, _Scores] = {metric: {} for metric in metrics}
    frames = [(run, run.queries) for setup in setups for run in setup.with_queries if run.queries is not None]
    if not frames:
        return scores, 0, 0
    first, queries = frames[0]
    for run, own in frames:
        if len(own) != len(queries) or not (own[list(QUERY)].to_numpy() == queries[list(QUERY)].to_numpy()).all():
            raise InputError(
                f"runs {first.run_id} ({first.setup}) and {run.run_id} ({run.setup}) were tested on different queries, "
                f"{len(queries):,} and {len(own):,}, and cannot be compared; choose runs of the same data and the same "
                "callbacks.ranking.max_test_queries with parent=<run id> or filter=<condition>"
            )
    session = queries["session"].to_numpy()
    for metric, of_setup in scores.items():
        name = metric.removeprefix("test/")
        for setup in setups:
            rows = [own[name].to_numpy(np.float64) for run, own in frames if run.setup == setup.name and name in own]
            if rows:
                values = np.stack(rows)
                has_value = np.isfinite(values).all(0)  # the groups of BY_NEWNESS depend on the data alone
                of_group = np.unique(session[has_value], return_inverse=True)[1]
                of_setup[setup.name] = QueryScores.of(values[:, has_value], of_group)
    return scores, len(queries), len(np.unique(session))


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


_WORSE, _BEATS, _NOT_DISTINGUISHABLE = "is worse than", "beats", "is not distinguishable from"
"""The result of the best set-up by validation against another one on the test set."""

_CLEARLY_MORE = 0.05  # difference of two shares that can explain why listeners hear less


def verdict(comparison: Comparison) -> str:
    """One sentence without a full stop: which set-up is best by validation, and what the test shows."""
    best, *others = (setup.name for setup in comparison.setups)
    if not others:
        return f"{best} is the only set-up: there is nothing to compare it with"
    head = f"{best} is best by {comparison.select}"
    by_outcome: dict[str, list[str]] = {word: [] for word in (_WORSE, _BEATS, _NOT_DISTINGUISHABLE, "")}
    for name in others:
        one = comparison.difference(name, comparison.primary)
        if one is not None and comparison.is_significant(one):
            by_outcome[_BEATS if one.difference < 0 else _WORSE].append(name)
        else:
            by_outcome["" if one is None else _NOT_DISTINGUISHABLE].append(name)
    untested = by_outcome.pop("")
    if untested == others:
        return f"{head}; whether the difference is real was not tested"
    significance = f" (Holm p < {1 - comparison.level:.2g})"
    results = [
        f"{word} {listed(names)}{significance * (word != _NOT_DISTINGUISHABLE)}"
        for word, names in by_outcome.items()
        if names
    ]
    left_out = f"; not tested: {listed(untested)}" * bool(untested)
    warning = "; validation and test contradict each other" * bool(by_outcome[_WORSE])
    primary = str(comparison.primary)
    where = "with the reported listeners" if primary == TIME else f"on {primary.replace('/', ' ')}"
    return f"{head}; {where} it {' and '.join(results)}{left_out}{warning}"


def disagreement(comparison: Comparison) -> str | None:
    """One sentence if an offline metric would choose another set-up than the listeners, and why; else None."""
    if (metric := comparison.offline) is None:
        return None
    sign, best = -1 if direction(metric) == "min" else 1, comparison.best
    known = [setup for setup in comparison.setups if setup.means[metric].num]
    theirs = max(known, key=lambda setup: sign * setup.mean(metric))
    one = comparison.difference(theirs.name, TIME)
    if theirs is best or one is None:
        return None
    head = f"Offline ranking disagrees: {metric} would choose {theirs.name}"
    if not comparison.is_significant(one):
        return f"{head}, whose time per session is not distinguishable from that of {best.name}."
    reasons = [
        f", and {theirs.mean(share):.0%} of what {theirs.name} plays {what} ({best.name}: {best.mean(share):.0%})"
        for share, what in (
            (SHARE_OF_HITS, "are the most played tracks"),
            (SHARE_OF_SAME_ARTIST, "is by the artist of the track before"),
        )
        if theirs.mean(share) > best.mean(share) + _CLEARLY_MORE
    ]
    return (
        f"{head}, with a mean time per session of {theirs.mean(TIME):.2f} ({best.name}: {best.mean(TIME):.2f}); it "
        f"measures how well the recommendations in the logs are predicted, not how long listeners play"
        f"{''.join(reasons)}."
    )


def listed(names: Sequence[str], most: int = 6) -> str:
    """Names separated by commas, at most `most` of them and then the number of the others."""
    if len(names) <= most + 1:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} others"
