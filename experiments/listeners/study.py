"""Does the listener's own past predict the next track, and what does it cost?

    python experiments/listeners/study.py                    the missing trainings, then results.md
    python experiments/listeners/study.py --most 1           at most one training now; the next call continues
    python experiments/listeners/study.py --only cost        one part: habits, simulated or cost
    python experiments/listeners/study.py --most 0           only results.md

Each log is learned with context=session and with context=listener; their tests are compared, paired by query. One line
of results.csv is one training, and one of cost.csv one command.
"""

import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.listeners.habits import write_habit_log
from experiments.scale.shards import watch
from experiments.studying import SMALL_WORLD, Study, append_rows, read_rows, sized, train
from segue.reports.markdown import table
from segue.statistics.paired import QueryScores, paired_difference

STUDY = Study(__file__, __doc__)
RESULTS, COST = STUDY.folder / "results.csv", STUDY.folder / "cost.csv"
CONTEXTS = ("session", "listener")
RECIPES = sized(("playlists", "shares"), ("playlists",))
HABITS = sized((0.0, 0.25, 0.5), (0.5,))
LISTENERS = sized(150, 20)
PLAYS = sized(1_000_000, 4_000)
SHORT = (f"trainer.max_epochs={sized(3, 1)}", "model.dim=32", "refit=none")
ONLY_TESTED = ("logger=none", "callbacks.export=null", "callbacks.plots=null")
SIMULATED = ("datamodule=simulated", f"datamodule.prepare.sessions={sized(30_000, 400)}", *sized((), SMALL_WORLD))
LOG = """
    COPY (SELECT range // 1000 AS user,
                 1100000000 + 86400 * (range % 1000 // 12) + 3600 * (range // 1000 % 20) + 210 * (range % 12)
                     AS timestamp,
                 CAST(floor({tracks} * power((hash(CASE WHEN hash(range, 1) % 10 < 6
                     THEN range // 1000 * 1000 + hash(range, 2) % 300 ELSE 1000000000 + range END) % 1000003)
                     / 1000003.0, 3)) AS BIGINT) AS track,
                 track // 10 AS artist
          FROM range({plays})) TO '{file}' (FORMAT parquet)"""
"""A session of twelve plays on each of 84 days; three of five plays are of 300 tracks of the listener's own."""
LEVEL = 0.95


def words_of(log: str, recipe: str) -> tuple[str, ...]:
    """The words of a log; one with habits is written, if it is not there."""
    if log == "simulated":
        return SIMULATED
    habit, folder = float(log.removeprefix("habit ")), STUDY.work / f"habit-{log[6:]}-{recipe}"
    if not (folder / "plays.csv").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_habit_log(folder, 1, with_shares=recipe == "shares", num_listeners=LISTENERS, habit=habit)
    return "datamodule=table", f"datamodule.path={folder / 'plays.csv'}"


def folder_of(log: str, recipe: str, context: str) -> Path:
    """The run folder of a training."""
    return STUDY.work / "-".join([log.replace(" ", "-"), recipe, context])


def run(log: str, recipe: str, context: str) -> None:
    """Train, and add a line."""
    folder, began = folder_of(log, recipe, context), time.monotonic()
    words = (*words_of(log, recipe), f"recipe={recipe}", f"context={context}", *SHORT, *ONLY_TESTED)
    train(*words, f"run_dir={folder}", threads=None)
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    append_rows(
        RESULTS,
        [
            {
                "log": log,
                "recipe": recipe,
                "context": context,
                **{name: metrics.get(name, "") for name in ("val/ndcg_at_10", "test/ndcg_at_10", "test/recall_at_10")},
                "seconds": round(time.monotonic() - began),
                "commit": STUDY.commit(),
            }
        ],
    )


