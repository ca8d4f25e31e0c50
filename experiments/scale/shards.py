"""How much memory do shards need as pairs grow, and what does shuffling in windows cost?

    python experiments/scale/shards.py memory --plays 1000000 3000000        rows of memory.csv, one for each size
    python experiments/scale/shards.py window --sessions 20000 --epochs 3    window.csv
    python experiments/scale/shards.py report                                memory.md, memory.png and window.md

Cost: memory about a minute for each million plays and stage on two shared cores, and 0.3 GB of disk for it; window ten
minutes. A size that memory.csv has is not measured again.
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.processes import memory_gb
from experiments.studying import Study, append_rows, composed, read_rows, run_python, sized, train
from segue.reports.markdown import table

STUDY = Study(__file__, __doc__)
MEMORY, WINDOW = STUDY.folder / "memory.csv", STUDY.folder / "window.csv"
WINDOWS = sized((1_000, 4_000, 16_000, 64_000, 10**9), (1_000, 10**9))
SEEDS = sized((1, 2, 3), (1,))
PLAYS = """
    COPY (SELECT range // 1000 AS user,
                 1100000000 + 86400 * (range // 1000 % 365) + 600 * (range % 1000 // 12) * 12 + 210 * (range % 12)
                     AS timestamp,
                 CAST(floor({tracks} * power((hash(range) % 1000003) / 1000003.0, 3)) AS BIGINT) AS track,
                 hash(range, 7) % 101 / 100.0 AS played_ratio
          FROM range({plays})) TO '{file}' (FORMAT parquet)"""
"""Sessions of twelve plays of one listener; few tracks have many plays."""
TRAIN = ("trainer.max_epochs=1", "logger=none", "callbacks.plots=null", "callbacks.export=null", "model=track")


def watch(run: Callable[..., object]) -> dict[str, float]:
    """Seconds of a process, and the most memory that it had: all of it, and without mapped files.

    Args:
        run: runs it to its end; its argument `each` is called with the id of the process from time to time.
    """
    most = {"VmRSS": 0.0, "RssAnon": 0.0}

    def look(process: int) -> None:
        for name in most:
            most[name] = max(most[name], memory_gb(process, name))

    began = time.monotonic()
    run(each=look)
    seconds = round(time.monotonic() - began, 1)
    return {"seconds": seconds, "GB": round(most["VmRSS"], 2), "anonymous": round(most["RssAnon"], 2)}


def measure_memory(sizes: list[int], folder: Path) -> None:
    """Prepare and train at each size; a row of memory.csv for each stage."""
    for plays in sizes:
        if any(int(row["plays"]) == plays for row in read_rows(MEMORY)):
            continue
        work = folder / str(plays)
        work.mkdir(parents=True)
        file = work / "plays.parquet"
        duckdb.sql(PLAYS.format(plays=plays, tracks=100_000, file=file))
        data = ["datamodule=table", f"datamodule.path={file}", "datamodule.units.timestamp=s", "recipe=shares"]
        stages: dict[str, Callable[..., object]] = {
            "prepare.py": partial(run_python, ["prepare.py", *data, "hydra.run.dir=shards"], cwd=work),
            "train.py, first": partial(train, *SHARDS, *TRAIN, "hydra.run.dir=first", cwd=work, threads=None),
            "train.py": partial(train, *SHARDS, *TRAIN, "hydra.run.dir=second", cwd=work, threads=None),
            "train.py from the source": partial(train, *data, *TRAIN, "hydra.run.dir=direct", cwd=work, threads=None),
        }
        rows: list[dict[str, Any]] = []
        for stage, run in stages.items():
            if plays <= 30_000_000 or "source" not in stage:
                rows.append({"plays": plays, "stage": stage, **watch(run)})
                print(rows[-1], flush=True)
        append_rows(MEMORY, rows)
        shutil.rmtree(work)
    STUDY.write_provenance("memory_provenance.json")


SHARDS = ("datamodule=shards", "datamodule.path=shards", "datamodule.batch_size=16384")


def measure_window(sessions: int, epochs: int, folder: Path) -> None:
    """Train from the same shards with each window: loss and ranking of validation after the last epoch."""
    import torch
    from hydra.utils import instantiate
    from pytorch_lightning import Trainer, seed_everything

    from segue.callbacks.run_context import ranker_of
    from segue.datamodules.shards.engines import DuckDBEngine
    from segue.datamodules.shards.shard_writer import write_shards
    from segue.statistics import ranking

    words = f"datamodule.prepare.sessions={sessions}", f"datamodule.path={folder / 'logs'}"
    config = composed("train", *words, f"run_dir={folder}")
    of_shards = composed("train", "datamodule=shards", f"datamodule.path={folder / 'shards'}", f"run_dir={folder}")
    source = instantiate(config.datamodule, _convert_="all")
    source.prepare_data()
    (folder / "shards").mkdir()
    what = {"recipe": "shares", "context": "last", "batch_size": config.datamodule.batch_size, "source": {}}
    write_shards(source, DuckDBEngine(), folder / "shards", **what, shard_rows=sessions // 4)
    rows: list[dict[str, Any]] = []
    for window in WINDOWS:
        for seed in SEEDS:
            data = instantiate(of_shards.datamodule, window=window, seed=seed, _convert_="all")
            data.setup()
            seed_everything(seed, verbose=False)
            model = instantiate(of_shards.ranker, _convert_="all")(vocabulary=data.vocabulary)
            trainer = Trainer(
                max_epochs=epochs,
                accelerator="cpu",
                num_sanity_val_steps=0,
                enable_model_summary=False,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
            )
            trainer.fit(model, data)
            val = data.pairs["val"]
            queries = val.where(ranking.is_query(val.previous, val.following, val.played_ratio))
            with torch.inference_mode():
                ranks = ranker_of(model).ranks(data.histories(queries), queries.following, lambda _: None)
            loss, ndcg = trainer.callback_metrics["val/loss"], ranking.accuracy(ranks)["ndcg_at_10"].mean()
            row = {"window": window, "seed": seed, "epochs": epochs, "pairs": len(data.pairs["train"])}
            rows.append({**row, "loss": float(loss), "ndcg_at_10": float(ndcg)})
            print(rows[-1], flush=True)
    WINDOW.unlink(missing_ok=True)
    append_rows(WINDOW, rows)
    STUDY.write_provenance("window_provenance.json")


def report() -> None:
    """The tables and the picture."""
    if rows := read_rows(MEMORY):
        head = ["plays", "stage", "seconds", "memory, GB", "without mapped files, GB"]
        body = [[f"{int(row['plays']):,}", row["stage"], row["seconds"], row["GB"], row["anonymous"]] for row in rows]
        STUDY.write_table("memory.md", table(head, body, "rlrrr"))
        _draw(rows)
    if rows := read_rows(WINDOW):
        body = []
        for window in WINDOWS:
            chosen = [row for row in rows if int(row["window"]) == window]
            if not chosen:
                continue
            cells = [f"{window:,}" if window < 10**9 else "all"]
            for name, digits in (("loss", 5), ("ndcg_at_10", 5)):
                values = np.array([float(row[name]) for row in chosen])
                cells += [f"{values.mean():.{digits}f}", f"{values.std(ddof=1):.{digits}f}" if len(values) > 1 else "–"]
            body.append(cells)
        head = ["window, pairs", "val/loss", "sd of seeds", "val/ndcg_at_10", "sd of seeds "]
        STUDY.write_table("window.md", table(head, body, "rrrrr"))


def _draw(rows: list[dict[str, str]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for stage in dict.fromkeys(row["stage"] for row in rows):
        points = sorted((int(row["plays"]), float(row["anonymous"])) for row in rows if row["stage"] == stage)
        axes.plot(*zip(*points, strict=True), "o-", label=stage)
    axes.set(xscale="log", xlabel="plays", ylabel="memory without mapped files, GB", ylim=(0, None))
    axes.legend()
    STUDY.write_figure("memory.png", figure, dpi=120)


def main() -> None:
    parser = STUDY.parser()
    parser.add_argument("parts", nargs="*", metavar="part", help="memory, window or report; without it the first two")
    parser.add_argument("--plays", type=int, nargs="+", default=sized([1_000_000, 3_000_000, 10_000_000], [3_000]))
    parser.add_argument("--sessions", type=int, default=sized(20_000, 500))
    parser.add_argument("--epochs", type=int, default=sized(3, 1))
    given = STUDY.parse(parser)
    parts = given.parts or ["memory", "window"]
    if unknown := {*parts} - {"memory", "window", "report"}:
        parser.error(f"part must be memory, window or report, got {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        if "memory" in parts:
            measure_memory(given.plays, Path(folder))
        if "window" in parts:
            measure_window(given.sessions, given.epochs, Path(folder))
    report()


if __name__ == "__main__":
    STUDY.run(main)
