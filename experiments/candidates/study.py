"""How many candidates does the softmax loss need, and what does bfloat16 change?

    python experiments/candidates/study.py                the missing runs, then results.md and results.png
    python experiments/candidates/study.py --only time    seconds.csv: the time of an epoch, on an idle machine
    python experiments/candidates/study.py --only report  only results.md and results.png

Cost: half an hour on two idle cores, and three minutes for the time; a stopped study goes on where it was. Each run is
a line of results.csv. Expected: more candidates are better up to some size, and bfloat16 changes less than seeds do.
"""

import itertools
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.studying import SkippedError, Study, append_rows, available, read_rows, sized, train
from segue.reports.markdown import table
from segue.statistics.intervals import MeanInterval
from segue.terminal.progress import progress

STUDY = Study(__file__, __doc__)
RESULTS, SECONDS = STUDY.folder / "results.csv", STUDY.folder / "seconds.csv"
DATA = sized(("yes", "polimi"), ("yes",))
SIZES, NUM_SEEDS = sized(((256, 512, 1024, 2048, 4096), 5), ((1024,), 1))
METRICS = ("val/ndcg_at_10", "test/ndcg_at_10", "test/recall_at_10")
QUIET = ("logger=none", "callbacks.plots=null", "callbacks.export=null", "model=convex")
SETTING = ["part", "data", "batch_size", "candidates", "lr", "precision", "seed"]


def settings() -> Iterator[tuple[str, ...]]:
    """All runs, as values of SETTING."""
    for data, size, seed in itertools.product(DATA, SIZES, range(1, min(2, NUM_SEEDS) + 1)):
        yield ("small batches", data, str(size), "null", learning_rate(size), "32-true", str(seed))
        yield ("batches of 8192", data, "8192", str(size), learning_rate(8192), "32-true", str(seed))
    for data, precision, seed in itertools.product(DATA, ("32-true", "bf16-mixed"), range(1, NUM_SEEDS + 1)):
        yield ("precision", data, "1024", "null", learning_rate(1024), precision, str(seed))


def learning_rate(batch_size: int) -> str:
    """The default at 1024, scaled by the root of the batch size.

    Source:
        Malladi et al., On the SDEs and scaling rules for adaptive gradient algorithms, NeurIPS 2022.
    """
    return f"{0.01 * (batch_size / 1024) ** 0.5:.3g}"


def run(setting: Sequence[str], *, threads: int = 1, epochs: int = 50) -> dict[str, str]:
    """Train once.

    Returns:
        The settings and what came of them.
    """
    values = dict(zip(SETTING, setting, strict=True))
    with tempfile.TemporaryDirectory() as folder:
        words = [f"datamodule={values['data']}", "context=last", f"datamodule.batch_size={values['batch_size']}"]
        words += [f"loss.candidates={values['candidates']}", f"optimizer.lr={values['lr']}"]
        words += [f"trainer.precision={values['precision']}", f"seed={values['seed']}", f"trainer.max_epochs={epochs}"]
        words += sized([], ["+trainer.limit_train_batches=4"])
        train(*QUIET, *words, f"hydra.run.dir={folder}/run", threads=threads)
        metrics = json.loads((Path(folder) / "run" / "metrics.json").read_text(encoding="utf-8"))
    metrics["s per epoch"] = metrics["fit_seconds"] / metrics["epochs"]
    return {**values, **{name: f"{metrics[name]:.6g}" for name in (*METRICS, "epoch", "epochs", "s per epoch")}}


def train_missing() -> None:
    done = {tuple(row[name] for name in SETTING) for row in read_rows(RESULTS)}
    missing = [setting for setting in settings() if setting not in done]
    with ProcessPoolExecutor(sized(2, 1)) as pool, progress("runs", len(missing)) as advance:
        for row in pool.map(run, missing):
            del row["s per epoch"]  # two runs at once: not the time of one
            append_rows(RESULTS, [row])
            advance(1)