def measure_cost(context: str, plays: int) -> None:
    """One epoch of a large log: the time of the command, of the epoch with its validation, and the memory."""
    file, folder = STUDY.work / f"{plays}.parquet", STUDY.work / f"{plays}-{context}"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        duckdb.sql(LOG.format(plays=plays, tracks=sized(100_000, 2_000), file=file))
    words = ["datamodule=table", f"datamodule.path={file}", "datamodule.units.timestamp=s", "recipe=playlists"]
    words += [f"context={context}", "trainer.max_epochs=1", "model.dim=32", "refit=none", *ONLY_TESTED]
    watched = watch(partial(train, *words, f"run_dir={folder}", threads=None))
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    line: dict[str, Any] = {"plays": plays, "context": context, "epoch_s": round(metrics["fit_seconds"], 1)}
    line |= {"rest_s": round(watched["seconds"] - metrics["fit_seconds"], 1), "GB": watched["anonymous"]}
    append_rows(COST, [{**line, "commit": STUDY.commit()}])


def difference(log: str, recipe: str) -> list[str]:
    """What the past adds to ndcg@10 of the test, paired by query, with its interval."""
    ours, theirs = (pd.read_parquet(folder_of(log, recipe, one) / "test_queries.parquet") for one in reversed(CONTEXTS))
    assert ours[["session", "previous", "following"]].equals(theirs[["session", "previous", "following"]])
    session = np.unique(ours.session, return_inverse=True)[1]
    our, their = (QueryScores.of(one["ndcg_at_10"].to_numpy()[None], session) for one in (ours, theirs))
    found = paired_difference(our, their, LEVEL)
    return [f"{number:+.4f}" for number in (found.difference, found.lower, found.upper)]


def report() -> None:
    """Write results.md."""
    rows, lines = [], read_rows(RESULTS)
    for line in lines:
        numbers = [f"{float(line[name]):.4f}" for name in ("val/ndcg_at_10", "test/ndcg_at_10", "test/recall_at_10")]
        rows.append([line["log"], line["recipe"], f"`context={line['context']}`", *numbers, line["seconds"]])
    head = ["log", "recipe", "context", "validation ndcg@10", "ndcg@10", "recall@10", "seconds"]
    text = ["# Results", "", f"Written by `{STUDY.command}`. One training each, seed 1.", ""]
    text += [*table(head, rows, "lllrrrr"), "", "## What the past adds to ndcg@10", ""]
    pairs = dict.fromkeys((line["log"], line["recipe"]) for line in lines)
    both = [one for one in pairs if sum((line["log"], line["recipe"]) == one for line in lines) == len(CONTEXTS)]
    text += table(
        ["log", "recipe", "difference", "lower", "upper"], [[*one, *difference(*one)] for one in both], "llrrr"
    )
    text += ["", "Intervals of 95 % over test sessions, paired by query.", "", "## Cost", ""]
    names = ("epoch_s", "rest_s", "GB")
    costs = [[f"{int(one['plays']):,}", f"`context={one['context']}`", *(one[name] for name in names)]
             for one in read_rows(COST)]  # fmt: skip
    text += table(["plays", "context", "epoch and validation, s", "all else, s", "memory, GB"], costs, "llrrr")
    STUDY.write_table("results.md", text)
    STUDY.write_provenance()


def main() -> None:
    """Train what is missing, then write the tables."""
    parser = STUDY.parser()
    parser.add_argument("--most", type=int, default=99, help="train at most so many models now")
    parser.add_argument("--only", choices=("habits", "simulated", "cost"), help="one part")
    parser.add_argument("--plays", type=int, default=PLAYS, help="size of the log of the cost")
    given = STUDY.parse(parser)
    logs = [(f"habit {habit:g}", recipe) for habit in HABITS for recipe in RECIPES]
    parts = {"habits": logs, "simulated": [("simulated", "shares")], "cost": []}
    chosen = [one for name, of in parts.items() if given.only in (None, name) for one in of]
    done = {(line["log"], line["recipe"], line["context"]) for line in read_rows(RESULTS)}
    missing = [(*one, context) for one in chosen for context in CONTEXTS if (*one, context) not in done]
    for log, recipe, context in missing[: given.most]:
        print(f"{log}, recipe={recipe}, context={context}", flush=True)
        run(log, recipe, context)
    left = given.most - len(missing[: given.most])
    measured = {line["context"] for line in read_rows(COST) if int(line["plays"]) == given.plays}
    for context in [one for one in CONTEXTS if one not in measured][: left * (given.only in (None, "cost"))]:
        print(f"cost, context={context}", flush=True)
        measure_cost(context, given.plays)
    report()


if __name__ == "__main__":
    STUDY.run(main)
