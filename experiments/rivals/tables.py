"""Tables of `study.py`: every model, by position in the session and by its length, and the paired tests.

R runs, Q test queries.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.rivals.fitting import the_data
from experiments.rivals.spaces import DATA, MODELS
from src.evaluation.ranking import ndcg_at, recall_at
from src.runs.atomic import write_whole
from src.statistics.holm import holm
from src.statistics.intervals import MeanInterval
from src.statistics.paired import QueryScores, paired_difference
from src.terminal.markdown import table
from src.terminal.numbers import p_value

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
Lines = Mapping[tuple[str, ...], Mapping[str, str]]


@dataclass(frozen=True, eq=False, kw_only=True)
class Result:
    """The final runs of a model.

    Args:
        val: validation ndcg@10, mean of the runs.
        trials: number of trials.
        values: of each metric, for each run and query, R × Q.
        fit_s: mean of the runs.
        query_ms: mean of the runs.
    """

    val: float
    trials: int
    values: dict[str, np.ndarray]
    fit_s: float
    query_ms: float


def results(data: str, lines: Lines, ranks: Path) -> dict[str, Result]:
    """The models that have final runs on a data set."""
    found = {}
    for model in MODELS:
        of_model = {key[2:]: line for key, line in lines.items() if key[:2] == (data, model)}
        runs = {number: line for (part, number), line in of_model.items() if part == "final"}
        trials = {number for part, number in of_model if part in ("trial", "short")}
        name = f"{data}_{model}".replace(", ", "-").replace(" ", "-")
        paths = [ranks / f"{name}_{number}.npy" for number in runs]
        if not runs or not all(path.exists() for path in paths):
            continue
        of_runs = np.stack([np.load(path) for path in paths])
        found[model] = Result(
            val=float(np.mean([float(line["val_ndcg_at_10"]) for line in runs.values()])),
            trials=len(trials),
            values={metric: np.stack([of(run, 10) for run in of_runs]) for metric, of in METRICS.items()},
            fit_s=float(np.mean([float(line["fit_s"]) for line in runs.values()])),
            query_ms=float(np.nanmean([float(line["query_ms"]) for line in runs.values()])),
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
    text, tests = list[str](), list[tuple[list[str], float]]()
    for data, found in of_data.items():
        datamodule, queries = the_data(data)
        session, position = queries["test"].session, queries["test"].length
        length = np.bincount(datamodule.sessions.listens.session)[session]
        plays = datamodule.vocabulary.plays
        text += [f"## {data}", "", f"{len(session):,} test queries of {len(np.unique(session)):,} sessions.", ""]
        text += [*_main(found, session), "", "ndcg@10 by the number of tracks heard, and by the length of the session:"]
        slices = {name: (position >= low) & (position <= high) for name, (low, high) in POSITIONS.items()}
        slices |= {name: (length >= low) & (length <= high) for name, (low, high) in LENGTHS.items()}
        text += ["", *_slices(found, slices), ""]
        text += ["ndcg@10 by plays in training of the newest track, and of the next one:"]
        slices = {
            f"{which}: {name}": (plays[rows] >= low) & (plays[rows] <= high)
            for which, rows in (("newest", queries["test"].previous), ("next", queries["test"].following))
            for name, (low, high) in PLAYS.items()
        }
        text += ["", *_slices(found, slices), ""]
        tests += _tests(data, found, session)
    is_goal = [tuple(row[:2]) in GOAL for row, _ in tests]
    for title, wanted in (("Ours and the rival that validates best", True), ("Other set-ups and data", False)):
        family = [test for test, found in zip(tests, is_goal, strict=True) if found == wanted]
        corrected = holm([p for _, p in family]) if family else []
        cells = [[*row, p_value(p)] for (row, _), p in zip(family, corrected, strict=True)]
        head = ["data", "ours", "best rival", "metric", "ours − rival", "from", "to (95 %)", "Holm's p"]
        text += [f"## {title}", "", *table(head, cells, "llllrrrr"), ""] if family else []
    body = "\n".join([*text, *note])
    write_whole(folder / "results.md", lambda partial: partial.write_text(body, encoding="utf-8"))


def _main(found: Mapping[str, Result], session: np.ndarray) -> list[str]:
    cells = []
    for model, result in sorted(found.items(), key=lambda item: -item[1].val):
        row = [model, str(result.trials), str(len(result.values["ndcg@10"])), f"{result.val:.4f}"]
        for values in result.values.values():
            interval = MeanInterval.of_clusters(values.mean(0), session, LEVEL)
            row += [f"{interval.mean:.4f}", f"{interval.upper - interval.mean:.4f}"]
        query = "" if np.isnan(result.query_ms) else f"{result.query_ms:.2f}"
        cells.append([*row, f"{result.fit_s:.1f}", query])
    head = ["model", "trials", "runs", "val ndcg@10", "recall@10", "±", "ndcg@10", "±", "fit, s", "query, ms"]
    return table(head, cells, "lrrrrrrrrr")


def _slices(found: Mapping[str, Result], slices: Mapping[str, np.ndarray]) -> list[str]:
    cells = [["queries", *(str(int(part.sum())) for part in slices.values())]]
    for model, result in sorted(found.items(), key=lambda item: -item[1].val):
        values = result.values["ndcg@10"].mean(0)
        cells.append([model, *(f"{values[part].mean():.4f}" if part.any() else "" for part in slices.values())])
    return table(["model", *slices], cells, "l" + "r" * len(slices))


def _tests(data: str, found: Mapping[str, Result], session: np.ndarray) -> list[tuple[list[str], float]]:
    rivals = {model: result for model, result in found.items() if not MODELS[model].is_ours}
    if not rivals:
        return []
    best = max(rivals, key=lambda model: rivals[model].val)
    _, numbered = np.unique(session, return_inverse=True)
    tests = []
    for model in (model for model in found if MODELS[model].is_ours):
        for metric in METRICS:
            ours, theirs = (QueryScores.of(of.values[metric], numbered) for of in (found[model], rivals[best]))
            one = paired_difference(ours, theirs, LEVEL)
            row = [data, model, best, metric, *(f"{x:+.4f}" for x in (one.difference, one.lower, one.upper))]
            tests.append((row, one.p_value))
    return tests