def time_epochs() -> None:
    """Three epochs with their validation, one run after another, in two threads."""
    SECONDS.unlink(missing_ok=True)
    distinct = list(dict.fromkeys((*setting[:-1], "1") for setting in settings()))
    with progress("runs", len(distinct)) as advance:
        for setting in distinct:
            append_rows(SECONDS, [run(setting, threads=2, epochs=3)])
            advance(1)


def report() -> None:
    runs, seconds = (pd.read_csv(p, dtype={"candidates": str}, keep_default_na=False) for p in (RESULTS, SECONDS))
    of_setting = ["part", "data", "batch_size", "candidates", "precision"]
    runs = runs.merge(seconds[[*of_setting, "s per epoch"]], on=of_setting)
    lines = []
    sizes = runs[runs.part != "precision"]
    for data in DATA:
        of_data = sizes[sizes.data == data]
        chosen = (
            of_data.groupby(["batch_size", "candidates", "lr"])[[*METRICS, "epoch", "s per epoch"]].mean().reset_index()
        )
        chosen["size"] = np.where(chosen.candidates == "null", chosen.batch_size, chosen.candidates).astype(int)
        chosen = chosen.sort_values(["batch_size", "size"])
        head = [
            "batch",
            "candidates",
            "lr",
            "val ndcg@10",
            "test ndcg@10",
            "test recall@10",
            "best epoch",
            "s per epoch",
        ]
        cells = [
            [f"{row.batch_size}", f"{row['size']}", f"{row.lr:g}", *(f"{row[name]:.4f}" for name in METRICS),
             f"{row.epoch + 1:.1f}", f"{row['s per epoch']:.2f}"]
            for _, row in chosen.iterrows()
        ]  # fmt: skip
        lines += [f"**{data}**: mean of seeds 1 and 2", ""]
        lines += [*table(head, cells, "rrrrrrrr"), ""]
    pairs = runs[runs.part == "precision"].set_index(["data", "seed", "precision"])
    cells = []
    for data, metric in itertools.product(DATA, METRICS):
        values = pairs.loc[data][metric].unstack("precision")
        interval = MeanInterval.of((values["bf16-mixed"] - values["32-true"]).to_numpy(), 0.95)
        both = [f"{values[name].mean():.4f}" for name in ("32-true", "bf16-mixed")]
        cells.append(
            [data, metric, *both, *(f"{value:+.4f}" for value in (interval.mean, interval.lower, interval.upper))]
        )
    lines += ["**bfloat16**: batches of 1,024, five seeds, paired by seed", ""]
    for data in DATA:
        epochs = pairs.loc[data].groupby("precision")["s per epoch"].first()
        cells.append([data, "s per epoch", *(f"{epochs[name]:.2f}" for name in ("32-true", "bf16-mixed")), "", "", ""])
    lines += table(["data", "metric", "32-true", "bf16-mixed", "difference", "from", "to (95 %)"], cells, "llrrrrr")
    STUDY.write_table("results.md", lines)
    STUDY.write_provenance()
    draw(sizes)


def draw(sizes: pd.DataFrame) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    for axis, data in zip(figure.subplots(1, len(DATA), squeeze=False)[0], DATA, strict=True):
        for part, of_part in sizes[sizes.data == data].groupby("part"):
            column = of_part.batch_size if part == "small batches" else of_part.candidates
            means = of_part.assign(size=column.astype(int)).groupby("size")["val/ndcg_at_10"].mean()
            axis.plot(means.index, means, marker="o", label=str(part))
        axis.set_xscale("log", base=2)
        axis.set_xticks(SIZES, SIZES)
        axis.set_title(data)
        axis.set_xlabel("candidates of a pair")
        axis.set_ylabel("val/ndcg_at_10")
        axis.legend()
    STUDY.write_figure("results.png", figure)


def main() -> None:
    parser = STUDY.parser()
    parser.add_argument("--only", choices=["time", "report"], help="one step alone")
    only = STUDY.parse(parser).only
    if only != "report" and not available(*DATA):
        raise SkippedError("candidates: it has no other data")
    if only is None:
        train_missing()
    if only == "time" or not SECONDS.exists():
        time_epochs()
    report()


if __name__ == "__main__":
    STUDY.run(main)
