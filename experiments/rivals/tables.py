"""Tables of `study.py`: every model, by position in the session and by its length, and the paired tests.

R runs, Q test queries.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.rivals import rank_files
from experiments.rivals.spaces import DATA, MODELS
from segue.atomic import write_whole
from segue.reports.markdown import table
from segue.reports.numbers import p_value
from segue.statistics.holm import holm
from segue.statistics.intervals import MeanInterval
from segue.statistics.paired import QueryScores, paired_difference
from segue.statistics.ranking import ndcg_at, recall_at

LEVEL = 0.95
METRICS = {"recall@10": recall_at, "ndcg@10": ndcg_at}
POSITIONS = {"1 heard": (1, 1), "2 to 4": (2, 4), "5 or more": (5, 10**9)}
"""Number of tracks heard before the next one."""
LENGTHS = {"2 to 5 tracks": (2, 5), "6 to 15": (6, 15), "16 or more": (16, 10**9)}
"""Number of tracks of the whole session."""
PLAYS = {"0 to 2 plays": (0, 2), "3 to 19": (3, 19), "20 or more": (20, 10**9)}
"""Plays of a track in training."""
GOAL = {(data, "convex, default") for data in ("yes", "polimi")}
"""Data and set-up of the question. Holm's correction is over these tests, and over all others together."""
BESIDE = {
    "coverage_at_10": "coverage@10",
    "coverage_at_20": "coverage@20",
    "popularity_rank_at_10": "popularity rank@10",
    "popularity_rank_at_20": "popularity rank@20",
}
"""Columns of `pieces.csv` about the lists of a sample of test queries, by what they are called in the tables."""
Lines = Mapping[tuple[str, ...], Mapping[str, str]]
Test = tuple[list[str], float]
"""A row of a table, and the p-value of its difference."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Result:
    """The final runs of a model.

    Args:
        val: validation ndcg@10, mean of the runs.
        trials: number of trials.
        values: of each metric, for each run and query, R × Q.
        fit_s: median of the runs.
        query_ms: median of the runs.
        beside: mean of the runs of each column of BESIDE.
        commits: of the code of the runs.
    """

    val: float
    trials: int
    values: dict[str, np.ndarray]
    fit_s: float
    query_ms: float
    beside: tuple[float, ...]
    commits: tuple[str, ...]


def results(data: str, lines: Lines, ranks: Path) -> dict[str, Result]:
    """The models that have final runs on a data set, of those runs whose ranks are there."""
    found = {}
    for model in MODELS:
        of_model = {key[2:]: line for key, line in lines.items() if key[:2] == (data, model)}
        finals = {number: line for (part, number), line in of_model.items() if part == "final"}
        paths = {number: rank_files.ranks_path(ranks, data, model, number) for number in finals}
        runs = [line for number, line in finals.items() if paths[number].exists()]
        if not runs:
            continue
        of_runs = np.stack([rank_files.read_ranks(path) for path in paths.values() if path.exists()])
        found[model] = Result(
            val=float(np.mean([float(line["val_ndcg_at_10"]) for line in runs])),
            trials=len({number for part, number in of_model if part in ("trial", "short")}),
            values={metric: np.stack([of(run, 10) for run in of_runs]) for metric, of in METRICS.items()},
            fit_s=float(np.median([float(line["fit_s"]) for line in runs])),
            query_ms=float(np.median([float(line["query_ms"]) for line in runs])),
            beside=tuple(float(np.mean([float(line[name]) for line in runs])) for name in BESIDE),
            commits=tuple(sorted({line["commit"] for line in runs})),
        )
    return found


def write(folder: Path, lines: Lines, ranks: Path, note: Sequence[str] = ()) -> None:
    """Write `results.md`.

    Args:
        folder: of the study.
        lines: of `pieces.csv`.
        ranks: folder of the ranks of the test queries.
        note: the last lines.
    """
    of_data = {data: found for data in DATA if (found := results(data, lines, ranks))}
    text, tests = list[str](), list[Test]()
    for data, found in of_data.items():
        queries = rank_files.read_queries(rank_files.queries_path(ranks, data))
        session = queries["session"].to_numpy()
        text += [f"## {data}", "", f"{len(session):,} test queries of {len(np.unique(session)):,} sessions.", ""]
        text += [*_main(found, session), ""]
        left_out = [model for model in MODELS if model not in found and (data, model) in {key[:2] for key in lines}]
        text += [f"Left out, without ranks in `ranks/`: {'; '.join(left_out)}.", ""] if left_out else []
        text += ["Cost in processor time, and lists of 2,000 test queries:", "", *_beside(found), ""]
        text += ["ndcg@10 by the number of tracks heard, and by the length of the session:"]
        text += ["", *_slices(found, _parts(queries, num_heard=POSITIONS, session_length=LENGTHS)), ""]
        text += ["ndcg@10 by plays in training of the newest track, and of the next one:"]
        plays = {
            column: {f"{column.removeprefix('plays_of_')}: {name}": limits for name, limits in PLAYS.items()}
            for column in ("plays_of_newest", "plays_of_next")
        }
        text += ["", *_slices(found, _parts(queries, **plays)), ""]
        tests += _tests(data, found, session)
    is_goal = [tuple(row[:2]) in GOAL for row, _ in tests]
    for title, wanted in (("Ours and the rival that validates best", True), ("Other set-ups", False)):
        family = [test for test, found in zip(tests, is_goal, strict=True) if found == wanted]
        text += [f"## {title}", "", *with_holm(family), ""] if family else []
    body = "\n".join([*text, *note])
    write_whole(folder / "results.md", lambda partial: partial.write_text(body, encoding="utf-8"))


def _main(found: Mapping[str, Result], session: np.ndarray) -> list[str]:
    cells = []
    for model, result in sorted(found.items(), key=lambda item: -item[1].val):
        row = [model, str(result.trials), str(len(result.values["ndcg@10"])), f"{result.val:.4f}"]
        for values in result.values.values():
            interval = MeanInterval.of_clusters(values.mean(0), session, LEVEL)
            row += [f"{interval.mean:.4f}", f"{interval.upper - interval.mean:.4f}"]
        cells.append(row)
    head = ["model", "trials", "runs", "val ndcg@10", "recall@10", "±", "ndcg@10", "±"]
    return table(head, cells, "lrrrrrrr")


def _beside(found: Mapping[str, Result]) -> list[str]:
    cells = []
    for model, result in sorted(found.items(), key=lambda item: -item[1].val):
        shown = [f"{value:.3f}" if value <= 1 else f"{value:,.0f}" for value in result.beside]
        cells.append([model, *shown, f"{result.fit_s:.1f}", f"{result.query_ms:.2f}", " ".join(result.commits)])
    return table(["model", *BESIDE.values(), "fit, s", "query, ms", "commit"], cells, "lrrrrrrl")


def _parts(queries: pd.DataFrame, **groups: Mapping[str, tuple[int, int]]) -> dict[str, np.ndarray]:
    """Which queries have a value between two limits, by name of the group."""
    return {
        name: queries[column].between(low, high).to_numpy()
        for column, limits in groups.items()
        for name, (low, high) in limits.items()
    }


def _slices(found: Mapping[str, Result], slices: Mapping[str, np.ndarray]) -> list[str]:
    cells = [["queries", *(str(int(part.sum())) for part in slices.values())]]
    for model, result in sorted(found.items(), key=lambda item: -item[1].val):
        values = result.values["ndcg@10"].mean(0)
        cells.append([model, *(f"{values[part].mean():.4f}" if part.any() else "" for part in slices.values())])
    return table(["model", *slices], cells, "l" + "r" * len(slices))


def _tests(data: str, found: Mapping[str, Result], session: np.ndarray) -> list[Test]:
    if (best := best_rival(found)) is None:
        return []
    ours = [model for model in found if MODELS[model].is_ours]
    return [
        test
        for model in ours
        for test in paired_tests([data, model, best], found[model].values, found[best].values, session)
    ]


def best_rival(found: Mapping[str, Result]) -> str | None:
    """The rival with the best validation ndcg@10, if there is one."""
    rivals = (model for model in found if not MODELS[model].is_ours)
    return max(rivals, key=lambda model: found[model].val, default=None)


def paired_tests(
    names: Sequence[str], ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray], session: np.ndarray
) -> list[Test]:
    """A row for each metric: the names, the metric, ours less theirs and its interval; and the p-value.

    Args:
        names: of the data, ours and theirs.
        ours: of each metric, for each run and query, R × Q.
        theirs: the same; it may have another number of runs.
        session: of each query.
    """
    _, numbered = np.unique(session, return_inverse=True)
    tests = []
    for metric in METRICS:
        our, their = (QueryScores.of(of[metric], numbered) for of in (ours, theirs))
        one = paired_difference(our, their, LEVEL)
        row = [*names, metric, *(f"{x:+.4f}" for x in (one.difference, one.lower, one.upper))]
        tests.append((row, one.p_value))
    return tests


def with_holm(family: Sequence[Test]) -> list[str]:
    """The table of tests that are corrected together."""
    corrected = holm([p for _, p in family])
    cells = [[*row, p_value(p)] for (row, _), p in zip(family, corrected, strict=True)]
    head = ["data", "ours", "best rival", "metric", "ours − rival", "from", "to (95 %)", "Holm's p"]
    return table(head, cells, "llllrrrr")
