"""What does it cost to give rare tracks no embedding (`model.min_plays`)? On the validation sessions of yes.

    SEGUE_DATA=<folder> python experiments/scale/min_plays.py    min_plays.csv and min_plays.md

Cost: about a minute for each run on an idle core. Runs that the file has are not repeated.
"""

import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.scale.shards import write_rows
from src.runs.atomic import write_record, write_whole
from src.runs.provenance import ROOT, provenance
from src.terminal.markdown import table

HERE = Path(__file__).parent
MIN_PLAYS, SEEDS = (1, 5, 20), (1, 2)
METRICS = ("val/ndcg_at_10", "val/recall_at_10", "val/loss")
WORDS = (
    "datamodule=yes",
    "context=last",
    "logger=none",
    "callbacks.plots=null",
    "callbacks.export=null",
    "callbacks.ranking.max_test_queries=1000",
)


def measure() -> None:
    """A row for each number and seed: the best epoch of validation, and how many tracks have an embedding."""
    import torch

    path = HERE / "min_plays.csv"
    rows: list[dict[str, Any]] = list(csv.DictReader(path.open())) if path.exists() else []
    for seed in SEEDS:
        for least in MIN_PLAYS:
            if any((int(row["min_plays"]), int(row["seed"])) == (least, seed) for row in rows):
                continue
            with tempfile.TemporaryDirectory(prefix="scale-") as folder:
                run = Path(folder) / "run"
                words = [*WORDS, f"model.min_plays={least}", f"seed={seed}", f"hydra.run.dir={run}"]
                subprocess.run([sys.executable, str(ROOT / "train.py"), *words], check=True, stdout=subprocess.DEVNULL)
                metrics = json.loads((run / "metrics.json").read_text())
                best = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True, mmap=True)["state_dict"]
            known = int((best["scorer.track.weight"] != 0).any(1).sum())
            rows.append({"min_plays": least, "seed": seed, "embeddings": known, **{n: metrics[n] for n in METRICS}})
            print(rows[-1], flush=True)
            write_rows(path, rows)
    write_record(provenance(), HERE / "min_plays_provenance.json")


def report() -> None:
    """The table: means of the seeds."""
    rows = list(csv.DictReader((HERE / "min_plays.csv").open()))
    body = []
    for least in MIN_PLAYS:
        own = [row for row in rows if int(row["min_plays"]) == least]
        if own:
            means = (f"{sum(float(row[name]) for row in own) / len(own):.4f}" for name in METRICS)
            body.append([str(least), f"{int(own[0]['embeddings']):,}", str(len(own)), *means])
    lines = table(["min_plays", "tracks with an embedding", "seeds", *METRICS], body, "rrrrrr")
    write_whole(HERE / "min_plays.md", lambda partial: partial.write_text("\n".join(lines) + "\n"))


if __name__ == "__main__":
    measure()
    report()
