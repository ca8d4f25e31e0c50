"""What tracking costs: the same run with MLflow and without, by turns.

python experiments/tracking/study.py          about 12 minutes
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))
from src.runs.atomic import write_record  # noqa: E402
from src.runs.provenance import provenance  # noqa: E402

WAYS = {"none": ["logger=none"], "mlflow": ["logger=mlflow"]}
RUN = ["callbacks.early_stopping.patience=1000"]


def seconds(folder: Path, name: str, epochs: int, words: list[str]) -> float:
    """Wall time of one run, from the shell's point of view."""
    command = [sys.executable, str(ROOT / "train.py"), *RUN, f"trainer.max_epochs={epochs}", *words]
    started = time.perf_counter()
    subprocess.run([*command, f"hydra.run.dir={name}"], cwd=folder, check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=40, help="about a minute on two cores")
    asked = parser.parse_args()
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for way, words in WAYS.items():  # makes the logs of the world, and the store
            seconds(folder, f"warm-{way}", 1, words)
        for number in range(asked.rounds):
            for way, words in sorted(WAYS.items(), reverse=bool(number % 2)):
                times[way].append(seconds(folder, f"{way}-{number}", asked.epochs, words))
                print(f"{way:7} {times[way][-1]:.1f} s", flush=True)
        per_epoch = json.loads((folder / "mlflow-0" / "metrics.json").read_text())
    ratios = np.array(times["mlflow"]) / np.array(times["none"])
    record = {
        "provenance": provenance(ROOT),
        "epochs": asked.epochs,
        "seconds": times,
        "fit_seconds_with_mlflow": per_epoch["fit_seconds"],
        "ratio_median": float(np.median(ratios)),
        "ratio_lowest": float(ratios.min()),
        "ratio_highest": float(ratios.max()),
    }
    write_record(record, HERE / "results.json")
    print(
        f"with MLflow a run takes {np.median(ratios):.3f} times as long ({ratios.min():.3f} to {ratios.max():.3f} in "
        f"{asked.rounds} pairs of runs; median {np.median(times['none']):.0f} s without)"
    )


if __name__ == "__main__":
    main()
