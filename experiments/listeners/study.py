"""Does the listener's own past predict the next track, and what does it cost?

    python experiments/listeners/study.py                    the missing trainings, then results.md
    python experiments/listeners/study.py --most 1           at most one training now; the next call continues
    python experiments/listeners/study.py --only cost        one part: habits, simulated, reading or cost
    python experiments/listeners/study.py --only cost --plays 19000000 --steps 300    the first steps of an epoch
    python experiments/listeners/study.py --most 0           only results.md

Each log is learned with context=session and with context=listener; their tests are compared, paired by query. One line
of results.csv is one training, and one of cost.csv one command. A seed is of the generated log and of the training.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
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
from segue.api.calling import call
from segue.models.listener_part import past_before
from segue.reports.markdown import table
from segue.statistics.paired import QueryScores, paired_difference
from segue.training.train import read_data

STUDY = Study(__file__, __doc__)
RESULTS, GAINS, COST, READING = (STUDY.folder / f"{name}.csv" for name in ("results", "gains", "cost", "reading"))
CONTEXTS = ("session", "listener")
RECIPES = sized(("playlists", "shares"), ("playlists",))
HABITS = sized((0.0, 0.5), (0.5,))
SEEDS = sized((1, 2), (1,))
LISTENERS = sized(150, 20)
PLAYS = sized(2_000_000, 4_000)
EPOCHS = 1, 2
"""The difference of a training of two epochs and one of one is an epoch with its validation."""
METRICS = ("val/ndcg_at_10", "test/ndcg_at_10", "test/recall_at_10")
FLOORS = tuple(f"test/ndcg_at_10_{floor}_floor" for floor in ("popular", "own", "own_recent"))
FIRST = tuple(
    f"test/ndcg_at_10_position_0{ending}" for ending in ("", "_popular_floor", "_own_floor", "_own_recent_floor")
)
"""Of the first tracks of sessions, which are ranked with context=listener alone."""
SHORT = (f"trainer.max_epochs={sized(3, 1)}", "model.dim=32", "refit=none")
ONLY_TESTED = ("logger=none", "callbacks.export=null", "callbacks.plots=null", "callbacks.listening=null")
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
LEVEL, GAIN = 0.95, ("gain", "lower", "upper")


def words_of(log: str, recipe: str, seed: int) -> tuple[str, ...]:
    """The words of a log; one with habits is written, if it is not there."""
    if log == "simulated":
        return (*SIMULATED, f"world.seed={seed}")
    habit, folder = float(log.removeprefix("habit ")), STUDY.work / f"habit-{log[6:]}-{recipe}-{seed}"
    if not (folder / "plays.csv").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_habit_log(folder, seed, with_shares=recipe == "shares", num_listeners=LISTENERS, habit=habit)
    return "datamodule=table", f"datamodule.path={folder / 'plays.csv'}"


def folder_of(log: str, recipe: str, seed: int, context: str) -> Path:
    """The run folder of a training."""
    return STUDY.work / "-".join([log.replace(" ", "-"), recipe, str(seed), context])


def run(log: str, recipe: str, seed: int, context: str) -> None:
    """Train, and add a line."""
    folder, began = folder_of(log, recipe, seed, context), time.monotonic()
    own = f"recipe={recipe}", "counted=none", f"context={context}", f"seed={seed}"
    words = (*words_of(log, recipe, seed), *own, *SHORT)
    train(*words, *ONLY_TESTED, f"run_dir={folder}", threads=None)
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    line = {"log": log, "recipe": recipe, "seed": seed, "context": context}
    line |= {name: metrics.get(name, "") for name in (*METRICS, *FLOORS, *FIRST)}
    append_rows(RESULTS, [{**line, "seconds": round(time.monotonic() - began), "commit": STUDY.commit()}])


def log_of(plays: int) -> list[str]:
    """The words of a large log, which is written if it is not there."""
    file = STUDY.work / f"{plays}.parquet"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        duckdb.sql(LOG.format(plays=plays, tracks=sized(100_000, 2_000), file=file))
    return [
        "datamodule=table",
        f"datamodule.path={file}",
        "datamodule.units.timestamp=s",
        "recipe=playlists",
        "counted=none",
    ]


def measure_reading(plays: int) -> None:
    """Read a large log, then what the past adds: processor time of each step, and the most memory so far."""
    words, lines = log_of(plays), list[dict[str, Any]]()

    def step(what: str, run: Callable[[], Any]) -> Any:
        began = time.process_time()
        found = run()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        line = {"plays": plays, "step": what, "seconds": round(time.process_time() - began, 2), "GB": round(peak, 2)}
        lines.append({**line, "commit": STUDY.commit()})
        return found

    (data, _), _ = step("events, sessions, pairs", lambda: call(read_data, words))
    queries = data.histories(data.pairs["val"]).part(0, 1)
    step("index of the sessions of listeners", lambda: past_before(queries))
    step("profiles of all listeners, at the export", data.profiles)
    append_rows(READING, lines)


def measure_cost(context: str, epochs: int, plays: int, steps: int) -> None:
    """Learn a large log: processor time of the command with its reading and one short test, and the memory."""
    folder = STUDY.work / f"{plays}-{context}-{epochs}-{steps}"
    words = [
        "-m",  # a job is not compared with models that count, which takes longer than all else
        *log_of(plays),
        f"context={context}",
        f"trainer.max_epochs={epochs}",
        "model.dim=32",
        "refit=none",
        *ONLY_TESTED,
    ]
    words += ["callbacks.ranking.max_test_queries=50", *([f"+trainer.limit_train_batches={steps}"] if steps else [])]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    watched = watch(partial(train, *words, f"run_dir={folder}", threads=1))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    line = {"plays": plays, "context": context, "epochs": epochs, "steps": steps or "all", "seconds": round(seconds, 1)}
    append_rows(COST, [{**line, "GB": watched["anonymous"], "commit": STUDY.commit()}])


def keep_gain(log: str, recipe: str, seeds: list[int]) -> None:
    """Keep what the past adds to ndcg@10 of the test, in per cent and paired by query, with its interval over sessions.

    Without the queries of the test, which are in the folders of the runs, what is kept stays as it is.
    """
    key, of_context = {"log": log, "recipe": recipe, "seeds": str(len(seeds))}, list[QueryScores]()
    for context in CONTEXTS:
        files = [folder_of(log, recipe, seed, context) / "test_queries.parquet" for seed in seeds]
        if not all(file.is_file() for file in files):
            return
        parts = [pd.read_parquet(file) for file in files]
        session = np.concatenate([number * 10**7 + part.session for number, part in enumerate(parts)])
        values = np.concatenate([part["ndcg_at_10"] for part in parts])
        of_context.append(QueryScores.of(values[None], np.unique(session, return_inverse=True)[1]))
    theirs, ours = of_context
    found = paired_difference(ours, theirs, LEVEL)
    numbers = zip(GAIN, (found.difference, found.lower, found.upper), strict=True)
    gain = {name: f"{100 * number / theirs.mean:+.1f}" for name, number in numbers}
    if key | gain not in [{name: line[name] for name in (*key, *gain)} for line in read_rows(GAINS)]:
        append_rows(GAINS, [{**key, **gain, "commit": STUDY.commit()}])


def gain_of(log: str, recipe: str, seeds: list[int]) -> list[str]:
    """The gain that was kept last for some seeds; empty cells where none was."""
    key = log, recipe, str(len(seeds))
    found = [line for line in read_rows(GAINS) if (line["log"], line["recipe"], line["seeds"]) == key]
    return [found[-1][name] for name in GAIN] if found else [""] * len(GAIN)


def mean_of(lines: list[dict[str, str]], name: str) -> str:
    """A cell: the mean of a metric over seeds."""
    values = [float(line[name]) for line in lines if line[name]]
    return f"{np.mean(values):.4f}" if values else ""


def report() -> None:
    """Write results.md."""
    by_log = dict[tuple[str, str], dict[str, list[dict[str, str]]]]()
    for line in read_rows(RESULTS):
        by_log.setdefault((line["log"], line["recipe"]), {}).setdefault(line["context"], []).append(line)
    rows, firsts = list[list[str]](), list[list[str]]()
    for (log, recipe), of in by_log.items():
        seeds = sorted(set.intersection(*({int(line["seed"]) for line in of.get(one, [])} for one in CONTEXTS)))
        if not seeds:
            continue
        keep_gain(log, recipe, seeds)
        session, listener = ([line for line in of[one] if int(line["seed"]) in seeds] for one in CONTEXTS)
        floors = [mean_of(listener, name) for name in FLOORS]
        both = [mean_of(lines, METRICS[1]) for lines in (session, listener)]
        rows.append([log, recipe, str(len(seeds)), *floors, *both, *gain_of(log, recipe, seeds)])
        firsts.append([log, recipe, str(len(seeds)), *(mean_of(listener, name) for name in (*FIRST[1:], FIRST[0]))])
    rules = ["popular", "own", "own_recent"]
    head = ["log", "recipe", "seeds", *rules, "`context=session`", "`context=listener`", "gain, %", "lower", "upper"]
    text = ["# Results", "", f"Written by `{STUDY.command}`. Means over seeds; ndcg@10 of the test.", ""]
    text += ["## Tracks after the first one of a session", "", *table(head, rows, "llr" + "r" * 8), ""]
    text += ["Gain of the listener over the session, with an interval of 95 % over test sessions, paired by query.", ""]
    text += ["## First tracks of sessions", ""]
    text += table(["log", "recipe", "seeds", *rules, "`context=listener`"], firsts, "llr" + "r" * 4)
    text += ["", "## Cost", ""]
    names = ("epochs", "steps", "seconds", "GB")
    costs = [
        [f"{int(one['plays']):,}", f"`context={one['context']}`", *(one[name] for name in names)]
        for one in read_rows(COST)
    ]
    head = ["plays", "context", "epochs", "steps of an epoch", "processor seconds", "memory, GB"]
    text += table(head, costs, "llrrrr")
    reads = [[f"{int(one['plays']):,}", one["step"], one["seconds"], one["GB"]] for one in read_rows(READING)]
    text += ["", "", *table(["plays", "step", "processor seconds", "most memory so far, GB"], reads, "llrr")]
    STUDY.write_table("results.md", text)
    STUDY.write_provenance()


def main() -> None:
    """Train what is missing, then write the tables."""
    parser = STUDY.parser()
    parser.add_argument("--most", type=int, default=99, help="train at most so many models now")
    parser.add_argument("--only", choices=("habits", "simulated", "reading", "cost"), help="one part")
    parser.add_argument("--plays", type=int, default=PLAYS, help="size of the log of the cost")
    parser.add_argument("--steps", type=int, default=0, help="of the cost: one epoch, of so many steps; 0 for all")
    given = STUDY.parse(parser)
    logs = [(f"habit {habit:g}", recipe) for recipe in RECIPES for habit in HABITS]
    parts = {"habits": logs, "simulated": [("simulated", recipe) for recipe in RECIPES]}
    chosen = [one for name, of in parts.items() if given.only in (None, name) for one in of]
    done = {(line["log"], line["recipe"], int(line["seed"]), line["context"]) for line in read_rows(RESULTS)}
    words = [(*one, seed, context) for seed in SEEDS for one in chosen for context in CONTEXTS]
    missing = [one for one in words if one not in done]
    for log, recipe, seed, context in missing[: given.most]:
        print(f"{log}, recipe={recipe}, seed={seed}, context={context}", flush=True)
        run(log, recipe, seed, context)
    left = given.most - len(missing[: given.most])
    size = str(given.plays), str(given.steps or "all")
    measured = {
        (line["context"], int(line["epochs"])) for line in read_rows(COST) if (line["plays"], line["steps"]) == size
    }
    epochs_of = EPOCHS[:1] if given.steps else EPOCHS
    costs = [(context, epochs) for epochs in epochs_of for context in CONTEXTS if (context, epochs) not in measured]
    for context, epochs in costs[: left * (given.only in (None, "cost"))]:
        print(f"cost, context={context}, epochs={epochs}", flush=True)
        measure_cost(context, epochs, given.plays, given.steps)
    is_measured = given.plays in {int(line["plays"]) for line in read_rows(READING)}
    if given.most and given.only in (None, "reading") and not is_measured:
        measure_reading(given.plays)
    report()


if __name__ == "__main__":
    STUDY.run(main)
