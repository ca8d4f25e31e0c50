"""Do models that read the order of a session predict the next track better than a weighted sum of its tracks?

    python experiments/order/study.py                  the missing trainings, then results.md
    python experiments/order/study.py --most 1         at most one training now; the next call continues
    python experiments/order/study.py --only yes       one data set
    python experiments/order/study.py --model sasrec   one model
    python experiments/order/study.py --most 0         only results.md

convex with the session, and with a GRU or self-attention beside it; and GRU4Rec and SASRec of their libraries, whose
ranks and curves are those of the study rivals. One line of results.csv is one training, one line of curves.csv one of
its epochs, and a file in ranks/ has the rank of each of its test queries.

R runs, Q test queries.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.rivals.fitting import ALL_QUERIES, append_curve
from experiments.rivals.rank_files import (
    RANKS,
    queries_path,
    ranks_path,
    read_queries,
    read_ranks,
    write_queries,
    write_ranks,
)
from experiments.rivals.sequence_parts import PATIENCE
from experiments.rivals.study import CURVES as THEIR_CURVES
from experiments.rivals.study import known
from experiments.rivals.tables import METRICS, Test, paired_tests, results
from experiments.studying import Study, append_rows, available, read_rows, sized, train
from segue.reports.markdown import table

STUDY = Study(__file__, __doc__)
RESULTS, CURVES, MIXTURES = (STUDY.folder / f"{name}.csv" for name in ("results", "curves", "mixture"))
OWN_RANKS = STUDY.folder / "ranks"
Sets = dict[str, tuple[str, ...]]
FULL: Sets = {"yes": (), "polimi": ()}
SMALL: Sets = {"situnes": ("recipe=playlists", "model.dim=16", "context.encoder.dim=16")}
DATA = sized(FULL, SMALL)
SUM, OF_ORDER = "convex", ("gru4rec", "sasrec")
MODELS: Sets = {
    SUM: ("context=session", "counted=none"),
    **{name: (f"model={name}", "counted=none") for name in OF_ORDER},
}
OF_LIBRARY = {"gru4rec": "GRU4Rec", "sasrec": "SASRec"}
"""The model of a library that each is held against, by its name in the study rivals."""
SEEDS = sized(range(1, 6), range(1, 2))
ALL_VALIDATION = f"callbacks.ranking.max_val_queries={ALL_QUERIES}"
ONLY_TESTED = (
    "logger=none", "callbacks.export=null", "callbacks.plots=null", "callbacks.resume=null",
    "callbacks.checkpoint.save_last=false", ALL_VALIDATION, f"callbacks.early_stopping.patience={PATIENCE}",
)  # fmt: skip
"""Words of all trainings, which end by the rule of the libraries' networks."""
WITH_CURVE = "+callbacks.curve={_target_: experiments.order.curve.Curve, path: '${run_dir}/curve.json'}"
SHOWN = ("recall_at_10", "ndcg_at_10")
SHARES = (0.95, 1.0)
"""Shares of the best validation ndcg@10 of a library's network, until which processor time is counted."""


def words_of(data: str, model: str) -> list[str]:
    """The words of a training for `train.py`."""
    return [*(word for word in DATA[data] if model != SUM or not word.startswith("context.")), *MODELS[model]]


def run(data: str, model: str, seed: int) -> None:
    """Train, write the ranks, and add the lines."""
    folder = STUDY.work / data / model / str(seed)
    own = [f"datamodule={data}", *words_of(data, model), *ONLY_TESTED, WITH_CURVE]
    train(*own, f"seed={seed}", f"run_dir={folder}")
    metrics, curve = (json.loads((folder / name).read_text()) for name in ("metrics.json", "curve.json"))
    queries = pd.read_parquet(folder / "test_queries.parquet")
    write_ranks(ranks_path(OWN_RANKS, data, model, str(seed)), queries["rank"].to_numpy())
    write_queries(queries_path(OWN_RANKS, data), queries[["session"]])
    key = {"data": data, "model": model, "seed": seed}
    append_curve(CURVES, key, curve["curve"])
    line = {
        **key,
        "epoch": metrics["epoch"] + 1,
        "val_ndcg_at_10": metrics["val/ndcg_at_10"],
        **{name: metrics[f"test/{name}"] for name in SHOWN},
        "cpu_s": round(curve["curve"][-1][0], 1),
        "commit": STUDY.commit(),
    }
    append_rows(RESULTS, [line])


def metrics_of(folder: Path, data: str, model: str) -> dict[str, np.ndarray]:
    """Each metric of each seed and test query, R × Q, of the seeds whose ranks are in a folder; none without."""
    paths = (ranks_path(folder, data, model, str(seed)) for seed in range(1, 6))
    runs = [read_ranks(path) for path in paths if path.exists()]
    return {metric: np.stack([of(run, 10) for run in runs]) for metric, of in METRICS.items()} if runs else {}


