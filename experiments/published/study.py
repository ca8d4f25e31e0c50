"""nowplaying with the published protocol: the rank of every target of the published test file.

    python experiments/published/study.py                       what is missing, then results.md
    python experiments/published/study.py --most 1              at most one training now; the next call continues
    python experiments/published/study.py --only vstan convex   some models
    python experiments/published/study.py --most 0              only results.md

Each model learns train.txt.gz: validation, cut from the end of its sessions, chooses the epoch, and the model is then
refitted on all of them. It ranks each track of test.txt.gz after the tracks before it, among all tracks, those that
were heard included. One line of results.csv is one training; ranks/ has the rank of every target.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import segue
from experiments.rivals.rank_files import read_ranks, write_ranks
from experiments.studying import Study, append_rows, available, read_rows, run_python, sized
from segue.api.calling import call
from segue.models.retrieval.ranks import ranks_by_plays
from segue.reports.markdown import table
from segue.statistics import ranking
from segue.statistics.holm import holm
from segue.statistics.paired import QueryScores, paired_difference
from segue.training.train import read_data

STUDY = Study(__file__, __doc__)
RESULTS, RANKS = STUDY.folder / "results.csv", STUDY.folder / "ranks"
DATA = "nowplaying_sessions"
HEAD = ("recipe=playlists", "context=session", "trainer.max_epochs=4")
Words = tuple[str, ...]
OURS: dict[str, Words] = sized(
    {"convex": (*HEAD, "counted=none"), "convex, counted": HEAD},
    {"convex": ("model=rules", "context=session", "model.window=2")},  # nothing is trained in a smoke
)
RIVALS: dict[str, Words] = {
    "counts": ("model=rules", "model.window=1", "context=last", "context.max_length=20", "context.repeats=auto"),
    "rules": ("model=rules", "context=session"),
    "item-kNN": ("model=neighbours", "context=session"),
    "stan": ("model=stan", "context=session"),
    "vstan": ("model=vstan", "context=session"),
}
MODELS = OURS | sized(RIVALS, {"counts": RIVALS["counts"]})
SEEDS = sized(5, 1)
MOST: int | None = sized(None, 40)
"""Sessions of the test, at most."""
LIST, LISTED = 20, sized(2000, 20)
"""Length of the lists of which coverage and popularity are, and number of queries that have one."""
LEVEL = 0.95
SHOWN = {"every_target_p_at_20": "P@20", "every_target_mrr_at_20": "MRR@20"}


def words_of(files: str) -> list[str]:
    """The words that read one of the two files."""
    return [f"datamodule={DATA}", f"datamodule.files.pattern={files}.txt.gz"]


def seeds_of(model: str) -> range:
    """The seeds of a model; what counts has no random numbers."""
    return range(1, 1 + (SEEDS if model in OURS else 1))


def ranks_path(model: str, seed: int) -> Path:
    """The file of the ranks of a training."""
    return RANKS / f"{model.replace(', ', '-')}_{seed}.parquet"


def run(model: str, seed: int) -> None:
    """Train, refit, rank the targets, and add a line."""
    folder, began = STUDY.work / f"{model.replace(', ', '-')}_{seed}", time.monotonic()
    words = [*words_of("train"), *MODELS[model], f"seed={seed}", "refit=all", "logger=none", "callbacks.plots=null"]
    words += ["callbacks.ranking.max_test_queries=50", "callbacks.export.k=10"]
    run_python(["train.py", *words, f"run_dir={folder}"])
    seconds, metrics = time.monotonic() - began, json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    fitted = segue.load(folder)
    ranker, plays = fitted._model.ranker, fitted._model.plays
    (data, _), _ = call(read_data, words_of("test"))
    test = data.as_test_of(fitted._model.catalog, plays)
    targets = test.every_target("test")
    targets = targets if MOST is None else targets.where(ranking.sample_sessions(targets.session, MOST))
    histories, began = test.histories(targets), time.monotonic()
    with torch.inference_mode():
        ranks = ranker.ranks(histories, targets.following, lambda _: None, every=True)
    query_ms = (time.monotonic() - began) * 1000 / len(targets)
    write_ranks(ranks_path(model, seed), ranks)
    sessions = RANKS / "sessions.parquet"
    if not sessions.exists():
        pd.DataFrame({"session": targets.session.astype(np.int32)}).to_parquet(sessions, index=False)
        write_ranks(ranks_path("popular", 1), ranks_by_plays(plays, None, targets.following))
    some = np.random.default_rng(1).permutation(len(targets))[:LISTED]
    with torch.inference_mode():
        lists = ranker.top(histories.where(some), LIST)[0]
    line: dict[str, Any] = {
        "model": model,
        "seed": seed,
        "val_ndcg_at_10": metrics["val/ndcg_at_10"],
        "coverage_at_20": ranking.coverage(lists, len(plays)),
        "popularity_rank_at_20": float(ranking.popularity_rank(lists, plays).mean()),
        "train_s": round(seconds),
        "query_ms": round(query_ms, 2),
        "commit": STUDY.commit(),
    }
    append_rows(RESULTS, [line])


def scores(model: str, seeds: range) -> dict[str, QueryScores]:
    """Both metrics of the trainings of a model."""
    session = np.unique(pd.read_parquet(RANKS / "sessions.parquet")["session"], return_inverse=True)[1]
    runs = [ranking.every_target(read_ranks(ranks_path(model, seed))) for seed in seeds]
    return {name: QueryScores.of(np.stack([run[name] for run in runs]), session) for name in SHOWN}


def report() -> None:
    """Write results.md."""
    lines = pd.DataFrame(read_rows(RESULTS))
    if lines.empty:
        return
    numbers = ["seed", "val_ndcg_at_10", "coverage_at_20", "popularity_rank_at_20", "train_s", "query_ms"]
    lines[numbers] = lines[numbers].astype(float)
    rows, found = [], {"popular": scores("popular", range(1, 2))}
    for model, own in lines.groupby("model", sort=False):
        found[str(model)] = scores(str(model), range(1, 1 + len(own)))
    validation = lines.groupby("model")["val_ndcg_at_10"].mean()
    for model, of in found.items():
        shown = [f"{100 * one.mean:.2f}" for one in of.values()]
        if model not in validation:
            rows.append([model, "1", "", *shown, *[""] * 4])
            continue
        own = lines[lines["model"] == model][numbers]
        mean = own.mean()
        beside = [f"{mean.coverage_at_20:.3f}", f"{mean.popularity_rank_at_20:,.0f}"]
        cost = [f"{mean.train_s:.0f}", f"{mean.query_ms:.2f}"]
        rows.append([model, str(len(own)), f"{validation[model]:.4f}", *shown, *beside, *cost])
    head = ["model", "trainings", "validation ndcg@10", "P@20, %", "MRR@20, %", "coverage@20", "popularity rank@20"]
    head += ["seconds of training", "ms a query"]
    targets = len(pd.read_parquet(RANKS / "sessions.parquet"))
    text = ["# Results", "", f"Written by `{STUDY.command}`. {targets:,} targets of the published test file.", ""]
    text += [*table(head, rows, "lrrrrrrrr"), ""]
    ours, rivals = ([name for name in some if name in validation] for some in (OURS, RIVALS))
    if rivals and ours:
        rival = max(rivals, key=lambda name: validation[name])
        pairs = [(name, metric) for name in ours for metric in SHOWN]
        tests = [paired_difference(found[name][metric], found[rival][metric], LEVEL) for name, metric in pairs]
        corrected, rows = holm([one.p_value for one in tests]), []
        for (name, metric), one, p_value in zip(pairs, tests, corrected, strict=True):
            interval = [f"{100 * number:+.2f}" for number in (one.difference, one.lower, one.upper)]
            rows.append([name, SHOWN[metric], *interval, f"{p_value:.4f}"])
        text += [f"## Ours less {rival}, the rival that validates best", ""]
        text += table(["model", "metric", "difference", "lower", "upper", "Holm's p"], rows, "llrrrr")
        text += ["", "Intervals of 95 %, in per cent, over test sessions and seeds, paired by target."]
    STUDY.write_table("results.md", text)
    STUDY.write_provenance()


def main() -> None:
    """Train what is missing, then write the tables."""
    parser = STUDY.parser()
    parser.add_argument("--most", type=int, default=99, help="train at most so many models now")
    parser.add_argument("--only", nargs="+", choices=list(MODELS), help="some models", default=list(MODELS))
    given = STUDY.parse(parser)
    if not available(DATA):
        return
    RANKS.mkdir(parents=True, exist_ok=True)
    done = {(row["model"], int(row["seed"])) for row in read_rows(RESULTS)}
    missing = [(seed, model) for model in given.only for seed in seeds_of(model) if (model, seed) not in done]
    for seed, model in sorted(missing, key=lambda one: one[0])[: given.most]:
        print(f"{model}, seed {seed}", flush=True)
        run(model, seed)
    report()


if __name__ == "__main__":
    STUDY.run(main)
