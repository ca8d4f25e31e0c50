"""Is what recipe=auto chooses the best of the simple models on real data, or level with it?

    python experiments/real_sets/study.py                  the missing trainings, then results.md
    python experiments/real_sets/study.py --minutes 30     starts no training after that; the next call continues
    python experiments/real_sets/study.py --only report    only results.md

Five data sets, and on each: what recipe=auto chooses, and models that count. The rival of a data set is the counting
model that validates best; the test is read after that. One line of results.csv is one training.
"""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.studying import Study, append_rows, available, read_rows, sized, train
from segue.reports.markdown import table
from segue.statistics.paired import QueryScores, paired_difference

STUDY = Study(__file__, __doc__)
RESULTS, DIFFERENCES = STUDY.folder / "results.csv", STUDY.folder / "differences.csv"
DATA = sized(("situnes", "botify", "polimi", "yes", "nowplaying_sessions"), ("situnes",))
CHOSEN = "recipe=auto"
MODELS = {
    "popular": ("model=popular",),
    "recent": ("model=recent",),
    "rules": ("model=rules", "context=session"),
    "vstan": ("model=vstan", "context=session"),
    CHOSEN: ("recipe=auto",),
}
WITHOUT_CLOCK = ("polimi", "yes", "nowplaying_sessions")
ONLY_TESTED = ("logger=none", "callbacks.export=null", "callbacks.plots=null")
LEVEL = 0.95
SHOWN = ("recall_at_10", "ndcg_at_10")
BOTH = ("every_target_p_at_20", "every_target_mrr_at_20")


def pieces(data: str) -> Iterator[str]:
    """The models of a data set."""
    yield from (model for model in MODELS if model != "recent" or data not in WITHOUT_CLOCK)


def run(data: str, model: str) -> None:
    """Train a model, and add its line."""
    folder, began = folder_of(data, model), time.monotonic()
    train(f"datamodule={data}", *MODELS[model], *ONLY_TESTED, f"run_dir={folder}", threads=None)
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    numbers = {name: metrics.get(f"test/{name}", "") for name in (*SHOWN, *BOTH)}
    halves = {f"{name}_half_width": metrics.get(f"test/{name}_half_width", "") for name in SHOWN}
    line = {
        "data": data,
        "model": model,
        "used": used(folder),
        "val_ndcg_at_10": metrics["val/ndcg_at_10"],
        **numbers,
        **halves,
        "seconds": round(time.monotonic() - began),
        "commit": STUDY.commit(),
    }
    append_rows(RESULTS, [line])


def folder_of(data: str, model: str) -> Path:
    """The run folder of a training."""
    return STUDY.work / data / model.replace(" ", "_").replace("=", "_")


def used(folder: Path) -> str:
    """The words that the run chose, for a person."""
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    words = [word for word in record["overrides"] if word.startswith(("recipe=", "model=", "context=", "model."))]
    return " ".join(words)


def compare(data: str) -> None:
    """Add the differences between what was chosen and its rival, by the queries of their runs."""
    counted = [row for row in read_rows(RESULTS) if row["data"] == data and row["model"] != CHOSEN]
    rival = max(counted, key=lambda row: float(row["val_ndcg_at_10"]))["model"]
    ours, theirs = (pd.read_parquet(folder_of(data, model) / "test_queries.parquet") for model in (CHOSEN, rival))
    assert ours[["session", "previous", "following"]].equals(theirs[["session", "previous", "following"]])
    session = np.unique(ours.session, return_inverse=True)[1]
    for name in SHOWN:
        our, their = (QueryScores.of(one[name].to_numpy()[None], session) for one in (ours, theirs))
        found = paired_difference(our, their, LEVEL)
        line = {"data": data, "rival": rival, "metric": name, "difference": found.difference}
        append_rows(DIFFERENCES, [{**line, "lower": found.lower, "upper": found.upper}])


def report() -> None:
    """Write results.md."""
    rows = []
    for line in read_rows(RESULTS):
        cells = [f"{float(line[name]):.4f}" for name in ("val_ndcg_at_10", *SHOWN)]
        both = [f"{100 * float(line[name]):.2f}" for name in BOTH]
        rows.append([line["data"], f"`{line['model']}`", f"`{line['used']}`", *cells, *both, line["seconds"]])
    head = ["data", "model", "words of the run", "validation ndcg@10", "recall@10", "ndcg@10", "P@20, %", "MRR@20, %"]
    lines = ["# Results", "", f"Written by `{STUDY.command}`. One training each, seed 1, default settings.", ""]
    lines += [*table([*head, "seconds"], rows, "lllrrrrrr"), "", "## What was chosen, less its rival", ""]
    rows = []
    for line in read_rows(DIFFERENCES):
        numbers = [f"{float(line[name]):+.4f}" for name in ("difference", "lower", "upper")]
        verdict = "first" if float(line["lower"]) > 0 else "behind" if float(line["upper"]) < 0 else "level"
        rows.append([line["data"], f"`{line['rival']}`", line["metric"].replace("_at_", "@"), *numbers, verdict])
    head = ["data", "rival: counts, and validates best", "metric", "difference", "lower", "upper", "what was chosen is"]
    lines += [*table(head, rows, "lllrrrl"), ""]
    lines += ["Intervals of 95 % over test sessions, paired by query; a difference of 0 has no interval."]
    STUDY.write_table("results.md", lines)
    STUDY.write_provenance()


def main() -> None:
    """Train what is missing, then write the tables."""
    parser = STUDY.parser()
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--only", choices=["report"])
    given, began = STUDY.parse(parser), time.monotonic()
    for data in [] if given.only else available(*DATA):
        for model in pieces(data):
            done = {(row["data"], row["model"]) for row in read_rows(RESULTS)}
            if (data, model) in done:
                continue
            if time.monotonic() - began > 60 * given.minutes:
                print(f"stopped before {data}, {model}; the next call continues")
                return
            print(f"{data}, {model}", flush=True)
            run(data, model)
        if data not in {row["data"] for row in read_rows(DIFFERENCES)}:
            compare(data)
    report()


if __name__ == "__main__":
    STUDY.run(main)
