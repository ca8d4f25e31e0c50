"""How much memory do shards need as pairs grow, and what does shuffling in windows cost?

    python experiments/scale/shards.py memory --plays 1000000 3000000        rows of memory.csv, one for each size
    python experiments/scale/shards.py window --sessions 20000 --epochs 3    window.csv
    python experiments/scale/shards.py report                                memory.md, memory.png and window.md

Cost: memory about a minute for each million plays and stage on two shared cores, and 0.3 GB of disk for it; window ten
minutes. A size that memory.csv has is not measured again.
"""

import argparse
import csv
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from src.runs.atomic import write_record, write_whole
from src.runs.provenance import ROOT, provenance
from src.terminal.markdown import table

HERE = Path(__file__).parent
WINDOWS = (1_000, 4_000, 16_000, 64_000, 10**9)
SEEDS = (1, 2, 3)
PLAYS = """
    COPY (SELECT range // 1000 AS user,
                 1100000000 + 86400 * (range // 1000 % 365) + 600 * (range % 1000 // 12) * 12 + 210 * (range % 12)
                     AS timestamp,
                 CAST(floor({tracks} * power((hash(range) % 1000003) / 1000003.0, 3)) AS BIGINT) AS track,
                 hash(range, 7) % 101 / 100.0 AS played_ratio
          FROM range({plays})) TO '{file}' (FORMAT parquet)"""
"""Sessions of twelve plays of one listener; few tracks have many plays."""
TRAIN = ("trainer.max_epochs=1", "logger=none", "callbacks.plots=null", "callbacks.export=null", "model=track")


def watch(words: list[str], cwd: Path) -> dict[str, float]:
    """Run a command; its seconds, and the most memory that it had: all of it, and without mapped files."""
    began, peak, anonymous = time.monotonic(), 0.0, 0.0
    with (cwd / "log.txt").open("a") as log:
        process = subprocess.Popen([sys.executable, *words], cwd=cwd, stdout=log, stderr=log)
        while process.poll() is None:
            text = Path(f"/proc/{process.pid}/status").read_text()
            for pattern, now in ((r"VmRSS:\s+(\d+)", "rss"), (r"RssAnon:\s+(\d+)", "anonymous")):
                found = re.search(pattern, text)
                value = int(found[1]) / 1e6 if found else 0.0
                peak, anonymous = (max(peak, value), anonymous) if now == "rss" else (peak, max(anonymous, value))
            time.sleep(0.2)
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} failed: see {cwd / 'log.txt'}\n{(cwd / 'log.txt').read_text()[-2000:]}")
    return {"seconds": round(time.monotonic() - began, 1), "GB": round(peak, 2), "anonymous": round(anonymous, 2)}


def measure_memory(sizes: list[int], folder: Path) -> None:
    """Prepare and train at each size; a row of memory.csv for each stage."""
    path = HERE / "memory.csv"
    rows = list(csv.DictReader(path.open())) if path.exists() else []
    for plays in sizes:
        if any(int(row["plays"]) == plays for row in rows):
            continue
        work = folder / str(plays)
        work.mkdir(parents=True)
        file = work / "plays.parquet"
        duckdb.sql(PLAYS.format(plays=plays, tracks=100_000, file=file))
        data = ["datamodule=table", f"datamodule.path={file}", "datamodule.units.timestamp=s", "recipe=shares"]
        stages = {
            "prepare.py": [str(ROOT / "prepare.py"), *data, "hydra.run.dir=shards"],
            "train.py, first": [str(ROOT / "train.py"), *SHARDS, *TRAIN, "hydra.run.dir=first"],
            "train.py": [str(ROOT / "train.py"), *SHARDS, *TRAIN, "hydra.run.dir=second"],
            "train.py from the source": [str(ROOT / "train.py"), *data, *TRAIN, "hydra.run.dir=direct"],
        }
        for stage, words in stages.items():
            if plays > 30_000_000 and "source" in stage:
                continue
            measured: dict[str, Any] = {"plays": plays, "stage": stage, **watch(words, work)}
            rows.append(measured)
            print(measured, flush=True)
        write_rows(path, rows)
        file.unlink()
        for used in ("shards", "first", "second", "direct"):
            subprocess.run(["rm", "-rf", used], cwd=work, check=True)
    write_record(provenance(), HERE / "memory_provenance.json")


