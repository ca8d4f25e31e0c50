"""Do models that read the order of a session predict the next track better than a weighted sum of its tracks?

    python experiments/order/study.py                  the missing trainings, then results.md
    python experiments/order/study.py --most 1         at most one training now; the next call continues
    python experiments/order/study.py --only yes       one data set
    python experiments/order/study.py --model sasrec   one model
    python experiments/order/study.py --most 0         only results.md

convex with the session, and with a GRU or self-attention beside it; and GRU4Rec and SASRec of their libraries, whose
ranks are those of the study rivals. One line of results.csv is one training, and a file in ranks/ has the rank of each
of its test queries.
"""

import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.rivals.rank_files import (
    RANKS,
    queries_path,
    ranks_path,
    read_queries,
    read_ranks,
    write_queries,
    write_ranks,
)
from experiments.studying import Study, append_rows, available, read_rows, sized, train
from segue.reports.markdown import table
from segue.statistics.paired import QueryScores, paired_difference
from segue.statistics.ranking import accuracy

STUDY = Study(__file__, __doc__)
RESULTS, OWN_RANKS = STUDY.folder / "results.csv", STUDY.folder / "ranks"
Sets = dict[str, tuple[str, ...]]
FULL: Sets = {"yes": (), "polimi": ()}
SMALL: Sets = {"situnes": ("recipe=playlists", "model.dim=16", "context.encoder.dim=16")}
DATA = sized(FULL, SMALL)
RIVALS = RANKS.with_name("pieces.csv")
SUM, OF_ORDER = "convex", ("gru4rec", "sasrec")
MODELS: Sets = {
    SUM: ("context=session", "counted=none"),
    **{name: (f"model={name}", "counted=none") for name in OF_ORDER},
}
OF_LIBRARY = {"gru4rec": "GRU4Rec", "sasrec": "SASRec"}
"""The model of a library that each is held against, by its name in the study rivals."""
SEEDS = sized(range(1, 6), range(1, 2))
ONLY_TESTED = ("logger=none", "callbacks.export=null", "callbacks.plots=null")
SHOWN = ("recall_at_10", "ndcg_at_10")
LEVEL = 0.95


def run(data: str, model: str, seed: int) -> None:
    """Train, write the ranks, and add a line."""
    folder, before = STUDY.work / data / model / str(seed), os.times()
    own = [word for word in DATA[data] if model != SUM or not word.startswith("context.")]
    train(f"datamodule={data}", *own, *MODELS[model], *ONLY_TESTED, f"seed={seed}", f"run_dir={folder}")
    after = os.times()
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    queries = pd.read_parquet(folder / "test_queries.parquet")
    write_ranks(ranks_path(OWN_RANKS, data, model, str(seed)), queries["rank"].to_numpy())
    write_queries(queries_path(OWN_RANKS, data), queries[["session"]])
    line = {
        "data": data,
        "model": model,
        "seed": seed,
        "epoch": metrics["epoch"] + 1,
        "val_ndcg_at_10": metrics["val/ndcg_at_10"],
        **{name: metrics[f"test/{name}"] for name in SHOWN},
        "cpu_s": round(sum(after[2:4]) - sum(before[2:4])),  # of child processes
        "commit": STUDY.commit(),
    }
    append_rows(RESULTS, [line])


def metrics_of(folder: Path, data: str, model: str) -> list[pd.DataFrame]:
    """The metrics of each test query, for each seed whose ranks are in a folder."""
    paths = (ranks_path(folder, data, model, str(seed)) for seed in range(1, 6))
    return [accuracy(read_ranks(path)) for path in paths if path.exists()]


def scores(queries: list[pd.DataFrame], session: np.ndarray, metric: str) -> QueryScores:
    """A metric of each seed and query."""
    return QueryScores.of(np.stack([one[metric].to_numpy() for one in queries]), session)


def mean_of(rows: Iterable[Mapping[str, str]], name: str) -> float:
    """The mean of a column; NaN where it was not measured."""
    return float(pd.to_numeric(pd.Series([row[name] for row in rows], dtype=object)).mean())