def differences(data: str, model: str, others: Mapping[str, Mapping[str, np.ndarray]]) -> list[Test]:
    """A model less others on the test queries, paired by query; none where it was not ranked.

    Another model of ours has the seeds that this one has.
    """
    if not (ours := metrics_of(OWN_RANKS, data, model)):
        return []
    session = read_queries(queries_path(OWN_RANKS, data))["session"].to_numpy()
    tests = list[Test]()
    for name, theirs in others.items():
        num_seeds = len(ours["ndcg@10"]) if name in MODELS else None
        same = {metric: values[:num_seeds] for metric, values in theirs.items()}
        tests += paired_tests([data, model, name], ours, same, session) if same else []
    return tests


def table_of_differences(tests: list[Test]) -> list[str]:
    """The rows of tests, which are not corrected."""
    head = ["data", "model", "less", "metric", "difference", "lower", "upper"]
    note = "Intervals of 95 % over test sessions, and over seeds where there are several, paired by query."
    return [*table(head, [row for row, _ in tests], "llllrrr"), "", note]


def lines_of(path: Path, data: str, model: str) -> pd.DataFrame:
    """The lines of a model in a CSV file, with their numbers."""
    lines = [row for row in read_rows(path) if (row["data"], row["model"]) == (data, model)]
    numbers = ["seed", "epoch", "cpu_s", "query_ms", "val_ndcg_at_10", *SHOWN]
    return pd.DataFrame(lines).reindex(columns=numbers).astype(float)


def shown(value: float, digits: int) -> str:
    """A number for a table; nothing where it was not measured."""
    return f"{value:.{digits}f}".replace("nan", "")


def cpu_until(curves: pd.DataFrame, level: float) -> str:
    """Median over seeds of the processor time until validation ndcg@10 reaches a level.

    Args:
        curves: a line for each seed and epoch.
        level: of ndcg@10.
    """
    first_s = curves[curves["val_ndcg_at_10"] >= level].groupby("seed")["cpu_s"].min()
    median = first_s.reindex(curves["seed"].unique(), fill_value=np.inf).median()
    return shown(median, 0).replace("inf", "not reached")


def time_to_quality() -> list[str]:
    """The table of the processor time until a library's network, and ours, have its quality."""
    rows = []
    for data in DATA:
        own = {name: lines_of(CURVES, data, name) for name in MODELS}
        for name in OF_LIBRARY.values():
            curves = lines_of(THEIR_CURVES, data, name)
            best = curves.groupby("seed")["val_ndcg_at_10"].max().median()
            for share in SHARES if len(curves) else ():
                cells = [cpu_until(one, share * best) for one in (curves, *own.values())]
                rows.append([data, name, f"{100 * share:.0f} %", f"{share * best:.4f}", *cells])
    head = ["data", "network of a library", "share of its best", "validation ndcg@10", "its CPU, s"]
    return table([*head, *(f"CPU of {name}, s" for name in MODELS)], rows, "llrr" + "r" * (1 + len(MODELS)))


def report() -> None:
    """Write results.md."""
    rows: list[list[str]] = []
    of_data = {data: results(data, known(), RANKS) for data in DATA}
    for data in DATA:
        for model in MODELS:
            own, query_ms = lines_of(RESULTS, data, model), lines_of(MIXTURES, data, model)["query_ms"]
            if len(own):
                values = [shown(one, 4) for one in own[["val_ndcg_at_10", *SHOWN]].mean()]
                cost = [shown(own["epoch"].mean(), 0), shown(own["cpu_s"].median(), 0), shown(query_ms.median(), 2)]
                rows.append([data, model, str(len(own)), *values, *cost])
        for name in OF_LIBRARY.values():
            if (one := of_data[data].get(name)) is not None:
                values = [shown(value, 4) for value in (one.val, *(of.mean() for of in one.values.values()))]
                cost = ["", shown(one.fit_s, 0), shown(one.query_ms, 2)]
                rows.append([data, f"{name} (library)", str(len(one.values["ndcg@10"])), *values, *cost])
    head = ["data", "model", "seeds", "validation ndcg@10", "recall@10", "ndcg@10", "epoch", "CPU, s", "ms of a query"]
    text = [
        *("# Results", "", f"Written by `{STUDY.command}`.", ""),
        *table(head, rows, "llrrrrrrr"),
        "",
        "CPU of a training without validation, and of ranking all tracks for a query: one thread, median of the seeds.",
        *("", "## Time to quality", "", *time_to_quality(), ""),
        "CPU of a training without validation, until validation ndcg@10 has the value; one thread, median of the seeds",
        "(validation ranks all queries after each epoch).",
        *("", "## Differences on test queries", ""),
    ]
    tests = list[Test]()
    for data, found in of_data.items():
        for model, name in OF_LIBRARY.items():
            others = {SUM: metrics_of(OWN_RANKS, data, SUM)}
            others |= {f"{name} (library)": found[name].values} if name in found else {}
            tests += differences(data, model, others)
    STUDY.write_table("results.md", text + table_of_differences(tests))
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