SHARDS = ("datamodule=shards", "datamodule.path=shards", "datamodule.batch_size=16384")


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as CSV."""

    def write(partial: Path) -> None:
        with partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    write_whole(path, write)


def measure_window(sessions: int, epochs: int, folder: Path) -> None:
    """Train from the same shards with each window: loss and ranking of validation after the last epoch."""
    import torch
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate
    from pytorch_lightning import Trainer, seed_everything

    from src.callbacks.context import ranker_of
    from src.datamodules.engines import DuckDBEngine
    from src.datamodules.shard_writer import Preparation, write_shards
    from src.evaluation import ranking

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        words = [f"datamodule.prepare.sessions={sessions}", f"run_dir={folder}", f"datamodule.path={folder / 'logs'}"]
        config = compose("train", words)
        of_shards = compose("train", ["datamodule=shards", f"datamodule.path={folder / 'shards'}", f"run_dir={folder}"])
    source = instantiate(config.datamodule, _convert_="all")
    source.prepare_data()
    (folder / "shards").mkdir()
    what = Preparation(
        recipe="shares", context="last", batch_size=config.datamodule.batch_size, source={}, shard_rows=sessions // 4
    )
    write_shards(source, DuckDBEngine(), what, folder / "shards")
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
    write_rows(HERE / "window.csv", rows)
    write_record(provenance(), HERE / "window_provenance.json")


def report() -> None:
    """The tables and the picture."""
    if (HERE / "memory.csv").exists():
        rows = list(csv.DictReader((HERE / "memory.csv").open()))
        head = ["plays", "stage", "seconds", "memory, GB", "without mapped files, GB"]
        body = [[f"{int(row['plays']):,}", row["stage"], row["seconds"], row["GB"], row["anonymous"]] for row in rows]
        write_whole(
            HERE / "memory.md", lambda partial: partial.write_text("\n".join(table(head, body, "rlrrr")) + "\n")
        )
        _draw(rows)
    if (HERE / "window.csv").exists():
        rows = list(csv.DictReader((HERE / "window.csv").open()))
        body = []
        for window in WINDOWS:
            chosen = [row for row in rows if int(row["window"]) == window]
            if not chosen:
                continue
            cells = [f"{window:,}" if window < 10**9 else "all"]
            for name, digits in (("loss", 5), ("ndcg_at_10", 5)):
                values = np.array([float(row[name]) for row in chosen])
                cells += [f"{values.mean():.{digits}f}", f"{values.std(ddof=1):.{digits}f}"]
            body.append(cells)
        head = ["window, pairs", "val/loss", "sd of seeds", "val/ndcg_at_10", "sd of seeds "]
        write_whole(
            HERE / "window.md", lambda partial: partial.write_text("\n".join(table(head, body, "rrrrr")) + "\n")
        )


def _write_text(path: Path, lines: list[str]) -> None:
    write_whole(path, lambda partial: partial.write_text("\n".join(lines) + "\n", encoding="utf-8"))


def _draw(rows: list[dict[str, str]]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for stage in dict.fromkeys(row["stage"] for row in rows):
        points = sorted((int(row["plays"]), float(row["anonymous"])) for row in rows if row["stage"] == stage)
        axes.plot(*zip(*points, strict=True), "o-", label=stage)
    axes.set(xscale="log", xlabel="plays", ylabel="memory without mapped files, GB", ylim=(0, None))
    axes.legend()
    figure.savefig(HERE / "memory.png", dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["memory", "window", "report"])
    parser.add_argument("--plays", type=int, nargs="+", default=[1_000_000, 3_000_000, 10_000_000])
    parser.add_argument("--sessions", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        if given.part == "memory":
            measure_memory(given.plays, Path(folder))
        elif given.part == "window":
            measure_window(given.sessions, given.epochs, Path(folder))
    report()


if __name__ == "__main__":
    main()