def differences(data: str, model: str, others: Mapping[str, Any]) -> list[list[str]]:
    """Rows of a model less others on the test queries, paired by query; none where it was not ranked."""
    rows: list[list[str]] = []
    if not (ours := metrics_of(OWN_RANKS, data, model)):
        return rows
    session = np.unique(read_queries(queries_path(OWN_RANKS, data))["session"], return_inverse=True)[1]
    for name, theirs in others.items():
        if not theirs or len(theirs[0]) != len(session):
            continue
        for metric in SHOWN:
            our, their = (scores(one, session, metric) for one in (ours, theirs))
            found = paired_difference(our, their, LEVEL)
            cells = [f"{one:+.4f}" for one in (found.difference, found.lower, found.upper)]
            rows.append([data, model, name, metric.replace("_at_", "@"), *cells])
    return rows


def report() -> None:
    """Write results.md."""
    lines, of_query = pd.DataFrame(read_rows(RESULTS)), read_rows(STUDY.folder / "mixture.csv")
    text = ["# Results", "", f"Written by `{STUDY.command}`.", ""]
    rows: list[list[str]] = []
    for data in DATA:
        for model in MODELS:
            own = lines[(lines["data"] == data) & (lines["model"] == model)]
            if len(own):
                numbers = own[["val_ndcg_at_10", *SHOWN, "epoch"]].astype(float).mean().tolist()
                ms = mean_of([row for row in of_query if (row["data"], row["model"]) == (data, model)], "query_ms")
                cells = [*(f"{one:.4f}" for one in numbers[:3]), f"{numbers[3]:.0f}"]
                cells += [f"{pd.to_numeric(own['cpu_s']).mean():.0f}", f"{ms:.3f}"]
                rows.append([data, model, str(len(own)), *(cell.replace("nan", "") for cell in cells)])
    for data in DATA:
        for name in OF_LIBRARY.values():
            if theirs := metrics_of(RANKS, data, name):
                means = [f"{np.mean([one[metric].mean() for one in theirs]):.4f}" for metric in SHOWN]
                pieces = [
                    row
                    for row in read_rows(RIVALS)
                    if (row["data"], row["model"], row["part"]) == (data, name, "final")
                ]
                last = {row["number"]: row for row in pieces}.values()  # a seed that was trained again
                cost = [f"{mean_of(last, 'fit_s'):.0f}", f"{mean_of(last, 'query_ms'):.3f}"]
                rows.append([data, f"{name} (library)", str(len(theirs)), "", *means, "", *cost])
    head = ["data", "model", "seeds", "validation ndcg@10", "recall@10", "ndcg@10", "epoch", "CPU, s", "ms of a query"]
    text += [
        *table(head, rows, "llrrrrrrr"),
        "",
        "CPU of a training, and of ranking all tracks for a query, one thread.",
    ]
    text += ["", "## Differences on test queries", ""]
    rows = []
    for data in DATA:
        for model in OF_ORDER:
            name = OF_LIBRARY[model]
            others = {SUM: metrics_of(OWN_RANKS, data, SUM), f"{name} (library)": metrics_of(RANKS, data, name)}
            rows += differences(data, model, others)
    text += table(["data", "model", "less", "metric", "difference", "lower", "upper"], rows, "llllrrr")
    text += ["", "Intervals of 95 % over test sessions, and over seeds where there are several, paired by query."]
    STUDY.write_table("results.md", text)
    STUDY.write_provenance()


def main() -> None:
    """Train what is missing, then write the tables."""
    parser = STUDY.parser()
    parser.add_argument("--most", type=int, default=99, help="train at most so many models now")
    parser.add_argument("--only", choices=[*DATA], help="one data set")
    parser.add_argument("--model", choices=[*MODELS], help="one model")
    given = STUDY.parse(parser)
    done = {(row["data"], row["model"], int(row["seed"])) for row in read_rows(RESULTS)}
    data = available(*([given.only] if given.only else DATA))
    models = [given.model] if given.model else [*MODELS]
    pieces = [(one, model, seed) for seed in SEEDS for one in data for model in models]
    for piece in [piece for piece in pieces if piece not in done][: given.most]:
        print(*piece, flush=True)
        run(*piece)
    report()


if __name__ == "__main__":
    STUDY.run(main)
