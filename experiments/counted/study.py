"""Does a counted part around a head predict the next track better than the head alone?

    python experiments/counted/study.py                  the missing trainings, then results.md
    python experiments/counted/study.py --most 1         at most one training now; the next call continues
    python experiments/counted/study.py --only yes       one data set
    python experiments/counted/study.py --most 0         only results.md

Four data sets, and on each the default with its counted part and without. Where validation chooses the counted part,
its test is compared with that of the head alone. One line of results.csv is one training.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.studying import Study, append_rows, available, read_rows, sized, train
from segue.reports.markdown import table
from segue.statistics.paired import QueryScores, paired_difference

STUDY = Study(__file__, __doc__)
RESULTS, DIFFERENCES = STUDY.folder / "results.csv", STUDY.folder / "differences.csv"
SESSIONS = ("recipe=playlists", "context=session")
Sets = dict[str, tuple[str, ...]]
FULL: Sets = {
    "situnes": SESSIONS,
    "botify": SESSIONS,
    "yes": (),
    "polimi": (),
}
SMALL: Sets = {"situnes": SESSIONS}
DATA = sized(FULL, SMALL)
HEAD, COUNTED = "none", ("none", "auto")
ONLY_TESTED = ("logger=none", "callbacks.export=null", "callbacks.plots=null")
SHOWN = ("recall_at_10", "ndcg_at_10")
EVERY = ("every_target_p_at_20", "every_target_mrr_at_20")
LEVEL = 0.95


def folder_of(data: str, counted: str) -> Path:
    """The run folder of a training."""
    return STUDY.work / data / counted


def run(data: str, counted: str) -> None:
    """Train, and add a line."""
    folder, began = folder_of(data, counted), time.monotonic()
    words = (f"datamodule={data}", *DATA[data], f"counted={counted}", *ONLY_TESTED)
    train(*words, f"run_dir={folder}", threads=None)
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    line = {
        "data": data,
        "counted": counted,
        "val_ndcg_at_10": metrics["val/ndcg_at_10"],
        **{name: metrics.get(f"test/{name}", "") for name in (*SHOWN, *EVERY)},
        "strength": metrics.get("counted_strength", ""),
        "seconds": round(time.monotonic() - began),
        "commit": STUDY.commit(),
    }
    append_rows(RESULTS, [line])


def add_differences(data: str) -> None:
    """Add what validation chose, less the head alone, paired by query: a line for each metric."""
    own = {line["counted"]: float(line["val_ndcg_at_10"]) for line in read_rows(RESULTS) if line["data"] == data}
    best = max(own, key=lambda one: own[one])
    if best == HEAD:
        return
    ours, theirs = (pd.read_parquet(folder_of(data, one) / "test_queries.parquet") for one in (best, HEAD))
    assert ours[["session", "previous", "following"]].equals(theirs[["session", "previous", "following"]])
    session = np.unique(ours.session, return_inverse=True)[1]
    for metric in SHOWN:
        our, their = (QueryScores.of(one[metric].to_numpy()[None], session) for one in (ours, theirs))
        found = paired_difference(our, their, LEVEL)
        numbers = {name: f"{getattr(found, name):+.4f}" for name in ("difference", "lower", "upper")}
        append_rows(DIFFERENCES, [{"data": data, "counted": best, "metric": metric, **numbers}])


def report() -> None:
    """Write results.md."""
    lines, rows = read_rows(RESULTS), []
    for line in lines:
        numbers = [f"{float(line[name]):.4f}" for name in ("val_ndcg_at_10", *SHOWN)]
        every = [f"{100 * float(line[name]):.2f}" for name in EVERY]
        strength = f"{float(line['strength']):g}" if line["strength"] else ""
        rows.append([line["data"], f"`counted={line['counted']}`", *numbers, *every, strength, line["seconds"]])
    head = [
        "data",
        "counted",
        "validation ndcg@10",
        "recall@10",
        "ndcg@10",
        "P@20, %",
        "MRR@20, %",
        "strength",
        "seconds",
    ]
    text = ["# Results", "", f"Written by `{STUDY.command}`. One training each, seed 1.", ""]
    text += [*table(head, rows, "llrrrrrrr"), "", "## What validation chose, less the head alone", ""]
    rows = [
        [line["data"], f"`counted={line['counted']}`", line["metric"].replace("_at_", "@"), *list(line.values())[3:]]
        for line in {(one["data"], one["metric"]): one for one in read_rows(DIFFERENCES)}.values()
    ]
    text += table(["data", "chosen", "metric", "difference", "lower", "upper"], rows, "lllrrr")
    text += ["", "Intervals of 95 % over test sessions, paired by query."]
    STUDY.write_table("results.md", text)
    STUDY.write_provenance()


def main() -> None:
    """Train what is missing, then write the tables."""
    parser = STUDY.parser()
    parser.add_argument("--most", type=int, default=99, help="train at most so many models now")
    parser.add_argument("--only", choices=[*DATA], help="one data set")
    given = STUDY.parse(parser)
    done = {(row["data"], row["counted"]) for row in read_rows(RESULTS)}
    data = available(*([given.only] if given.only else DATA))
    missing = [(one, counted) for one in data for counted in COUNTED if (one, counted) not in done]
    for one, counted in missing[: given.most]:
        print(f"{one}, counted={counted}", flush=True)
        run(one, counted)
        if all(folder_of(one, each).is_dir() for each in COUNTED):
            add_differences(one)
    report()


if __name__ == "__main__":
    STUDY.run(main)
